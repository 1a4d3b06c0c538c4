"""From the `credit` section of a recipe to a credit scheme and what estimates step values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from rlcore.credit.category_weights import weighted_categories
from rlcore.credit.continuations import with_continuations
from rlcore.credit.demonstrations import gated, mixed
from rlcore.credit.estimator import Completions, Estimator
from rlcore.credit.group import Credit, group_credit
from rlcore.credit.monte_carlo import Continue, MonteCarlo
from rlcore.credit.reward_parts import normalised_parts
from rlcore.credit.siblings import Siblings
from rlcore.credit.split import SPLITTERS, Decode
from rlcore.credit.step_values import SCHEMES, checked_scheme, without_zeros
from rlcore.credit.whiten import Gather, exponential_weights, whitened
from rlcore.errors import RecipeError
from rlcore.plugin import Named, build, find
from rlcore.recipe.build import build_rewards, policy_rewards
from rlcore.recipe.credit_sections import CreditSection, StepsSection, StepValuesSection
from rlcore.scoring.aggregate import part_weights
from rlcore.types import Sample, Task

if TYPE_CHECKING:
    from rlcore.stages.rl import RlStage
    from rlcore.stages.sample import SampleStage

WHITENED = {"global": "none", "mean_global": "mean"}
"""Baselines whose advantages are whitened over all tokens of a step -> the one in the group."""


def credit_weights(stage: RlStage) -> dict[str, float] | None:
    """Weights of the rewards that credit normalises and sums itself; None where the scorer's
    aggregate stands.

    Raises `RecipeError`.
    """
    if not stage.credit.normalise_parts:
        return None
    if stage.credit.demonstrations == "mixed":
        raise RecipeError(
            "credit.normalise_parts needs every part of a completion's reward, "
            "which a mixed-in demonstration lacks"
        )
    return part_weights(stage.aggregate, build_rewards(stage.rewards))


def build_credit(
    section: CreditSection,
    *,
    weights: Mapping[str, float] | None = None,
    gather: Gather = list,
    demonstrate: Callable[[Task], Sample] | None = None,
) -> Credit:
    """The credit of a stage; its step schemes read the values that `build_step_values` or the
    reader puts on the groups.

    weights: of rewards that are normalised each by itself. gather: joins the items of all
    processes. demonstrate: makes the sample of a task's demonstration, where one is used.
    """
    whitening = WHITENED.get(section.baseline) if isinstance(section.baseline, str) else None
    # Whitening needs groups without variance for its mean, step schemes need them for their steps.
    keep_all = whitening is not None or section.steps is not None
    credit = group_credit(
        baseline=whitening or section.baseline,
        zero_variance="keep" if keep_all else section.zero_variance,
    )
    if weights is not None:
        credit = normalised_parts(credit, weights)
    if section.category_weights:
        credit = weighted_categories(credit, section.category_weights)
    group_baseline = credit
    if demonstrate and section.demonstrations == "mixed":
        credit = mixed(credit, demonstrate)
    if section.steps:
        credit = _build_scheme(section.steps.scheme, credit)
        if section.steps.keep != "none":
            credit = with_continuations(credit, group_baseline, section.steps.keep)
        # To whitening and exponential weights, an advantage of zero says something.
        if section.zero_variance == "drop" and not whitening and not section.exponential:
            credit = without_zeros(credit)
    if whitening:
        credit = whitened(credit, gather)
    if section.exponential:
        credit = exponential_weights(credit, gather, beta=section.exponential)
    if demonstrate and section.demonstrations == "gated":
        credit = gated(credit, demonstrate, threshold=section.threshold)
    return credit


def _build_scheme(named: Named, credit: Credit) -> Credit:
    scheme = build(named, SCHEMES, credit, what="credit scheme")
    name = named if isinstance(named, str) else named["use"]
    return scheme if name in SCHEMES else checked_scheme(f"credit scheme {name!r}", scheme)


def build_step_values(
    stage: RlStage | SampleStage,
    continue_: Continue,
    decode: Decode,
    *,
    processes: int = 1,
) -> Estimator | None:
    """The estimator of step values, where the stage asks for one; each process has an equal part
    of `total_tokens`.
    """
    section = stage.steps if stage.writes_samples else stage.credit.steps
    if section is None:
        return None
    if policy_rewards(stage.rewards):
        raise RecipeError(
            "step values need rewards that workers compute: leave out those of the learner, "
            "or the steps"
        )
    splitter = build(section.split, SPLITTERS, what="split")
    completions = section.completions or _wanted_by_scheme(section)
    if section.values == "siblings":
        return Siblings(
            split=splitter,
            decode=decode,
            state=section.state,
            completions=completions,
            passing=section.passing,
        )
    settings = section.model_dump(
        exclude={"scheme", "split", "keep", "values", "state", "completions"}
    )
    if settings["total_tokens"] is not None:
        settings["total_tokens"] //= processes
    return MonteCarlo(
        continue_=continue_,
        split=splitter,
        decode=decode,
        max_tokens=stage.sampling.max_tokens,
        completions=completions,
        **settings,
    )


def _wanted_by_scheme(section: StepValuesSection) -> Completions:
    """Which completions the stage's scheme wants valued: `values_of` of the scheme; negatives
    where there is none.
    """
    if not isinstance(section, StepsSection):
        return "negatives"
    named = section.scheme
    use = named if isinstance(named, str) else named.get("use")
    if not isinstance(use, str):  # `build_credit` says what is wrong with it
        return "negatives"
    return getattr(find(use, SCHEMES, what="credit scheme"), "values_of", "negatives")
