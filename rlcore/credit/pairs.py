"""Preference pairs from the scored completions of a task.

    answers        a correct completion        against  a wrong completion, whole
    best_worst     the completion of highest reward  against  that of the lowest
    short          the shortest correct completion   against  longer ones, wrong or correct
    first_pit      a correct completion        against  a wrong completion up to its first pit, nothing after it
    shared_prefix  prefix + the better step    against  prefix + the worse step

A builder is a function `(group, **parameters) -> pairs`; one of your own is named by its place,
`pairs: my_pairs.py:function`, and is offered what it names of `BUILDER_CONTEXT`. `first_pit`
and `shared_prefix` read the group's step values (arXiv 2406.14532): Q_0, before the first step,
and Q_i after each step. The first pit is the first step after which the value is lowest. Pairs
that share a prefix say nothing about it: in the DPO gradient its tokens cancel exactly, where
the other two also push down whatever good steps the rejected side begins with (`answer_pairs`
most). Pairs labelled by Bradley-Terry with the difference of advantages make the optimum of DPO
that of advantage-weighted regression (theorem 6.1 of the paper).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, cycle
from typing import Annotated

from pydantic import Field, NonNegativeFloat

from rlcore.credit.group import scored_rollouts
from rlcore.types import Group, Rollout, StepValues


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two continuations of a prompt, the first to be preferred."""

    task_id: str
    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    margin: float | None = None
    """By how much the first is better, in rewards, where that is known."""


PAIRS = {
    "answers": "rlcore.credit.pairs:answer_pairs",
    "best_worst": "rlcore.credit.pairs:best_worst_pairs",
    "short": "rlcore.credit.pairs:short_pairs",
    "first_pit": "rlcore.credit.pairs:first_pit_pairs",
    "shared_prefix": "rlcore.credit.pairs:shared_prefix",
    "delta": "rlcore.credit.delta_pairs:delta_pairs",
    "rise": "rlcore.credit.rise_pairs:rise_pairs",
}
"""Name in a recipe -> a function `(group, **parameters) -> pairs`."""

BUILDER_CONTEXT = ("draw", "encode", "decode", "groups_of")
"""What a builder is offered by name: `random.Random` of this task; text -> tokens; tokens ->
text; and a function from what `data` may name to the groups stored there, by task id.
"""


def answer_pairs(group: Group) -> Iterator[Pair]:
    """Each distinct wrong completion with one of the distinct correct ones, which take
    turns.
    """
    correct, wrong = _correct_and_wrong(group)
    if not correct:
        return
    for chosen, rejected in zip(cycle(correct), wrong, strict=False):
        yield _pair(chosen, chosen.completion_ids, rejected.completion_ids)


def best_worst_pairs(group: Group, *, min_gap: NonNegativeFloat = 0.0) -> Iterator[Pair]:
    """The completion of the highest total reward with that of the lowest, for rewards that are
    no verdicts, such as a reward model's.

    min_gap: least difference of their rewards; equal ones never make a pair.
    """
    scored = scored_rollouts(group)
    if not scored:
        return
    best, high = max(scored, key=lambda pair: pair[1].value)
    worst, low = min(scored, key=lambda pair: pair[1].value)
    margin = high.value - low.value
    if margin > 0 and margin >= min_gap:
        yield _pair(best, best.completion_ids, worst.completion_ids, margin)


def short_pairs(group: Group, *, ratio: Annotated[float, Field(ge=1)] = 1.5) -> Iterator[Pair]:
    """The shortest correct completion against each longer wrong one, and against each correct one that is
    at least `ratio` times as long: long2short DPO (Kimi k1.5, arXiv 2501.12599, 2.4).

    Lengths are in tokens.
    """
    correct, wrong = _correct_and_wrong(group)
    if not correct:
        return
    chosen = min(correct, key=_length)
    longer = [rollout for rollout in wrong if _length(rollout) > _length(chosen)]
    for rollout in correct:
        if rollout is not chosen and _length(rollout) >= ratio * _length(chosen):
            longer.append(rollout)
    for rejected in longer:
        yield _pair(chosen, chosen.completion_ids, rejected.completion_ids)


def _length(rollout: Rollout) -> int:
    return len(rollout.completion_ids)


def first_pit_pairs(group: Group, *, min_gap: NonNegativeFloat = 0.1) -> Iterator[Pair]:
    """Each distinct wrong completion, cut after its first pit, with one of the correct ones,
    which take turns.

    A completion without step values, or whose values span less than `min_gap`, has no pit to
    speak of and is left out.

    min_gap: least range of a completion's step values.
    """
    correct, wrong = _correct_and_wrong(group)
    if not correct:
        return
    next_correct = cycle(correct)
    for rejected in wrong:
        steps = group.step_values.get(rejected.id)
        pit = None if steps is None else steps.pit(least_spread=min_gap)
        if steps is None or pit is None:
            continue
        chosen = next(next_correct)
        end = steps.spans[pit].end
        yield _pair(chosen, chosen.completion_ids, rejected.completion_ids[:end])


def shared_prefix(
    group: Group,
    *,
    draw: random.Random,
    min_gap: NonNegativeFloat = 0.1,
    bradley_terry: bool = False,
) -> Iterator[Pair]:
    """Every two completions that agree up to some step and then differ: the prefix with the
    better step against the other.

    min_gap: least difference of the values of the two steps.
    bradley_terry: draw the winner with probability sigmoid(difference) instead of taking the
    better.
    """
    return shared_prefix_pairs(group, min_gap=min_gap, draw=draw if bradley_terry else None)


def shared_prefix_pairs(
    group: Group, *, min_gap: NonNegativeFloat = 0.1, draw: random.Random | None = None
) -> Iterator[Pair]:
    """Every two completions that agree up to some step and then differ: the prefix with the
    better step against the other.

    Pairs of the same two steps come once, and only if their values differ by at least
    `min_gap`. With `draw` the winner is drawn instead, with probability sigmoid(difference of
    the values), for every two completions (Bradley-Terry labels).
    """
    yielded = set()
    valued = [rollout for rollout in group.rollouts if rollout.id in group.step_values]
    for first, second in combinations(valued, 2):
        first_steps = group.step_values[first.id]
        second_steps = group.step_values[second.id]
        fork = _fork(first, first_steps, second, second_steps)
        if fork is None:
            continue
        first_ids = first.completion_ids[: first_steps.spans[fork].end]
        second_ids = second.completion_ids[: second_steps.spans[fork].end]
        gap = first_steps.filled[fork + 1] - second_steps.filled[fork + 1]
        if draw is not None:
            first_wins = draw.random() < 1 / (1 + math.exp(-gap))
        elif gap == 0 or abs(gap) < min_gap:
            continue
        else:
            first_wins = gap > 0
        chosen, rejected = (first_ids, second_ids) if first_wins else (second_ids, first_ids)
        key = (tuple(chosen), tuple(rejected))
        if draw is None and key in yielded:
            continue
        yielded.add(key)
        yield _pair(first, chosen, rejected)


def _fork(
    first: Rollout, first_steps: StepValues, second: Rollout, second_steps: StepValues
) -> int | None:
    """Index of the first step in which two completions differ; None if one ends before, or they
    are equal.
    """
    spans = zip(first_steps.spans, second_steps.spans, strict=False)
    for index, (a, b) in enumerate(spans):
        if first.completion_ids[a.start : a.end] != second.completion_ids[b.start : b.end]:
            return index
    return None


def _correct_and_wrong(group: Group) -> tuple[list[Rollout], list[Rollout]]:
    """Correct and wrong completions, each text once; those without a score are neither."""
    correct: dict[str, Rollout] = {}
    wrong: dict[str, Rollout] = {}
    for rollout, verdict in scored_rollouts(group):
        side = correct if verdict.passed() else wrong
        side[rollout.text] = rollout
    return list(correct.values()), list(wrong.values())


def _pair(
    source: Rollout, chosen: list[int], rejected: list[int], margin: float | None = None
) -> Pair:
    source.require_single_turn("making preference pairs")
    return Pair(
        task_id=source.task_id,
        prompt_ids=source.prompt_ids,
        chosen_ids=chosen,
        rejected_ids=rejected,
        margin=margin,
    )
