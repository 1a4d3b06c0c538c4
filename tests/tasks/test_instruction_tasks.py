"""Instruction tasks: every prompt can be met, says what is checked, and shares nothing with the other split."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import fields

import pytest

from rewards.instructions import instructions as verify
from rlcore.errors import TaskError
from rlcore.tasks.instruction_material import MATERIAL, topic_word
from rlcore.tasks.instructions import KINDS, instructions
from rlcore.types import Task

PLAIN = (
    "the quiet days pass slowly while we stay near water to talk about old times we had here long ago "
    "they often sing songs when evening comes then walk home along a narrow path under tall dark trees",
    "With it this is for you, and as you like.",
)


def solve(task: Task, topic: str = "") -> str:
    """A text that meets the constraints, of the right length, from the rules alone."""
    for words in range(5, 40):
        text = write(task, " ".join([*PLAIN[0].split()[:words], topic]).strip())
        least, most = task.columns["kwargs"][-2:]
        if least["num_words"] <= len(re.findall(r"\w+", text)) < most["num_words"]:
            return text
    raise AssertionError(f"no length fits: {task.prompt}")


def write(task: Task, sentence: str) -> str:
    rules = dict(zip(task.columns["instruction_id_list"], task.columns["kwargs"], strict=True))
    letter = rules.get("keywords:letter_frequency", {}).get("letter", "")
    sentence, filler = (text.replace(letter, "") for text in (sentence, "they rest"))
    parts = [sentence]

    def argument(rule: str, name: str) -> object:
        return rules.get(rule, {}).get(name)

    parts[0] += " " + " ".join(argument("keywords:existence", "keywords") or [])
    repeated = argument("keywords:frequency", "keyword")
    if repeated:
        parts[0] += f" {repeated}" * argument("keywords:frequency", "frequency")
    parts[0] += " [the day]" * (
        argument("detectable_content:number_placeholders", "num_placeholders") or 0
    )
    parts[0] += " LOUD" * (
        argument("change_case:capital_word_frequency", "capital_frequency") or 0
    )
    for rule, name, form in (
        ("detectable_format:number_bullet_lists", "num_bullets", "* {}"),
        ("detectable_format:number_highlighted_sections", "num_highlights", "*{}*"),
        ("detectable_format:multiple_sections", "num_sections", "Section {n} {}"),
    ):
        count = argument(rule, name)
        if count:
            texts = [parts[0], *[filler] * (count - 1)]
            parts = [form.format(text, n=n) for n, text in enumerate(texts, start=1)]
    text = "\n".join(parts)
    paragraphs = argument("length_constraints:number_paragraphs", "num_paragraphs")
    if paragraphs:
        text = "\n***\n".join([text, *[filler] * (paragraphs - 1)])
    if "detectable_format:title" in rules:
        text = f"<<days>>\n{text}"
    if "detectable_content:postscript" in rules:
        text += "\nP.S. bye"
    text += f" {argument('startend:end_checker', 'end_phrase') or ''}"
    first = argument("length_constraints:nth_paragraph_first_word", "first_word")
    text = f"{first} {text}" if first else text
    if "change_case:english_capital" in rules:
        text = text.upper()
    if "change_case:english_lowercase" in rules:
        text = text.lower()
    if "startend:quotation" in rules:
        text = f'"{text.strip()}"'
    if "detectable_format:json_format" in rules:
        text = json.dumps({"text": text})
    return text.strip()


@pytest.mark.parametrize("split", ["train", "heldout"])
@pytest.mark.parametrize("constraints", [(1,), (2, 3)])
def test_every_prompt_can_be_met(split: str, constraints: tuple[int, ...]) -> None:
    for task in instructions(split=split, size=150, constraints=constraints):
        verdict = verify(solve(task), **task.columns)
        assert verdict.value == 1, (task.prompt, verdict.reason, solve(task))


def test_a_plain_text_fails_and_a_short_one_too() -> None:
    """Otherwise there is nothing to learn, or what is learned is to say less."""
    plain = f"{' '.join(PLAIN[0].split()[:20]).capitalize()}. {PLAIN[1]}"
    failed = Counter()
    for task in instructions(size=20 * len(KINDS)):
        failed[task.category] += verify(plain, **task.columns).value == 0
        assert verify(solve(task).split()[-1], **task.columns).value == 0
        assert verify(f"{solve(task)} {PLAIN[0]} {PLAIN[0]}", **task.columns).value == 0
    assert set(failed) == set(KINDS)
    assert min(failed.values()) > 0


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_with_topic_a_text_has_to_name_it(split: str) -> None:
    kinds = [kind for kind in KINDS if kind != "letters"]  # the word may have the letter
    with_topic = instructions(split=split, size=150, kinds=kinds, topic=True)
    for task, without in zip(with_topic, instructions(split=split, size=150, kinds=kinds), strict=True):
        (word,) = task.columns["kwargs"][-1]["keywords"]
        assert task.prompt == without.prompt and word in task.prompt.split(",")[0].split()[-1]
        text = solve(without)
        assert verify(text, **task.columns).value == (word in text.lower())
        named = verify(solve(without, word), **task.columns)
        assert named.value == 1, (task.prompt, word, named.reason)


def test_the_word_of_a_topic_is_found_in_both_numbers() -> None:
    words = {"ferries": "ferr", "tomatoes": "tomato", "glass": "glass", "robots": "robot", "bees": "bees"}
    for topic, word in words.items():
        assert topic_word(f"some {topic}") == word


def test_the_prompt_says_what_is_checked() -> None:
    for task in instructions(size=200, constraints=(1, 2)):
        for arguments in task.columns["kwargs"]:
            if arguments.get("relation") == "less than":
                # the rule's bound is the first number that is too many
                assert f"to {arguments['num_words'] - 1} words" in task.prompt
                continue
            for name, value in arguments.items():
                # one highlighted part may be several, and "one paragraph" is a word
                unsaid = ("num_highlights", "num_paragraphs", "nth_paragraph")
                if not name.endswith("relation") and name not in unsaid:
                    for text in value if isinstance(value, list) else [value]:
                        assert str(text) in task.prompt, (name, task.prompt)


def test_splits_share_nothing() -> None:
    train, held_out = MATERIAL["train"], MATERIAL["heldout"]
    for name in [field.name for field in fields(train)]:
        assert not set(getattr(train, name)) & set(getattr(held_out, name))


def test_a_task_is_a_function_of_its_number_and_seed() -> None:
    assert instructions(size=40)[7] == instructions(size=5000)[7]
    assert instructions(size=40)[7].prompt != instructions(size=40, seed=1)[7].prompt


def test_categories() -> None:
    assert Counter(task.category for task in instructions(size=2 * len(KINDS))) == dict.fromkeys(KINDS, 2)
    levels = instructions(size=40, constraints=(2, 3))
    assert levels.column("category") == [task.category for task in levels]
    assert {task.category for task in levels} == {"2 constraints", "3 constraints"}
    for task in levels:
        assert len(task.columns["kwargs"]) == int(task.category[0]) + 2
    few = instructions(size=20, kinds=["title", "no_comma"], constraints=(2,), word_range=False)
    for task in few:
        assert set(task.columns["instruction_id_list"]) == {
            "detectable_format:title",
            "punctuation:no_comma",
        }


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"split": "test"}, "no split 'test'"),
        ({"size": 0}, "not size=0"),
        ({"size": 10**9}, "up to 2,000,000 tasks"),
        ({"kinds": ["titel"]}, "did you mean 'title'"),
        ({"constraints": (9,)}, "counts from 1 to"),
        ({"constraints": ()}, "counts from 1 to"),
        ({"kinds": ["lowercase", "capitals"], "constraints": (2,)}, "counts from 1 to 1"),
    ],
)
def test_bad_settings_are_one_sentence(settings: dict, sentence: str) -> None:
    with pytest.raises(TaskError, match=sentence):
        instructions(**settings)
