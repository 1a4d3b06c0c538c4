"""Preference pairs from scored answers: what is paired, where a wrong answer is cut, and how often who wins."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from rlcore.credit.pairs import answer_pairs, first_pit_pairs, shared_prefix_pairs, short_pairs
from rlcore.errors import RecipeError
from rlcore.types import Group, Rollout, Span, StepValues, Task, Verdict
from tests.credit.chains import interleaved

PROMPT = [1, 2]


def rollout(id: str, steps: str) -> Rollout:
    """An answer whose steps are words; a token a letter."""
    ids = [ord(letter) for letter in steps if letter != " "]
    return Rollout.from_tokens(
        id=id, task_id="t", token_ids=PROMPT + ids, mask=[False] * 2 + [True] * len(ids), logprobs=[0.0] * (2 + len(ids)),
        text=steps, finish="stop", version=0,
    )  # fmt: skip


def group(steps: dict[str, StepValues] | None = None, **answers: tuple[str, float | None]) -> Group:
    verdicts = [
        Verdict(value=v) if v is not None else Verdict(value=None, status="crashed")
        for _, v in answers.values()
    ]
    return Group(
        task=Task(id="t", prompt="?"),
        rollouts=[rollout(id, text) for id, (text, _) in answers.items()],
        verdicts=verdicts,
        step_values=steps or {},
    )


def values(id: str, steps: str, *q: float | None) -> dict[str, StepValues]:
    ends = [sum(map(len, steps.split()[:i])) for i in range(len(steps.split()) + 1)]
    spans = [Span(a, b) for a, b in zip(ends, ends[1:], strict=False)]
    return {id: StepValues(rollout_id=id, spans=spans, values=list(q))}


def texts(pairs) -> list[tuple[str, str]]:
    pairs = list(pairs)
    assert all(pair.prompt_ids == PROMPT for pair in pairs)
    return [
        ("".join(map(chr, pair.chosen_ids)), "".join(map(chr, pair.rejected_ids))) for pair in pairs
    ]


def test_whole_answers_take_turns_and_each_text_comes_once() -> None:
    answers = group(
        a=("ab", 1), b=("cd", 0), c=("ef", 1), d=("gh", 0), e=("cd", 0), f=("ij", None), g=("kl", 0)
    )
    assert texts(answer_pairs(answers)) == [("ab", "cd"), ("ef", "gh"), ("ab", "kl")]
    assert not texts(answer_pairs(group(a=("ab", 0), b=("cd", 0)))) and not texts(
        answer_pairs(group(a=("ab", 1)))
    )


def test_the_shortest_correct_answer_beats_longer_wrong_ones_and_much_longer_correct_ones() -> None:
    answers = group(
        long=("abcdefgh", 1), short=("abcd", 1), near=("abcde", 1), edge=("abcdef", 1), tiny=("x", 0), wrong=("uvwxyz", 0), same=("qrst", 0)
    )
    assert texts(short_pairs(answers)) == [("abcd", "uvwxyz"), ("abcd", "abcdefgh"), ("abcd", "abcdef")]
    assert texts(short_pairs(answers, ratio=2.0)) == [("abcd", "uvwxyz"), ("abcd", "abcdefgh")]
    assert not texts(short_pairs(group(a=("ab", 0), b=("cd", 0))))
    assert not texts(short_pairs(group(a=("ab", 1))))


def test_a_wrong_answer_is_cut_after_its_first_pit() -> None:
    steps = values("bad", "ab xy zz", 0.5, 0.6, 0.0, 0.0) | values("flat", "qq rr", 0.05, 0.0, 0.0)
    answers = group(
        steps, good=("ab cd", 1), bad=("ab xy zz", 0), flat=("qq rr", 0), unknown=("uu", 0)
    )
    assert texts(first_pit_pairs(answers)) == [
        ("abcd", "abxy")
    ]  # planted at step 2; not "ab", not the whole answer
    assert texts(first_pit_pairs(answers, min_gap=0.01)) == [
        ("abcd", "abxy"),
        ("abcd", "qq"),
    ]
    late = values("bad", "ab xy zz", 0.5, 0.6, 0.4, 0.0)
    assert texts(first_pit_pairs(replace(answers, step_values=late))) == [("abcd", "abxyzz")]


def test_pairs_that_share_a_prefix_differ_in_one_step() -> None:
    steps = (
        values("a", "ab cd ee", 0.5, 0.6, 0.9, 1.0) | values("b", "ab xy ff", 0.5, 0.6, 0.1, 0.0)
        | values("c", "ab xy gg", 0.5, 0.6, 0.1, 0.0) | values("d", "hh", 0.5, 0.0)
    )  # fmt: skip
    answers = group(steps, a=("ab cd ee", 1), b=("ab xy ff", 0), c=("ab xy gg", 0), d=("hh", 0))
    found = texts(shared_prefix_pairs(answers))
    assert found == [("abcd", "abxy"), ("ab", "hh")]  # once each; ff and gg are worth the same
    assert texts(shared_prefix_pairs(answers, min_gap=0.7)) == [("abcd", "abxy")]


def test_bradley_terry_labels_follow_the_sigmoid() -> None:
    steps = values("a", "ab", 0.5, 1.0) | values("b", "xy", 0.5, 0.0)
    answers = group(steps, a=("ab", 1), b=("xy", 0))
    rng, n = random.Random(0), 4000
    wins = sum(texts(shared_prefix_pairs(answers, draw=rng)) == [("ab", "xy")] for _ in range(n))
    assert (
        abs(wins / n - 0.7311) < 0.03
    )  # sigmoid(1), four standard errors; always taking the better would give 1


def test_what_is_correct_is_decided_by_the_first_reward() -> None:
    """An aggregate that ranks gives a right completion with a low reward-model score a low value."""
    answers = group(a=("ab", 0), b=("cd", 0))
    verdicts = [
        Verdict(value=-0.3, parts={"math": 1.0, "model": -2.0}),
        Verdict(value=-0.9, parts={"math": 0.0, "model": 3.0}),
    ]
    assert texts(answer_pairs(replace(answers, verdicts=verdicts))) == [("ab", "cd")]


def test_rollouts_of_several_turns_are_refused() -> None:
    with pytest.raises(RecipeError, match="only single-turn rollouts, and rollout 'chain#1' has 4"):
        list(answer_pairs(interleaved()))
