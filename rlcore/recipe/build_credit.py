"""From the `credit` section of a recipe to a credit scheme and what estimates step values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rlcore.credit.category_weights import weighted_categories
from rlcore.credit.continuations import with_continuations
from rlcore.credit.demonstrations import beside, gated, mixed, solved
from rlcore.credit.estimator import ESTIMATORS, Completions, Estimator
from rlcore.credit.group import BASELINES, Credit, group_credit
from rlcore.credit.monte_carlo import Continue
from rlcore.credit.own_values import OwnValues, is_value_function
from rlcore.credit.reward_parts import normalised_parts
from rlcore.credit.split import SPLITTERS, Decode
from rlcore.credit.step_values import SCHEMES, checked_scheme, without_zeros
from rlcore.credit.turns import SCHEMES as TURN_SCHEMES
from rlcore.credit.whiten import Gather, batch_scaled, exponential_weights, whitened
from rlcore.errors import RecipeError
from rlcore.plugin import Named, build, build_later, did_you_mean, find, signature
from rlcore.recipe.build import build_rewards, policy_rewards
from rlcore.recipe.credit_sections import CreditSection, StepValuesSection
from rlcore.recipe.critic_section import CRITIC
from rlcore.scoring.aggregate import part_weights
from rlcore.types import Sample, Task

if TYPE_CHECKING:
    from rlcore.stages.base import GeneratingStage
    from rlcore.stages.rl import RlStage

WHITENED = {"global": "none", "mean_global": "mean", "mean_batch_std": "mean"}
"""Baselines whose advantages are scaled over a whole step -> the one in the group."""
STEP_SCALES = {"global": whitened, "mean_global": whitened, "mean_batch_std": batch_scaled}
"""What scales them."""


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
    critic: Credit | None = None,
) -> Credit:
    """The credit of a stage; its step schemes read the values that `build_step_values` or the
    reader puts on the groups.

    weights: of rewards that are normalised each by itself. gather: joins the items of all
    processes. demonstrate: makes the sample of a task's demonstration, where one is used. critic:
    credit by the stage's critic, for baseline critic.
    """
    whitening = WHITENED.get(section.baseline) if isinstance(section.baseline, str) else None
    _require_baseline(section.baseline)
    # Whitening needs groups without variance for its mean, schemes for steps and turns need them for these.
    by_parts = section.steps is not None or section.turns is not None
    keep_all = whitening is not None or by_parts
    if section.baseline == CRITIC:
        if critic is None:
            raise RecipeError(
                "baseline critic is for rl stages: no other stage trains a critic"
            )
        credit = critic
    else:
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
    if section.turns:
        credit = build(section.turns, TURN_SCHEMES, credit, what="credit for turns")
    if by_parts:
        # To whitening and exponential weights, an advantage of zero says something.
        if section.zero_variance == "drop" and not whitening and not section.exponential:
            credit = without_zeros(credit)
    if whitening:
        credit = STEP_SCALES[section.baseline](credit, gather)
    if section.exponential:
        credit = exponential_weights(credit, gather, beta=section.exponential)
    if demonstrate and section.demonstrations == "gated":
        credit = gated(credit, demonstrate, threshold=section.threshold)
    if section.demonstrations == "solved":
        credit = solved(credit)
    if demonstrate and section.demonstrations == "all":
        credit = beside(credit, demonstrate)
    return credit


def _require_baseline(named: Named) -> None:
    """Raise `RecipeError` for a name that no baseline has, with all that there are."""
    if not isinstance(named, str) or ":" in named:
        return
    known = [*BASELINES, *WHITENED, CRITIC]
    if named not in known:
        raise RecipeError(
            f"there is no baseline {named!r}{did_you_mean(named, known)}; "
            "name your own as 'package.module:name' or 'file.py:name'"
        )


def _build_scheme(named: Named, credit: Credit) -> Credit:
    scheme = build(named, SCHEMES, credit, what="credit scheme")
    name = named if isinstance(named, str) else named["use"]
    return scheme if name in SCHEMES else checked_scheme(f"credit scheme {name!r}", scheme)


def build_step_values(
    section: StepValuesSection,
    stage: GeneratingStage,
    continue_: Continue,
    decode: Decode,
    *,
    processes: int = 1,
) -> Estimator:
    """The estimator of step values that a section of `stage` describes.

    Raises `RecipeError`.
    """
    if policy_rewards(stage.rewards):
        raise RecipeError(
            "step values need rewards that workers compute: leave out those of the learner, "
            "or the steps"
        )
    if is_value_function(find(section.use, ESTIMATORS, what="estimator of step values")):
        return _own_values(section, stage, decode)
    make = build_later(
        _with_completions(section),
        ESTIMATORS,
        what="estimator of step values",
        given=0,
        also=type(section).model_fields,
        continue_=continue_,
        split=build(section.split, SPLITTERS, what="split"),
        decode=decode,
        max_tokens=stage.sampling.max_tokens,
        processes=processes,
    )
    if getattr(section, "keep", "none") != "none" and "continue_" not in make.keywords:
        raise RecipeError(
            f"keep has no effect: the estimator {section.use!r} continues no completions"
        )
    return make()


def _own_values(
    section: StepValuesSection, stage: GeneratingStage, decode: Decode
) -> Estimator:
    """The estimator that asks a function `(rollout, spans, **parameters)`."""
    if getattr(section, "keep", "none") != "none":
        raise RecipeError(
            f"keep has no effect: the function {section.use!r} continues no completions"
        )
    parameters = section.parameters
    settings = {
        "completions": parameters.pop(
            "completions", _values_of(getattr(section, "scheme", None))
        )
    }
    if "passing" in parameters:
        settings["passing"] = parameters.pop("passing")
    function = build_later(
        {"use": section.use, **parameters},
        ESTIMATORS,
        what="estimator of step values",
        given=2,
        also=("completions", "passing", *type(section).model_fields),
    )
    return OwnValues(
        function=function,
        owner=f"the step values {section.use!r}",
        split=build(section.split, SPLITTERS, what="split"),
        decode=decode,
        **settings,
    )


def _with_completions(section: StepValuesSection) -> dict[str, Any]:
    """The estimator and its parameters; it values the completions that the scheme reads.

    The recipe's own `completions` stands.
    """
    named = {"use": section.use, **section.parameters}
    estimator = find(section.use, ESTIMATORS, what="estimator of step values")
    if callable(estimator) and "completions" in signature(estimator).parameters:
        scheme = getattr(section, "scheme", None)
        named.setdefault("completions", _values_of(scheme))
    return named


def _values_of(scheme: Named | None) -> Completions:
    """The completions whose step values a scheme reads; negatives where it does not say."""
    use = scheme.get("use") if isinstance(scheme, Mapping) else scheme
    if not isinstance(use, str):  # `build_credit` says what is wrong with it
        return "negatives"
    return getattr(find(use, SCHEMES, what="credit scheme"), "values_of", "negatives")
