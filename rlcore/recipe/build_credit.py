"""From the `credit` section of a recipe to a credit scheme and what estimates step values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from rlcore.credit.category_weights import weighted_categories
from rlcore.credit.continuations import with_continuations
from rlcore.credit.demonstrations import gated, mixed
from rlcore.credit.group import Credit, group_credit
from rlcore.credit.monte_carlo import Continue, MonteCarlo, StepEstimator
from rlcore.credit.reward_parts import normalised_parts
from rlcore.credit.siblings import Siblings
from rlcore.credit.split import SPLITTERS, Decode
from rlcore.credit.step_values import SCHEMES, Values, checked_scheme, without_zeros
from rlcore.credit.whiten import Gather, exponential_weights, whitened
from rlcore.errors import RecipeError
from rlcore.plugin import Named, build
from rlcore.recipe import schema
from rlcore.scoring.aggregate import part_weights
from rlcore.types import Sample, Task

if TYPE_CHECKING:
    pass
from rlcore.recipe.build import build_rewards, policy_rewards

WHITENED = {"global": "none", "mean_global": "mean"}
"""Baselines whose advantages are whitened over all tokens of a step -> the one in the group."""


def credit_weights(stage: schema.RlStage) -> dict[str, float] | None:
    """The weights of the parts that credit sums itself; None where the rewards are aggregated before. Raises `RecipeError`."""
    if not stage.credit.normalise_parts:
        return None
    if stage.credit.demonstrations == "mixed":
        raise RecipeError(
            "credit.normalise_parts needs every part of an answer's reward, which a mixed-in demonstration lacks"
        )
    return part_weights(stage.aggregate, build_rewards(stage.rewards))


def build_credit(
    section: schema.CreditSection,
    *,
    weights: Mapping[str, float] | None = None,
    gather: Gather = list,
    demonstrate: Callable[[Task], Sample] | None = None,
    values: StepEstimator | Values | None = None,
) -> Credit:
    """`weights`: of parts that are normalised each by itself. `gather` joins the items of all processes; `demonstrate` makes the
    sample of a task's demonstration, where one is used; `values` estimates those of steps (`build_step_values`)."""
    whitening = WHITENED.get(section.baseline) if isinstance(section.baseline, str) else None
    kept = "keep" if whitening or values else section.zero_variance
    credit = group_credit(baseline=whitening or section.baseline, zero_variance=kept)
    if weights is not None:
        credit = normalised_parts(credit, weights)
    if section.category_weights:
        credit = weighted_categories(credit, section.category_weights)
    compared = credit
    if demonstrate and section.demonstrations == "mixed":
        credit = mixed(credit, demonstrate)
    if section.steps and values:
        credit = _build_scheme(section.steps.scheme, credit, values)
        if section.steps.keep != "none":
            credit = with_continuations(
                credit, compared, lambda: values.continued, section.steps.keep
            )
        if (
            section.zero_variance == "drop" and not whitening and not section.exponential
        ):  # to these two, zero says something
            credit = without_zeros(credit)
    if whitening:
        credit = whitened(credit, gather)
    if section.exponential:
        credit = exponential_weights(credit, gather, beta=section.exponential)
    if demonstrate and section.demonstrations == "gated":
        credit = gated(credit, demonstrate, threshold=section.threshold)
    return credit


def _build_scheme(named: Named, credit: Credit, values: Values) -> Credit:
    scheme = build(named, SCHEMES, credit, values, what="credit scheme")
    name = named if isinstance(named, str) else named["use"]
    return scheme if name in SCHEMES else checked_scheme(f"credit scheme {name!r}", scheme)


def build_step_values(
    stage: schema.RlStage | schema.SampleStage,
    continue_: Continue,
    decode: Decode,
    *,
    processes: int = 1,
) -> StepEstimator | None:
    """What estimates the values of steps, where the stage asks for them; of `total_tokens` each process has an equal part."""
    section = stage.steps if isinstance(stage, schema.SampleStage) else stage.credit.steps
    if section is None:
        return None
    if policy_rewards(stage.rewards):
        raise RecipeError(
            "step values are made of rewards that workers compute: leave out those of the learner, or the steps"
        )
    splitter = build(section.split, SPLITTERS, what="split")
    if section.values == "siblings":
        return Siblings(
            split=splitter,
            decode=decode,
            state=section.state,
            answers=section.answers,
            passing=section.passing,
        )
    settings = section.model_dump(exclude={"scheme", "split", "keep", "values", "state"})
    if settings["total_tokens"] is not None:
        settings["total_tokens"] //= processes
    return MonteCarlo(
        continue_=continue_,
        split=splitter,
        decode=decode,
        max_tokens=stage.sampling.max_tokens,
        **settings,
    )
