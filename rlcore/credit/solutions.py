"""Credit for a task's own correct completions of all steps so far: MLE-Aug, MML and beta-MML
(arXiv 2205.14318).

Each task keeps the distinct correct completions that the policy has found, its demonstration first. When
it is drawn, the policy learns all of them. With l_i = log p(y_i | x) under the policy before the step:

    MLE-Aug     -sum_i l_i                              each has advantage 1
    beta-MML    -(1 / beta) log sum_i exp(beta l_i)     advantage w_i = exp(beta l_i) / sum_j exp(beta l_j)

Both are gradients of -sum_i w_i l_i with constant weights, so an objective that sums log pi over whole
sequences (`rloo`) learns them. beta 1 is MML; towards 0 the weights become equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rlcore.credit.demonstrations import last_words
from rlcore.credit.group import scored_rollouts
from rlcore.credit.whiten import Gather
from rlcore.types import Group, Rollout, Sample, Task

if TYPE_CHECKING:
    from rlcore.recipe.credit_sections import SolutionsSection

Found = tuple[str, str, list[int], list[bool]]
"""A solution: task id, its text without regard to spaces, and tokens and mask, [T] each."""


def weights(logprobs: Sequence[float], beta: float | None) -> list[float]:
    """w_i of a task's solutions, from their log-probabilities; all 1 without beta (MLE-Aug)."""
    if beta is None:
        return [1.0] * len(logprobs)
    largest = max(logprobs, default=0.0)
    powers = [math.exp(beta * (value - largest)) for value in logprobs]
    return [power / sum(powers) for power in powers]


class Solutions:
    """Keeps the solutions of all tasks, equal in every process, and is a `Credit`. Collective."""

    def __init__(
        self,
        section: SolutionsSection,
        *,
        logprobs: Callable[[Sequence[Sample]], list[float]],
        demonstrate: Callable[[Task], Sample] | None = None,
        gather: Gather = list,
    ) -> None:
        """logprobs: log p of each sample's trained tokens under the present policy, collective.
        demonstrate: the sample of a task's demonstration. gather: the items of all processes.
        """
        self._section = section
        self._logprobs = logprobs
        self._demonstrate = demonstrate
        self._gather = gather
        self._known: dict[str, dict[str, tuple[list[int], list[bool]]]] = {}

    def __call__(self, groups: Sequence[Group]) -> list[list[Sample]]:
        """The solutions of each group's task, with w_i on their tokens; none where none is known."""
        found = [solution for group in groups for solution in self._found(group)]
        for solution in self._gather(found):
            self._keep(solution)
        samples = [self._samples(group.task.id) for group in groups]
        if self._section.beta is None:
            return samples
        scores = iter(self._logprobs([sample for of_task in samples for sample in of_task]))
        return [self._weighted(of_task, [next(scores) for _ in of_task]) for of_task in samples]

    def state_dict(self) -> dict[str, Any]:
        return {
            task: {text: [list(ids), list(mask)] for text, (ids, mask) in known.items()}
            for task, known in self._known.items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._known = {
            task: {text: (list(ids), list(mask)) for text, (ids, mask) in known.items()}
            for task, known in state.items()
        }

    def _found(self, group: Group) -> list[Found]:
        """The demonstration of a task, and the group's correct completions."""
        task = group.task
        found: list[Found] = []
        if self._demonstrate is not None and task.demonstration is not None:
            sample = self._demonstrate(task)
            text = _plain(last_words(task.demonstration))
            found.append((task.id, text, sample.token_ids, sample.mask))
        for rollout, verdict in scored_rollouts(group):
            rollout.require_single_turn("learning a task's own solutions")
            if verdict.passed() and any(rollout.mask) and _is_whole(rollout):
                found.append((task.id, _plain(rollout.text), rollout.token_ids, rollout.mask))
        return found

    def _keep(self, solution: Found) -> None:
        """Store a solution that is new, short enough, and for which there is room."""
        task, text, ids, mask = solution
        known = self._known.setdefault(task, {})
        if text in known or len(known) >= self._section.size:
            return
        longest = self._section.longest
        if longest is not None and known:
            shortest = min(sum(other) for _, other in known.values())
            if sum(mask) > longest * shortest:
                return
        known[text] = (list(ids), list(mask))

    def _samples(self, task: str) -> list[Sample]:
        return [
            Sample(
                id=f"{task}#solution{number}",
                token_ids=ids,
                mask=mask,
                advantages=[float(trained) for trained in mask],
            )
            for number, (ids, mask) in enumerate(self._known.get(task, {}).values())
        ]

    def _weighted(self, samples: Sequence[Sample], scores: Sequence[float]) -> list[Sample]:
        weighed = []
        for sample, weight in zip(samples, weights(scores, self._section.beta), strict=True):
            advantages = [weight * advantage for advantage in sample.advantages]
            weighed.append(replace(sample, advantages=advantages))
        return weighed


def _plain(text: str) -> str:
    return " ".join(text.split())


def _is_whole(rollout: Rollout) -> bool:
    """Whether the policy ended it: what was cut has no end to learn."""
    return rollout.finish == "stop"
