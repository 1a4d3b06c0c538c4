"""Values of the steps of an answer from its siblings: no token is written for them.

The answers to one prompt often pass through the same states: they begin with the same steps, or reach the same partial result.
Each of them is a continuation of that state by the policy itself, so

    Q_i = mean reward of the group's answers that are in the same state after i steps        Q_0 = mean reward of the group

is a Monte-Carlo estimate that costs nothing. An answer alone in its state has its own reward there: a wrong one is pushed down
in the step where it left those that came out right, and neither before nor after it. Grouping answers by a repeated state is
the idea of GiGPO (arXiv 2505.10978); along prefixes these are the values of a tree of answers as in Tree-GRPO (2509.21240).
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from rlcore.credit.monte_carlo import Answers, Cost, StepEstimator
from rlcore.credit.split import Decode, Splitter, split_steps
from rlcore.errors import RecipeError
from rlcore.types import Group, Rollout, Span, StepValues


@dataclass(kw_only=True)
class Siblings(StepEstimator):
    """Step values by rollout id, of the groups it is called with; takes the place of `MonteCarlo` where nothing is continued.

    split, decode: what a step is. state: a regular expression; two answers are in the same state after i steps if its last match
    in step i is the same text, which must say all that matters for the rest. Without it, or where it does not match, the state is
    all tokens so far. answers, passing: whose values are given back; all scored answers count in the means. Costs no tokens.
    """

    split: Splitter
    decode: Decode
    state: str | None = None

    def __post_init__(self) -> None:
        try:
            self._pattern = None if self.state is None else re.compile(self.state)
        except re.error as error:
            raise RecipeError(
                f"steps.state {self.state!r} is not a regular expression: {error}"
            ) from None

    def __call__(
        self, groups: Sequence[Group], *, answers: Answers = "negatives"
    ) -> Mapping[str, StepValues]:
        """`answers`: the default of the scheme that asks; the recipe's, where set, wins."""
        wanted = self.answers or answers
        found = [values for group in groups for values in self._group(group)]
        self.cost = Cost()
        return self.found({v.rollout_id: v for v in found if self.asked_for(wanted, v.values[-1])})

    def _group(self, group: Group) -> list[StepValues]:
        scored = [
            (rollout, verdict.value, split_steps(rollout.completion_ids, self.decode, self.split))
            for rollout, verdict in zip(group.rollouts, group.verdicts, strict=True)
            if verdict.value is not None and any(rollout.mask)
        ]
        rewards: dict[Hashable, list[float]] = {}
        passed = [self._states(rollout, spans) for rollout, _, spans in scored]
        for (_, reward, _), states in zip(scored, passed, strict=True):
            for state in states:
                rewards.setdefault(state, []).append(reward)
        return [
            StepValues(
                rollout_id=rollout.id,
                spans=spans,
                values=[*(_mean(rewards[state]) for state in states), reward],
            )
            for (rollout, reward, spans), states in zip(scored, passed, strict=True)
            if rollout.finish != "aborted"
        ]

    def _states(self, rollout: Rollout, spans: Sequence[Span]) -> list[Hashable]:
        """The states after 0 to L - 1 of L steps, each told by the number of steps too."""
        answer, states = rollout.completion_ids, [(0,)]
        for i, span in enumerate(spans[:-1], start=1):
            matches = (
                list(self._pattern.finditer(self.decode(answer[slice(*span)])))
                if self._pattern
                else []
            )
            states.append((i, matches[-1].group() if matches else tuple(answer[: span.end])))
        return states


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
