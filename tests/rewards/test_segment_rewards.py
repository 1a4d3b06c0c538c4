"""Rewards for predicted text: strict, prefix, span, token; no markers, no reward."""

from __future__ import annotations

import doctest
import random

import pytest

import rewards.segment
from rewards.segment import next_token, normalised, prediction, segment, segment_prefix, span
from rlcore import Verdict

REFERENCE = ["It rains.", "We go home!", "The end."]


def value(verdict: float | Verdict) -> float:
    return verdict.value if isinstance(verdict, Verdict) else verdict


def test_the_examples_in_the_docstrings_hold() -> None:
    result = doctest.testmod(rewards.segment)
    assert result.attempted >= 6 and not result.failed


@pytest.mark.parametrize(
    ("said", "strict", "prefix"),
    [
        ("it rains", 1, 1), ("It rains. We go home!", 0, 1), ("It rains we go home the END", 0, 1), ("It", 0, 0),
        ("It rains. We", 0, 0), ("It rains. We go home! The end. More.", 0, 0), ("We go home!", 0, 0), ("!!", 0, 0),
    ],
)  # fmt: skip
def test_strict_and_prefix(said: str, strict: float, prefix: float) -> None:
    completion = f"I think so. <next>{said}</next>"
    assert value(segment(completion, "It rains.")) == strict
    assert value(segment_prefix(completion, "It rains.", reference=REFERENCE)) == prefix


def test_prefix_is_never_below_strict_and_above_it_where_predictions_span_segments() -> None:
    rng = random.Random(0)
    answers = [
        f"<next>{' '.join(REFERENCE[: rng.randint(0, 3)])}{rng.choice(['', ' x'])}</next>"
        for _ in range(200)
    ]
    strict = [value(segment(completion, REFERENCE[0])) for completion in answers]
    prefix = [
        value(segment_prefix(completion, REFERENCE[0], reference=REFERENCE))
        for completion in answers
    ]
    assert (
        all(a <= b for a, b in zip(strict, prefix, strict=True)) and sum(strict) < sum(prefix) < 200
    )


@pytest.mark.parametrize(
    "completion",
    [
        "It rains.",
        "<next>It rains.",
        "<next></next>",
        "<next>  </next>",
        "</next>It rains.<next>",
        "",
    ],
)
@pytest.mark.parametrize(
    "reward",
    [
        segment,
        segment_prefix,
        next_token,
        lambda completion, answer: span(completion, answer, tag="next"),
    ],
)
def test_without_a_prediction_nothing_is_earned(completion: str, reward) -> None:
    verdict = reward(completion, "It rains.")
    assert isinstance(verdict, Verdict) and (verdict.value, verdict.status) == (0.0, "wrong-format")


def test_the_last_prediction_counts_and_an_open_one_does_not() -> None:
    assert prediction("<next>a</next> no, <next>b\nc</next>", "next") == "b\nc"
    assert (
        prediction("<next>a <next>b</next>", "next") == "b"
        and prediction("<next>a</next> <next>b", "next") == "a"
    )


@pytest.mark.parametrize(("one", "other"), [("3.5", "35"), ("7-3", "73"), ("2+2", "22")])
def test_numbers_keep_what_makes_them_differ(one: str, other: str) -> None:
    assert normalised(one) != normalised(other)


def test_spans_and_tokens_are_exact() -> None:
    assert (
        span("<span>New  York</span>", "New York") == 1
        and span("<span>York</span>", "New York") == 0
    )
    assert (
        next_token("<next> the </next>", " the") == 1
        and next_token("<next>The</next>", " the") == 0
    )
