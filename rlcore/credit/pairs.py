"""Preference pairs from the scored completions of a task: three ways to say what a wrong
completion did wrong.

    answer_pairs         a correct completion        against  a wrong completion, whole
    first_pit_pairs      a correct completion        against  a wrong completion up to its first pit, nothing after it
    shared_prefix_pairs  prefix + the better step    against  prefix + the worse step

The last two read the group's step values (arXiv 2406.14532): Q_0, before the first step, and Q_i
after each step. The first pit is the first step after which the value is lowest. Pairs that share
a prefix say nothing about it: in the DPO gradient its tokens cancel exactly, where the other two
also push down whatever good steps the rejected side begins with (`answer_pairs` most). Pairs
labelled by Bradley-Terry with the difference of advantages make the optimum of DPO that of
advantage-weighted regression (theorem 6.1 of the paper).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, cycle

from rlcore.credit.group import scored_rollouts
from rlcore.types import Group, Rollout, StepValues


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two continuations of a prompt, the first to be preferred."""

    task_id: str
    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


def answer_pairs(group: Group) -> Iterator[Pair]:
    """Each distinct wrong completion with one of the distinct correct ones, which take turns."""
    correct, wrong = _correct_and_wrong(group)
    if not correct:
        return
    for chosen, rejected in zip(cycle(correct), wrong, strict=False):
        yield _pair(chosen, chosen.completion_ids, rejected.completion_ids)


def first_pit_pairs(group: Group, *, min_gap: float = 0.1) -> Iterator[Pair]:
    """Each distinct wrong completion, cut after its first pit, with one of the correct ones,
    which take turns.

    A completion without step values, or whose values span less than `min_gap`, has no pit to
    speak of and is left out.
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


def shared_prefix_pairs(
    group: Group, *, min_gap: float = 0.1, draw: random.Random | None = None
) -> Iterator[Pair]:
    """Every two completions that agree up to some step and then differ: the prefix with the
    better step against the other.

    Pairs of the same two steps come once, and only if their values differ by at least `min_gap`.
    With `draw` the winner is drawn instead, with probability sigmoid(difference of the values),
    for every two completions (Bradley-Terry labels).
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


def _pair(source: Rollout, chosen: list[int], rejected: list[int]) -> Pair:
    source.require_single_turn("making preference pairs")
    return Pair(
        task_id=source.task_id,
        prompt_ids=source.prompt_ids,
        chosen_ids=chosen,
        rejected_ids=rejected,
    )
