"""The value of a prompt by its greedy completion, the baseline of ReMax.

    b(x) = reward of the completion that the present policy writes at temperature 0
    A    = r - b(x), the same for all tokens of a completion

It is one more completion a task, which is scored and not trained. Nothing of a group is compared,
so one completion a task is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import PositiveFloat

from rlcore.credit.estimator import Cost, require_single_turn, with_values
from rlcore.credit.group import scored_rollouts
from rlcore.credit.monte_carlo import Continue
from rlcore.types import Group, Prefix, Rollout, Span, StepValues, Verdict


@dataclass(kw_only=True)
class Greedy:
    """ReMax (arXiv 2310.10505, algorithm 1): a completion is one step, and the value before it is the
    reward of the task's greedy completion.

    With scheme `vine` every token gets r - b(x). A task whose greedy completion has no score has no
    values.

    continue_: samples and scores completions. max_tokens: longest completion.
    deadline_s: seconds for the greedy completions of a step together.
    """

    continue_: Continue
    max_tokens: int
    deadline_s: PositiveFloat = 600.0

    def __call__(self, groups: Sequence[Group]) -> tuple[list[Group], Cost]:
        """The groups with step values, and their cost."""
        require_single_turn(groups, "the greedy baseline")
        cost = Cost()
        asked = [index for index, group in enumerate(groups) if scored_rollouts(group)]
        prefixes = [self._prefix(groups[index]) for index in asked]
        greedy = self.continue_(prefixes, self.deadline_s) if prefixes else []
        valued = list(groups)
        for index, prefix, completed in zip(asked, prefixes, greedy, strict=True):
            cost.add_continued(prefix, completed)
            scored = scored_rollouts(completed)
            if not scored:
                cost.left_out += 1
                continue
            [(_, verdict)] = scored
            group = groups[index]
            values = [
                _values(rollout, verdict.value, own)
                for rollout, own in scored_rollouts(group)
                if rollout.completion_ids
            ]
            valued[index] = with_values(group, values, cost)
        return valued, cost

    def _prefix(self, group: Group) -> Prefix:
        """An empty beginning of the group's first completion: its prompt."""
        return Prefix(
            task=group.task,
            rollout=group.rollouts[0],
            length=0,
            n=1,
            max_tokens=self.max_tokens,
            temperature=0.0,
        )


def _values(rollout: Rollout, baseline: float, verdict: Verdict) -> StepValues:
    whole = Span(0, len(rollout.completion_ids))
    return StepValues(rollout_id=rollout.id, spans=[whole], values=[baseline, verdict.value])
