"""Information gain (RLP, arXiv 2510.01265): how much better a text is predicted after a thought than without one.

Scored by the learner's own forward; nothing is generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

from rlcore.errors import LearnerError
from rlcore.learner.optim import Average
from rlcore.learner.policy import Policy
from rlcore.types import Group, Rollout, Task


class Gain(NamedTuple):
    """Of one rollout, in nats. `value` is `thought - plain`."""

    value: float
    thought: float
    """log p(x | context, thought) under the policy."""
    plain: float
    """log p(x | context) under the averaged weights, or the policy's own where none are kept."""


class InformationGain:
    """r(c) = log p(x | prompt, c) - log p_average(x | context), for every thought c of every group.

    x is the first `horizon` tokens of the task's column `target`: one as in the paper, or with `horizon: null` all of it. What
    the policy wrote is the thought, up to and with `close`, which is added where the thought was cut off before it or the policy
    leaves it out (write "" for none). The context is the task's column `context`, without the prompt's own words. The thoughts of
    a group are read in the layout `shared`, so that their context is read once. Where a group's thoughts are compared with each
    other the second term cancels: it says whether thinking helps, and shifts no advantage of a baseline.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        average: Average | None = None,
        micro_batch_tokens: int = 8192,
        horizon: int | None = 1,
        close: str = "</think>",
        target: str = "continuation",
        context: str = "context",
    ) -> None:
        if horizon is not None and horizon < 1:
            raise LearnerError(
                f"information_gain needs a horizon of 1 token or more, or null for all of the target, got {horizon}"
            )
        self._policy, self._average, self._max_tokens = policy, average, micro_batch_tokens
        self._horizon, self._close, self._target, self._context = (
            horizon,
            close,
            target,
            context,
        )

    def __call__(self, groups: Sequence[Group]) -> list[list[Gain]]:
        """Gains of each group's rollouts, in their order. Raises `LearnerError` where a task has no such column."""
        for group in groups:
            for rollout in group.rollouts:
                rollout.require_single_turn("the reward information_gain")
        targets = [self._target_ids(group.task) for group in groups]
        plain = [
            (self._ids(self._column(group.task, self._context), opening=True), x)
            for group, x in zip(groups, targets, strict=True)
        ]
        thoughts = [
            ([*_prompt_ids(rollout), *self._thought_ids(rollout)], x)
            for group, x in zip(groups, targets, strict=True)
            for rollout in group.rollouts
        ]
        with_thought = iter(self._score(thoughts))
        with self._average.applied() if self._average else nullcontext():
            without = self._score(plain)
        return [
            [
                Gain((thought := next(with_thought)) - base, thought, base)
                for _ in group.rollouts
            ]
            for group, base in zip(groups, without, strict=True)
        ]

    def _score(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[float]:
        """log p of the second part given the first, of each pair."""
        read = self._policy.read(
            [[*before, *x] for before, x in pairs],
            starts=[len(before) for before, _ in pairs],
            layout="shared",
            max_tokens=self._max_tokens,
        )
        return [sum(logp) for logp, _ in read]

    def _target_ids(self, task: Task) -> list[int]:
        text = self._column(task, self._target)
        if self._horizon is not None:
            text = text[
                : 64 * (self._horizon + 1)
            ]  # more than so many tokens hold, less than a long document
        ids = self._ids(text)[: self._horizon]
        if not ids:
            raise LearnerError(
                f"information_gain: column {self._target!r} of task {task.id} is empty: there is nothing to predict"
            )
        return ids

    def _thought_ids(self, rollout: Rollout) -> list[int]:
        ids, special = rollout.completion_ids, set(self._policy.tokenizer.all_special_ids)
        while ids and ids[-1] in special:
            ids = ids[:-1]
        if not self._close or self._close not in rollout.text:
            return [*ids, *self._ids(self._close)]
        low, high = 0, len(ids)  # the fewest tokens whose text holds the mark
        while low < high:
            middle = (low + high) // 2
            low, high = (
                (low, middle)
                if self._close in self._policy.tokenizer.decode(ids[:middle])
                else (middle + 1, high)
            )
        return ids[:low]

    def _column(self, task: Task, name: str) -> str:
        if not isinstance(task.columns.get(name), str):
            raise LearnerError(
                f"information_gain reads the column {name!r}, which task {task.id} has not; use a corpus with positions"
            )
        return task.columns[name]

    def _ids(self, text: str, *, opening: bool = False) -> list[int]:
        ids = self._policy.tokenizer(text, add_special_tokens=opening).input_ids
        if opening and not ids:
            raise LearnerError(
                "information_gain: a task's context is empty: nothing predicts the first token of a text"
            )
        return ids


def _prompt_ids(rollout: Rollout) -> list[int]:
    return rollout.token_ids[
        : rollout.mask.index(True) if True in rollout.mask else len(rollout.mask)
    ]
