"""What all estimators of step values have in common.

An estimator is a function from groups to the same groups with `step_values`, and `continuations`
where it sampled any:

    groups, cost = estimator(groups)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rlcore.errors import RecipeError
from rlcore.types import Group, Prefix, StepValues, Verdict

ESTIMATORS = {
    "monte_carlo": "rlcore.credit.monte_carlo:MonteCarlo",
    "siblings": "rlcore.credit.siblings:Siblings",
    "greedy": "rlcore.credit.greedy:Greedy",
}
"""Name in a recipe -> a class; of `ESTIMATOR_CONTEXT` it receives what its signature names."""

ESTIMATOR_CONTEXT = ("continue_", "split", "decode", "max_tokens", "processes")
"""Arguments that the run passes to an estimator by name."""

Completions = Literal["negatives", "positives", "all"]
"""Which completions are valued: those that did not pass, those that passed, or both."""


@dataclass(kw_only=True, slots=True)
class Cost:
    """What the step values of some groups cost in one process; small, so that ranks can exchange
    it.
    """

    completions: int = 0
    """Completions whose steps were valued."""
    informative: int = 0
    """Those of them with steps of different value."""
    prefixes: int = 0
    """Prefixes continued; equal ones count once."""
    left_out: int = 0
    """Prefixes that the budget of tokens or time did not suffice for."""
    tokens: int = 0
    """Tokens generated in continuations."""
    read: int = 0
    """Prompt and prefix tokens of all continuations; with prefix caching most are not computed
    again.
    """

    def add_continued(self, prefix: Prefix, group: Group) -> None:
        """Count a prefix, and the completions that continue it."""
        given = len(prefix.rollout.prompt_ids) + prefix.length
        self.prefixes += 1
        self.tokens += sum(sum(rollout.mask) - prefix.length for rollout in group.rollouts)
        self.read += prefix.n * given


Estimator = Callable[[Sequence[Group]], tuple[list[Group], Cost]]
"""Groups with their step values filled in, in the same order, and what that cost."""


def is_wanted(verdict: Verdict, completions: Completions, *, passing: float) -> bool:
    """Whether a completion with this verdict is to be valued. One without a score never is."""
    if verdict.value is None:
        return False
    if completions == "all":
        return True
    return verdict.passed(passing) == (completions == "positives")


def check_completions(completions: str) -> None:
    """Raise `RecipeError` for a word that names no kind of completion."""
    if completions not in ("negatives", "positives", "all"):
        raise RecipeError(
            f"step values are of 'negatives', 'positives' or 'all' completions, not {completions!r}"
        )


def require_single_turn(
    groups: Iterable[Group],
    what: str = "estimating step values",
    *,
    with_environment: bool = False,
) -> None:
    """Raise `RecipeError` if a rollout has more than one completion.

    what: the part that cannot use it, as the subject of a sentence. with_environment: rollouts with an environment, whose
    steps are their turns, may have several, in one sequence.
    """
    for group in groups:
        for rollout in group.rollouts:
            if with_environment and rollout.episode is not None:
                rollout.require_one_sequence(what)
            else:
                rollout.require_single_turn(what)


def with_values(
    group: Group,
    values: Iterable[StepValues],
    cost: Cost,
    continuations: Sequence[tuple[Prefix, Group]] = (),
) -> Group:
    """The group with these step values and continuations; the values are counted in `cost`."""
    by_id = {steps.rollout_id: steps for steps in values}
    cost.completions += len(by_id)
    cost.informative += sum(steps.pit() is not None for steps in by_id.values())
    return replace(group, step_values=by_id, continuations=tuple(continuations))
