"""From the verdicts of several rewards on one completion to one verdict.

An aggregate is a function from the rewards' values for one completion to its value. A stage names
one, built in or its own, as it names a reward:

    aggregate: {use: ranked, right: math, score: judge}
    aggregate: {use: "my_aggregates.py:product", floor: 0.1}

    def product(scored, *, floor=0.0):
        return max(floor, scored.parts["math"] * scored.parts["length"])

It is plain arithmetic and runs in the engine's own process. The default is the weighted sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rlcore.errors import RecipeError
from rlcore.plugin import Named, build_later, did_you_mean
from rlcore.scoring.forms import RewardSpec
from rlcore.types import SCORED, Verdict
from rlcore.types.task import Status


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """What an aggregate sees of one completion."""

    parts: Mapping[str, float]
    """Values of the rewards by name, and of their parts as `reward/part`; missing values are left
    out."""
    weights: Mapping[str, float]
    """Weights of the rewards by name."""
    finished: bool = True
    """Whether the model ended the completion itself."""
    tokens: int = 0

    def total(self, *, without: str = "") -> float:
        """Sum of weight x value over all rewards with a weight, except `without`."""
        return sum(
            weight * self.parts[name]
            for name, weight in self.weights.items()
            if weight != 0 and name != without
        )


Aggregate = Callable[[Scored], float]


def weighted_sum(scored: Scored, *, weights: Mapping[str, float] | None = None) -> float:
    """Sum of weight x value.

    weights: of parts by name, in place of the rewards' own weights; for a reward with several
    dimensions, such as EduAlign's
    `{use: sum, weights: {hpc/helpful: 0.5, hpc/personal: 0.25, hpc/creative: 0.25}}`.
    """
    if weights is None:
        return scored.total()
    return sum(weight * scored.parts[name] for name, weight in weights.items())


def unless_unfinished(scored: Scored, *, penalty: float = -10.0, min_tokens: int = 0) -> float:
    """The weighted sum, replaced by `penalty` if the model did not end the completion itself.

    Source: Tulu 3 (arXiv 2411.15124). It is replaced, not added: a right but unfinished completion
    gets the penalty too. An end before `min_tokens` tokens counts as unfinished. In Tulu 3 a right
    answer earns 10: set `weight: 10` on the verifier.
    """
    if scored.finished and scored.tokens >= min_tokens:
        return scored.total()
    return penalty


def ranked(scored: Scored, *, right: str, score: str, alpha: float = 0.5) -> float:
    """sigmoid(alpha x score) + (right - 1): Qwen2.5-Math (arXiv 2409.12122).

    right: name of a verifier that gives 0 or 1; score: name of a reward model.
    Right completions get 0 to 1 and wrong ones -1 to 0, so no wrong one beats a right one; the
    model's score ranks completions within both.
    """
    # sigmoid(x) = (1 + tanh(x / 2)) / 2, which cannot overflow
    sigmoid = 0.5 * (1.0 + math.tanh(0.5 * alpha * scored.parts[score]))
    return sigmoid + scored.parts[right] - 1.0


def by_correctness(scored: Scored, *, right: str, only: str) -> float:
    """The weighted sum, in which reward `only` gives at most 0 unless reward `right` is above 0.

    Source: the length penalty of Kimi k1.5 (arXiv 2501.12599), with `relative_length` as `only`.
    Its weight is not given there.
    """
    bonus = scored.parts[only]
    if scored.parts[right] <= 0:
        bonus = min(0.0, bonus)
    return scored.total(without=only) + scored.weights[only] * bonus


AGGREGATES: Mapping[str, str] = {
    "sum": "rlcore.scoring.aggregate:weighted_sum",
    "unless_unfinished": "rlcore.scoring.aggregate:unless_unfinished",
    "ranked": "rlcore.scoring.aggregate:ranked",
    "by_correctness": "rlcore.scoring.aggregate:by_correctness",
}


def build_aggregate(named: Named, rewards: Sequence[RewardSpec]) -> Aggregate:
    """The aggregate that a recipe names, with its parameters.

    Raises `RecipeError` if it does not exist, or uses a reward that does not exist.
    """
    rule: Aggregate = build_later(named, AGGREGATES, what="aggregate", given=1)
    use = named if isinstance(named, str) else named["use"]
    names = [spec.name for spec in rewards]
    trial = Scored(parts=_AnyPart.fromkeys(names, 1.0), weights=_weights(rewards))
    try:
        rule(trial)
    except KeyError as missing:
        hint = did_you_mean(str(missing.args[0]), names)
        raise RecipeError(f"aggregate {use!r} asks for a reward {missing}{hint}") from None
    except Exception as error:
        raise RecipeError(
            f"aggregate {use!r} raised {type(error).__name__} ({error}) on rewards that are all 1"
        ) from error
    return rule


def aggregate(
    rewards: Sequence[RewardSpec],
    verdicts: Sequence[Verdict],
    rule: Aggregate = weighted_sum,
    *,
    finished: bool = True,
    tokens: int = 0,
) -> Verdict:
    """One verdict of several rewards on one completion: the rule's value and the parts by name.

    If a reward with a weight other than 0 gave no value, the result has no value either and takes
    the status of the first such reward. An `optional` reward may return None for completions to
    which it does not apply, as TRL's functions do; it is then left out. A rule that raises gives
    `crashed`. `wrong-format` of any reward stays visible if all have a value.
    """
    parts = dict(_parts(rewards, verdicts))
    weighted = [
        (spec, verdict)
        for spec, verdict in zip(rewards, verdicts, strict=True)
        if spec.weight != 0
    ]
    applying = [verdict for spec, verdict in weighted if not _left_out(spec, verdict)]
    for verdict in applying or [verdict for _, verdict in weighted]:
        if verdict.status not in SCORED:
            return Verdict(
                value=None, status=verdict.status, parts=parts, reason=verdict.reason
            )
    wrong_format = any(verdict.status == "wrong-format" for verdict in applying)
    return by_rule(
        rewards,
        parts,
        rule,
        finished=finished,
        tokens=tokens,
        status="wrong-format" if wrong_format else "ok",
        reason="; ".join(verdict.reason for verdict in applying if verdict.reason),
    )


def by_rule(
    rewards: Sequence[RewardSpec],
    parts: Mapping[str, float | None],
    rule: Aggregate,
    *,
    finished: bool,
    tokens: int,
    status: Status = "ok",
    reason: str = "",
) -> Verdict:
    """The verdict whose value the rule makes of the parts that have one. status, reason: of the verdict if the rule gives a number."""
    values = {name: part for name, part in parts.items() if part is not None}
    weights = _weights([spec for spec in rewards if spec.weight == 0 or spec.name in values])
    try:
        value = float(
            rule(Scored(parts=values, weights=weights, finished=finished, tokens=tokens))
        )
    except Exception as error:
        reason = f"the aggregate raised {type(error).__name__}: {error}"
        return Verdict(value=None, status="crashed", parts=parts, reason=reason)
    if not math.isfinite(value):
        reason = f"the aggregate gave {value}"
        return Verdict(value=None, status="unscorable", parts=parts, reason=reason)
    return Verdict(value=value, status=status, parts=parts, reason=reason)


def part_weights(named: Named, rewards: Sequence[RewardSpec]) -> dict[str, float]:
    """The weights of the parts of a plain sum, which `credit.normalise_parts` uses.

    Raises `RecipeError` for any other aggregate.
    """
    params = {"use": named} if isinstance(named, str) else named
    if params.get("use") != "sum":
        raise RecipeError(
            "credit.normalise_parts sums the parts itself: it needs `aggregate: sum`"
        )
    weights = params.get("weights") or _weights(rewards)
    return {name: weight for name, weight in weights.items() if weight != 0}


def _parts(
    rewards: Sequence[RewardSpec], verdicts: Sequence[Verdict]
) -> Iterator[tuple[str, float | None]]:
    for spec, verdict in zip(rewards, verdicts, strict=True):
        yield spec.name, verdict.value
        for part, value in verdict.parts.items():
            yield f"{spec.name}/{part}", value


def _left_out(spec: RewardSpec, verdict: Verdict) -> bool:
    return spec.optional and verdict.status == "unscorable"


def _weights(rewards: Sequence[RewardSpec]) -> dict[str, float]:
    return {spec.name: spec.weight for spec in rewards}


class _AnyPart(dict[str, float]):
    """Values of rewards and of all their parts: the names of parts are not known before a call."""

    def __missing__(self, name: str) -> float:
        if "/" in name and name.partition("/")[0] in self:
            return 1.0
        raise KeyError(name)
