"""Values of the steps of a completion from its siblings: no token is generated for them.

The completions of one prompt often pass through the same states: they begin with the same steps,
or reach the same partial result. Each of them is a continuation of that state by the policy
itself, so

    Q_i = mean reward of the group's completions that are in the same state after i steps
    Q_0 = mean reward of the group

is a Monte-Carlo estimate that costs nothing. A completion alone in its state has its own reward
there: a wrong one is pushed down in the step where it left those that came out right, and neither
before nor after it. Grouping completions by a repeated state is the idea of GiGPO (arXiv
2505.10978); along prefixes these are the values of a tree of completions as in Tree-GRPO
(2509.21240).
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from rlcore.credit.estimator import (
    Completions,
    Cost,
    check_completions,
    is_wanted,
    require_single_turn,
    with_values,
)
from rlcore.credit.group import scored_rollouts
from rlcore.credit.split import Decode, Splitter, split_steps
from rlcore.errors import RecipeError
from rlcore.types import Group, Rollout, Span, StepValues


@dataclass(kw_only=True)
class Siblings:
    """Estimator that compares the completions of a group; takes the place of `MonteCarlo` where
    nothing is continued.

    split, decode: what a step is.
    state: a regular expression; two completions are in the same state after i steps if its last match in step i is the
    same text, which must say all that matters for the rest. Without it, or where it does not match, the state is all
    tokens so far.
    completions: which completions get step values, negatives, positives or all; all scored ones count in the means.
    passing: completions whose first reward is lower are negatives.
    """

    split: Splitter
    decode: Decode
    state: str | None = None
    completions: Completions = "negatives"
    passing: float = 0.5

    def __post_init__(self) -> None:
        check_completions(self.completions)
        try:
            self._pattern = None if self.state is None else re.compile(self.state)
        except re.error as error:
            raise RecipeError(
                f"steps.state {self.state!r} is not a regular expression: {error}"
            ) from None

    def __call__(self, groups: Sequence[Group]) -> tuple[list[Group], Cost]:
        """The groups with step values, and their cost, which holds no tokens."""
        require_single_turn(groups)
        cost = Cost()
        valued = [with_values(group, self._values(group), cost) for group in groups]
        return valued, cost

    def _values(self, group: Group) -> list[StepValues]:
        scored = [pair for pair in scored_rollouts(group) if pair[0].completion_ids]
        all_spans = [
            split_steps(rollout.completion_ids, self.decode, self.split)
            for rollout, _ in scored
        ]
        all_states = [
            self._states(rollout, spans)
            for (rollout, _), spans in zip(scored, all_spans, strict=True)
        ]
        rewards: dict[Hashable, list[float]] = {}
        for (_, verdict), states in zip(scored, all_states, strict=True):
            for state in states:
                rewards.setdefault(state, []).append(verdict.value)
        means = {state: sum(values) / len(values) for state, values in rewards.items()}

        result = []
        for (rollout, verdict), spans, states in zip(
            scored, all_spans, all_states, strict=True
        ):
            if rollout.finish == "aborted":
                continue
            if not is_wanted(verdict, self.completions, passing=self.passing):
                continue
            values = [*(means[state] for state in states), verdict.value]
            result.append(StepValues(rollout_id=rollout.id, spans=spans, values=values))
        return result

    def _states(self, rollout: Rollout, spans: Sequence[Span]) -> list[Hashable]:
        """The states after 0 to L - 1 of L steps; the number of steps is always a part of them."""
        token_ids = rollout.completion_ids
        states: list[Hashable] = [(0,)]
        for number, span in enumerate(spans[:-1], start=1):
            match = self._last_match(token_ids[span.start : span.end])
            content = tuple(token_ids[: span.end]) if match is None else match
            states.append((number, content))
        return states

    def _last_match(self, token_ids: list[int]) -> str | None:
        """What the expression matches last in the text of a step; None without an expression or a
        match.
        """
        if self._pattern is None:
            return None
        matches = list(self._pattern.finditer(self.decode(token_ids)))
        return matches[-1].group() if matches else None
