"""Step values from a function of the user's own, a process reward model say: nothing is
continued, nothing compared.

    credit: {steps: {use: "my_values.py:values", split: newline}}

    def values(rollout, spans):
        return [score_of(rollout.completion_ids[: span.end]) for span in spans]

Its number for step i is Q_i, the value of the completion's first i steps: an estimate of the
reward that a completion with this beginning will get, as a process reward model gives it
(Math-Shepherd, arXiv 2312.08935).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real

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
from rlcore.plugin import call
from rlcore.types import Group, Rollout, Span, StepValues

ValueFunction = Callable[[Rollout, list[Span]], Sequence[float | None]]
"""(rollout, its L steps) -> L values, one after each step, or L + 1 with that of the prompt
first; None where one is unknown.
"""


@dataclass(kw_only=True)
class OwnValues:
    """Estimator that asks a function.

    function: a `ValueFunction`. owner: it, in messages.
    split, decode: what a step is.
    completions: which completions get step values, negatives, positives or all.
    passing: completions whose first reward is lower are negatives.

    Where the function gives no value of the prompt it is the group's mean reward. The last
    value is always the completion's own reward, which is known.
    """

    function: ValueFunction
    owner: str
    split: Splitter
    decode: Decode
    completions: Completions = "negatives"
    passing: float = 0.5

    def __post_init__(self) -> None:
        check_completions(self.completions)

    def __call__(self, groups: Sequence[Group]) -> tuple[list[Group], Cost]:
        """The groups with step values, and their cost, which holds no tokens. Raises
        `RecipeError`.
        """
        require_single_turn(groups)
        cost = Cost()
        valued = [with_values(group, self._values(group), cost) for group in groups]
        return valued, cost

    def _values(self, group: Group) -> list[StepValues]:
        scored = scored_rollouts(group)
        result = []
        for rollout, verdict in scored:
            wanted = is_wanted(verdict, self.completions, passing=self.passing)
            if not wanted or not rollout.completion_ids or rollout.finish == "aborted":
                continue
            spans = split_steps(rollout.completion_ids, self.decode, self.split)
            values = self._checked(call(self.owner, self.function, rollout, spans), spans)
            if len(values) == len(spans):
                mean = sum(verdict.value for _, verdict in scored) / len(scored)
                values = [mean, *values]
            values = [*values[:-1], verdict.value]
            result.append(StepValues(rollout_id=rollout.id, spans=spans, values=values))
        return result

    def _checked(self, values: object, spans: Sequence[Span]) -> list[float | None]:
        """The function's values. Raises `RecipeError` for anything but as many numbers as there
        are steps, or one more.
        """
        listed = list(values) if isinstance(values, Sequence) else None
        numbers = listed is not None and all(
            value is None or (isinstance(value, Real) and value == value) for value in listed
        )
        if not numbers or len(listed) not in (len(spans), len(spans) + 1):
            raise RecipeError(
                f"{self.owner} must give a value for each of the {len(spans)} steps of a "
                f"completion, "
                f"and may give that of the prompt before them, not {values!r}"
            )
        if len(listed) > len(spans) and listed[0] is None:
            raise RecipeError(f"{self.owner} gave None for the prompt: leave that value out")
        return [None if value is None else float(value) for value in listed]


def is_value_function(part: object) -> bool:
    """Whether a part named as an estimator is a `ValueFunction`: its first parameter is called
    `rollout`.
    """
    code = getattr(part, "__code__", None)
    return code is not None and code.co_argcount > 0 and code.co_varnames[0] == "rollout"
