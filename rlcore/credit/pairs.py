"""Preference pairs from the scored answers to a task: three ways to say what a wrong answer did wrong (arXiv 2406.14532).

    answer_pairs         a correct answer            against  a wrong answer, whole
    first_pit_pairs      a correct answer            against  a wrong answer up to its first pit, nothing after it
    shared_prefix_pairs  prefix + the better step    against  prefix + the worse step

The last two need step values: Q_0, before the first step, and Q_i after each step. The first pit is the first step after which
the value is lowest. Pairs that share a prefix say nothing about it: in the DPO gradient its tokens cancel exactly, where the
other two also push down whatever good steps the rejected side begins with (`answer_pairs` most). Pairs labelled by Bradley-Terry
with the difference of advantages make the optimum of DPO that of advantage-weighted regression (theorem 6.1 of the paper).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, cycle

from rlcore.errors import LearnerError
from rlcore.types import Group, Rollout, StepValues, Verdict

CORRECT = 0.5
"""Least value of a correct answer: right for rewards in {0, 1} and in {-1, 1}."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two continuations of a prompt, the first to be preferred."""

    task_id: str
    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


def is_correct(verdict: Verdict) -> bool:
    return verdict.value is not None and verdict.value >= CORRECT


def answer_pairs(group: Group) -> Iterator[Pair]:
    """Each distinct wrong answer with one of the distinct correct answers, which take turns."""
    right, wrong = _sides(group)
    for chosen, rejected in zip(cycle(right), wrong if right else (), strict=False):
        yield _pair(group, chosen, _answer(chosen), _answer(rejected))


def first_pit_pairs(
    group: Group, steps: Mapping[str, StepValues], *, min_gap: float = 0.1
) -> Iterator[Pair]:
    """Each distinct wrong answer, cut after its first pit, with one of the correct answers, which take turns.

    steps: the step values of the group's answers by their id. An answer without, or whose values span less than `min_gap`, has no
    pit to speak of and is left out.
    """
    right, wrong = _sides(group)
    turns = cycle(right)
    for rejected in wrong if right else ():
        values = steps.get(rejected.id)
        pit = values.pit(least_spread=min_gap) if values else None
        if pit is not None:
            chosen = next(turns)
            yield _pair(group, chosen, _answer(chosen), _answer(rejected)[: values.spans[pit].end])


def shared_prefix_pairs(
    group: Group,
    steps: Mapping[str, StepValues],
    *,
    min_gap: float = 0.1,
    draw: random.Random | None = None,
) -> Iterator[Pair]:
    """Every two answers that agree up to some step and then differ: the prefix with the step of higher value against the other.

    Pairs of the same two steps come once, and only if their values differ by at least `min_gap`. With `draw` the winner is drawn
    instead, with probability sigmoid(difference of the values), for every two answers (Bradley-Terry labels).
    """
    seen = set()
    valued = [rollout for rollout in group.rollouts if rollout.id in steps]
    for a, b in combinations(valued, 2):
        at = _fork(a, steps[a.id], b, steps[b.id])
        if at is None:
            continue
        gap = steps[a.id].filled[at + 1] - steps[b.id].filled[at + 1]
        wins = gap > 0 if draw is None else draw.random() < 1 / (1 + math.exp(-gap))
        better, worse = (a, b) if wins else (b, a)
        texts = [tuple(_answer(one)[: steps[one.id].spans[at].end]) for one in (better, worse)]
        if draw is None and (abs(gap) < min_gap or gap == 0 or tuple(texts) in seen):
            continue
        seen.add(tuple(texts))
        yield _pair(group, better, list(texts[0]), list(texts[1]))


def _fork(a: Rollout, of_a: StepValues, b: Rollout, of_b: StepValues) -> int | None:
    """Position of the first step in which two answers differ, None if one ends before or they are equal."""
    one, other = _answer(a), _answer(b)
    steps = zip(of_a.spans, of_b.spans, strict=False)
    return next(
        (at for at, (mine, its) in enumerate(steps) if one[slice(*mine)] != other[slice(*its)]),
        None,
    )


def _sides(group: Group) -> tuple[list[Rollout], list[Rollout]]:
    """Correct and wrong answers, each text once; answers without a value are neither."""
    scored = [
        (r, v) for r, v in zip(group.rollouts, group.verdicts, strict=True) if v.value is not None
    ]
    right = {rollout.text: rollout for rollout, verdict in scored if is_correct(verdict)}
    wrong = {rollout.text: rollout for rollout, verdict in scored if not is_correct(verdict)}
    return list(right.values()), list(wrong.values())


def _start(rollout: Rollout) -> int:
    """Where the answer begins. Raises `LearnerError` if others wrote into it."""
    start = rollout.mask.index(True)
    if not all(rollout.mask[start:]):
        raise LearnerError(
            f"answer {rollout.id!r} has tokens in it that the policy did not write: no pairs can be made of it"
        )
    return start


def _answer(rollout: Rollout) -> list[int]:
    return rollout.token_ids[_start(rollout) :]


def _pair(group: Group, source: Rollout, chosen: list[int], rejected: list[int]) -> Pair:
    return Pair(
        task_id=group.task.id,
        prompt_ids=source.token_ids[: _start(source)],
        chosen_ids=chosen,
        rejected_ids=rejected,
    )
