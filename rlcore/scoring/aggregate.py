"""From the verdicts of several rewards on one answer to one verdict.

A mix is a function from what is known of one answer to its value. A stage names one, built in or its own, as it names a reward:

    mix: {use: ranked, right: math, score: judge}        mix: {use: "my_mixes.py:product", floor: 0.1}

    def product(scored, *, floor=0.0):
        return max(floor, scored.parts["math"] * scored.parts["length"])

It is arithmetic and runs in the engine's own process. Without one the rewards are summed by weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rlcore.errors import RecipeError
from rlcore.plugin import Named, build_later, did_you_mean
from rlcore.scoring.forms import RewardSpec
from rlcore.types import SCORED, Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """What a mix sees of one answer."""

    parts: Mapping[str, float]
    """Values by name: of each reward, and of each part of a reward as `reward/part`; those without a value are absent."""
    weights: Mapping[str, float]
    """The weights of the rewards by name."""
    finished: bool = True
    """The model ended the answer itself."""
    tokens: int = 0

    def total(self, *, without: str = "") -> float:
        """Sum of weight x value, over all rewards with a weight but one."""
        return sum(
            weight * self.parts[name]
            for name, weight in self.weights.items()
            if weight != 0 and name != without
        )


Mix = Callable[[Scored], float]


def weighted_sum(scored: Scored, *, weights: Mapping[str, float] | None = None) -> float:
    """Sum of weight x value. weights: of parts by name instead of the rewards' own, for a reward of several dimensions.

    EduAlign's: `{use: sum, weights: {hpc/helpful: 0.5, hpc/personal: 0.25, hpc/creative: 0.25}}`.
    """
    return (
        scored.total()
        if weights is None
        else sum(weight * scored.parts[name] for name, weight in weights.items())
    )


def unless_unfinished(scored: Scored, *, penalty: float = -10.0, min_tokens: int = 0) -> float:
    """The weighted sum, replaced by `penalty` for an answer the model did not end itself: Tulu 3 (arXiv 2411.15124).

    Replaced, not added: a right but unfinished answer earns the penalty too. An end before `min_tokens` tokens does not count as
    one. Tulu 3 gives a right answer 10: `weight: 10` on the verifier.
    """
    return scored.total() if scored.finished and scored.tokens >= min_tokens else penalty


def ranked(scored: Scored, *, right: str, score: str, alpha: float = 0.5) -> float:
    """sigmoid(alpha x score) + (right - 1): Qwen2.5-Math (arXiv 2409.12122).

    right: name of a verifier that gives 0 or 1; score: name of a reward model.
    Right answers get 0 to 1 and wrong ones -1 to 0, so no wrong one beats a right one; the model's score ranks them within.
    """
    return 0.5 * (1.0 + math.tanh(0.5 * alpha * scored.parts[score])) + scored.parts[right] - 1.0


def by_correctness(scored: Scored, *, right: str, only: str) -> float:
    """The weighted sum, with reward `only` at most 0 where reward `right` is not above 0: the length penalty of Kimi k1.5.

    Source: arXiv 2501.12599, with `only` the reward `relative_length`. Its weight is not given there.
    """
    bonus = scored.parts[only] if scored.parts[right] > 0 else min(0.0, scored.parts[only])
    return scored.total(without=only) + scored.weights[only] * bonus


MIXES: Mapping[str, str] = {
    "sum": "rlcore.scoring.aggregate:weighted_sum",
    "unless_unfinished": "rlcore.scoring.aggregate:unless_unfinished",
    "ranked": "rlcore.scoring.aggregate:ranked",
    "by_correctness": "rlcore.scoring.aggregate:by_correctness",
}


def build_mix(named: Named, rewards: Sequence[RewardSpec]) -> Mix:
    """The mix a recipe names, with its parameters. Raises `RecipeError` if there is none, or for a reward that is not there."""
    rule: Mix = build_later(named, MIXES, what="mix", given=1)
    use = named if isinstance(named, str) else named["use"]
    try:
        rule(
            Scored(parts=_AnyPart({spec.name: 1.0 for spec in rewards}), weights=_weights(rewards))
        )
    except KeyError as missing:
        names = [spec.name for spec in rewards]
        raise RecipeError(
            f"mix {use!r} asks for a reward {missing}{did_you_mean(str(missing.args[0]), names)}"
        ) from None
    except Exception as error:
        raise RecipeError(
            f"mix {use!r} raised {type(error).__name__} ({error}) on rewards that are all 1"
        ) from error
    return rule


def mix(
    rewards: Sequence[RewardSpec],
    verdicts: Sequence[Verdict],
    rule: Mix = weighted_sum,
    *,
    finished: bool = True,
    tokens: int = 0,
) -> Verdict:
    """One verdict of several rewards on one answer: the value is the rule's, `parts` are the raw values by name.

    If a reward with a weight other than 0 gave no value, neither does the mix: it takes the status of the first such one. Only
    an `optional` reward may say None of answers it does not apply to, as TRL's functions do, and is left out. A rule that raises
    is `crashed`. `wrong-format` of any reward stays visible when all have a value.
    """
    parts: dict[str, float | None] = {}
    for spec, verdict in zip(rewards, verdicts, strict=True):
        parts[spec.name] = verdict.value
        parts.update({f"{spec.name}/{part}": value for part, value in verdict.parts.items()})
    counted = [
        (spec, verdict) for spec, verdict in zip(rewards, verdicts, strict=True) if spec.weight != 0
    ]
    applying = [
        (spec, verdict)
        for spec, verdict in counted
        if not (spec.optional and verdict.status == "unscorable")
    ]
    for _, verdict in applying or counted:
        if verdict.status not in SCORED:
            return Verdict(value=None, status=verdict.status, parts=parts, reason=verdict.reason)
    known = {name: part for name, part in parts.items() if part is not None}
    weights = _weights([spec for spec in rewards if spec.weight == 0 or spec.name in known])
    try:
        value = float(rule(Scored(parts=known, weights=weights, finished=finished, tokens=tokens)))
    except Exception as error:
        return Verdict(
            value=None,
            status="crashed",
            parts=parts,
            reason=f"the mix raised {type(error).__name__}: {error}",
        )
    if not math.isfinite(value):
        return Verdict(value=None, status="unscorable", parts=parts, reason=f"the mix gave {value}")
    misformed = [verdict for _, verdict in applying if verdict.status == "wrong-format"]
    return Verdict(
        value=value,
        status="wrong-format" if misformed else "ok",
        parts=parts,
        reason="; ".join(verdict.reason for _, verdict in applying if verdict.reason),
    )


def part_weights(named: Named, rewards: Sequence[RewardSpec]) -> dict[str, float]:
    """What `credit.normalise_parts` weighs: the parts of a plain sum by name. Raises `RecipeError` for any other mix."""
    params = {} if isinstance(named, str) else named
    if (named if isinstance(named, str) else params.get("use")) != "sum":
        raise RecipeError(
            "credit.normalise_parts sums the parts itself: it goes with `mix: sum` only"
        )
    weights = params.get("weights") or _weights(rewards)
    return {name: weight for name, weight in weights.items() if weight != 0}


def _weights(rewards: Sequence[RewardSpec]) -> dict[str, float]:
    return {spec.name: spec.weight for spec in rewards}


class _AnyPart(dict[str, float]):
    """Values of rewards, and of any part of one of them, whose names nobody knows before it has run."""

    def __missing__(self, name: str) -> float:
        if "/" in name and name.partition("/")[0] in self:
            return 1.0
        raise KeyError(name)
