"""Instructions that a program can check, made on the spot: short texts on a topic, each under constraints of IFEval.

    prompt "Write two sentences about chess, 20 to 45 words in all. Do not use any commas."    category "no_comma"
    columns instruction_id_list and kwargs, for the reward `instructions`: punctuation:no_comma and, twice,
    length_constraints:number_words

The names and arguments of the constraints are those of IFEval (arXiv:2311.07911); the sentences are not. Every prompt also asks
for a number of words within bounds, and that counts like the rest. Without a lower bound a model learns to meet constraints by
saying less; without an upper one it learns to go on until it is cut. With `topic` a text also has to name its topic: without it
a model of 135M parameters learned to write dates, which have no commas and few letters.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rlcore.errors import TaskError, brief
from rlcore.plugin import did_you_mean
from rlcore.tasks.instruction_material import MATERIAL, Material, topic_word
from rlcore.tasks.lazy import LazyTasks, check_size
from rlcore.types import Task

_TRIES = 20

Ask = Callable[[random.Random, Material], tuple[str, dict[str, Any]]]
"""-> the sentence of the prompt, and the arguments of the rule."""


@dataclass(frozen=True)
class Kind:
    """A kind of constraint: how it is asked for, and how IFEval names it."""

    rule: str
    aspects: frozenset[str]
    """Constraints of one prompt share no aspect: they would contradict each other."""
    ask: Ask


def _kind(rule: str, aspects: str, ask: Ask) -> Kind:
    return Kind(rule, frozenset(aspects.split()), ask)


def _fixed(sentence: str, **arguments: Any) -> Ask:
    return lambda rng, material: (sentence, dict(arguments))


def _counted(sentence: str, count_argument: str, **others: Any) -> Ask:
    """A sentence with {count}, which is one of the split's counts and an argument of the rule."""

    def ask(rng: random.Random, material: Material) -> tuple[str, dict[str, Any]]:
        count = rng.choice(material.counts)
        return sentence.format(count=count), {count_argument: count, **others}

    return ask


def _end_phrase(rng: random.Random, material: Material) -> tuple[str, dict[str, Any]]:
    phrase = rng.choice(material.endings)
    return f"Finish with exactly this phrase: {phrase}", {"end_phrase": phrase}


def _first_word(rng: random.Random, material: Material) -> tuple[str, dict[str, Any]]:
    word = rng.choice(material.openers)
    arguments = {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": word}
    return f"Write one paragraph and begin it with the word {word}.", arguments


def _letters(rng: random.Random, material: Material) -> tuple[str, dict[str, Any]]:
    letter, limit = rng.choice(material.letters), rng.choice(material.counts) + 1
    arguments = {"letter": letter, "let_frequency": limit, "let_relation": "less than"}
    return f"Use the letter {letter} less than {limit} times.", arguments


def _keywords(rng: random.Random, material: Material) -> tuple[str, dict[str, Any]]:
    first, second = rng.sample(material.words, 2)
    return f"Use the words {first} and {second}.", {"keywords": [first, second]}


def _keyword_frequency(rng: random.Random, material: Material) -> tuple[str, dict[str, Any]]:
    word, count = rng.choice(material.words), rng.choice(material.counts)
    arguments = {"keyword": word, "frequency": count, "relation": "at least"}
    return f"Use the word {word} at least {count} times.", arguments


def _forbidden_words(rng: random.Random, material: Material) -> tuple[str, dict[str, Any]]:
    word = rng.choice(material.frequent)
    return f"Do not use the word {word}.", {"forbidden_words": [word]}


KINDS: dict[str, Kind] = {
    "no_comma": _kind(
        "punctuation:no_comma",
        "punctuation",
        _fixed("Do not use any commas."),
    ),
    "lowercase": _kind(
        "change_case:english_lowercase",
        "case",
        _fixed("Use only lowercase letters, no capital letters anywhere, like this."),
    ),
    "capitals": _kind(
        "change_case:english_capital",
        "case",
        _fixed("Write everything in capital letters."),
    ),
    "capital_words": _kind(
        "change_case:capital_word_frequency",
        "case",
        _counted(
            "Write at least {count} words in capital letters.",
            "capital_frequency",
            capital_relation="at least",
        ),
    ),
    "quotation": _kind(
        "startend:quotation",
        "frame layout",
        _fixed("Put the whole answer in double quotation marks."),
    ),
    "end_phrase": _kind("startend:end_checker", "frame", _end_phrase),
    "postscript": _kind(
        "detectable_content:postscript",
        "frame",
        _fixed("Add a postscript at the end that starts with P.S.", postscript_marker="P.S."),
    ),
    "json": _kind(
        "detectable_format:json_format",
        "frame layout case punctuation content",
        _fixed('Format it as JSON, such as {"text": "..."}.'),
    ),
    "title": _kind(
        "detectable_format:title",
        "title",
        _fixed("Give it a title in double angular brackets, such as <<a fine day>>."),
    ),
    "bullets": _kind(
        "detectable_format:number_bullet_lists",
        "layout",
        _counted(
            "Answer with exactly {count} bullet points that begin with *.",
            "num_bullets",
        ),
    ),
    "highlights": _kind(
        "detectable_format:number_highlighted_sections",
        "layout",
        _counted(
            "Highlight at least {count} parts with asterisks, *like this*.", "num_highlights"
        ),
    ),
    "sections": _kind(
        "detectable_format:multiple_sections",
        "layout case",
        _counted(
            "Write {count} parts and begin them with Section 1, Section 2 and so on.",
            "num_sections",
            section_spliter="Section",
        ),
    ),
    "paragraphs": _kind(
        "length_constraints:number_paragraphs",
        "layout",
        _counted(
            "Write {count} paragraphs, with a line of three asterisks, ***, between them.",
            "num_paragraphs",
        ),
    ),
    "placeholders": _kind(
        "detectable_content:number_placeholders",
        "content",
        _counted(
            "Use at least {count} placeholders in square brackets, such as [name].",
            "num_placeholders",
        ),
    ),
    "first_word": _kind(
        "length_constraints:nth_paragraph_first_word",
        "frame layout case",
        _first_word,
    ),
    "letters": _kind("keywords:letter_frequency", "content words", _letters),
    "keywords": _kind("keywords:existence", "words", _keywords),
    "keyword_frequency": _kind("keywords:frequency", "words", _keyword_frequency),
    "forbidden_words": _kind("keywords:forbidden_words", "words", _forbidden_words),
}
"""In this order they take turns."""


def instructions(
    *,
    split: Literal["train", "heldout"] = "train",
    size: int = 10_000,
    seed: int = 0,
    constraints: Sequence[int] = (1,),
    kinds: Sequence[str] = (),
    word_range: bool = True,
    topic: bool = False,
) -> Sequence[Task]:
    """Prompts for a short text under constraints, with the columns that the reward `instructions` reads.

    Task i is a function of (seed, split, i) and the settings. constraints: how many a prompt has, one of the counts, drawn evenly;
    its category is the kind of constraint where it has one, else "2 constraints". kinds: names of `KINDS`, by default all; they
    take turns. word_range: every prompt also gives bounds for the number of words. topic: the text must also have the topic's
    last word (keywords:existence; the prompt is the same, and the singular of a plural counts). "heldout" has other topics, words,
    phrases and numbers than "train". Raises `TaskError`.
    """
    if split not in MATERIAL:
        raise TaskError(f"instructions has no split {split!r}: choose 'train' or 'heldout'")
    if size < 1:
        raise TaskError(f"instructions makes 1 task or more, not size={size}")
    check_size("instructions", size)
    names = list(kinds) or list(KINDS)
    for name in names:
        if name not in KINDS:
            near = did_you_mean(str(name), KINDS)
            raise TaskError(
                f"instructions knows no kind {brief(name)}{near}: {', '.join(KINDS)}"
            )
    most = len(_most_compatible(names))
    if not constraints or not 1 <= min(constraints) <= max(constraints) <= most:
        raise TaskError(
            f"instructions.constraints must be counts from 1 to {most}, of constraints (of the kinds "
            f"{', '.join(names)}) that do not contradict each other; got {brief(list(constraints))}"
        )
    counts = tuple(constraints)

    def draw_category(i: int) -> tuple[str, int, random.Random]:
        rng = random.Random(f"{seed}/{split}/{i}")
        count = rng.choice(counts)
        return names[i % len(names)] if count == 1 else f"{count} constraints", count, rng

    def make(i: int) -> Task:
        category, count, rng = draw_category(i)
        chosen = _choose(rng, names[i % len(names)], count, names)
        prompt, columns = _write(rng, MATERIAL[split], chosen, word_range, topic)
        return Task(
            id=f"instructions/{split}/{seed}/{i}",
            prompt=prompt,
            category=category,
            columns=columns,
        )

    def column(name: str) -> list[str] | None:
        return [draw_category(i)[0] for i in range(size)] if name == "category" else None

    return LazyTasks(size, make, column=column)


def _write(
    rng: random.Random,
    material: Material,
    chosen: Sequence[str],
    word_range: bool,
    name_topic: bool,
) -> tuple[str, dict[str, Any]]:
    """The prompt that asks for these kinds of constraints, and the columns that name them."""
    sentences, rules, arguments = [], [], []
    for name in chosen:
        sentence, values = KINDS[name].ask(rng, material)
        sentences.append(sentence)
        rules.append(KINDS[name].rule)
        arguments.append(values)
    topic = rng.choice(material.topics)
    request = f"Write two sentences about {topic}"
    if word_range:
        least, most = rng.choice(material.word_ranges)
        request += f", {least} to {most} words in all"
        rules += ["length_constraints:number_words"] * 2
        arguments.append({"relation": "at least", "num_words": least})
        arguments.append({"relation": "less than", "num_words": most + 1})
    if name_topic:
        rules.append("keywords:existence")
        arguments.append({"keywords": [topic_word(topic)]})
    prompt = " ".join([f"{request}.", *sentences])
    return prompt, {"instruction_id_list": rules, "kwargs": arguments}


def _choose(rng: random.Random, first: str, count: int, names: Sequence[str]) -> list[str]:
    """`count` kinds without a common aspect, with `first` among them if some draw of the others allows it."""
    for _ in range(_TRIES):
        chosen = _compatible([first, *rng.sample(names, len(names))])
        if len(chosen) >= count:
            return chosen[:count]
    return _most_compatible(names)[:count]


def _compatible(names: Sequence[str]) -> list[str]:
    """The names in order, without those that share an aspect with an earlier one."""
    chosen: list[str] = []
    taken: set[str] = set()
    for name in names:
        if not taken & KINDS[name].aspects:
            chosen.append(name)
            taken |= KINDS[name].aspects
    return chosen


def _most_compatible(names: Sequence[str]) -> list[str]:
    """As many as can stand together: kinds with few aspects first, since they leave room for others."""
    return _compatible(sorted(names, key=lambda name: len(KINDS[name].aspects)))
