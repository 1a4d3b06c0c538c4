"""From the sums of an update's micro-batches to its `StepReport`, and from several reports to one."""

from __future__ import annotations

from collections.abc import Sequence

from rlcore.objective.parts import Counts, everywhere
from rlcore.objective.term import Objective
from rlcore.types import StepReport

SUMS = ("entropy", "abs_advantage", "reduced", "kl", "recorded", "old_kl", "off_policy")
"""Sums over trained tokens in `BatchLoss.tally`, after the losses."""
MAXIMA = ("ratio_max", "old_ratio_max")
"""Maxima over trained tokens, the last values of `BatchLoss.tally`."""


def losses_by_name(objective: Objective, totals: Sequence[float]) -> dict[str, float]:
    names = [term.name for term in objective.terms]
    return dict(zip(names, totals[: len(names)], strict=True))


def build_report(
    objective: Objective,
    totals: Sequence[float],
    counts: dict[str, Counts],
    *,
    grad_norm: float,
    lr: float,
    model_tokens: int,
    forward_only_tokens: int,
) -> StepReport:
    """The report of one update. `totals` are the values of `BatchLoss.tally` over all micro-batches and ranks."""
    losses = losses_by_name(objective, totals)
    measured = dict(zip(SUMS + MAXIMA, totals[len(losses) :], strict=True))
    tokens = sum(count.tokens for count in counts.values())
    recorded = measured["recorded"]
    off_policy = measured["off_policy"]
    has_mask = any(term.mask is not everywhere for term in objective.terms)
    return StepReport(
        loss=sum(losses.values()),
        losses=losses,
        grad_norm=grad_norm,
        lr=lr,
        entropy=measured["entropy"] / tokens,
        kl=measured["kl"] / recorded if recorded else None,
        ratio_max=measured["ratio_max"] if recorded else None,
        clip_frac=measured["reduced"] / tokens if has_mask else None,
        tokens=tokens,
        sequences=sum(count.sequences for count in counts.values()),
        updates=1,
        abs_advantage=measured["abs_advantage"] / tokens,
        old_kl=measured["old_kl"] / off_policy if off_policy else None,
        old_ratio_max=measured["old_ratio_max"] if off_policy else None,
        recorded_tokens=int(recorded),
        off_policy_tokens=int(off_policy),
        model_tokens=model_tokens,
        forward_only_tokens=forward_only_tokens,
    )


def empty_report(counts: dict[str, Counts], *, lr: float) -> StepReport:
    """The report of an update that was not applied, because no rank had a trained token."""
    return StepReport(
        loss=None,
        losses={},
        grad_norm=None,
        lr=lr,
        entropy=None,
        kl=None,
        ratio_max=None,
        clip_frac=None,
        tokens=0,
        sequences=sum(count.sequences for count in counts.values()),
    )


def merge_reports(reports: Sequence[StepReport], *, forward_only_tokens: int = 0) -> StepReport:
    """One report of several updates: means weighted by tokens, sums of counts, maxima of ratios, the last learning rate.

    forward_only_tokens: tokens read besides those that the reports count.
    """
    applied = [report for report in reports if report.updates]
    if not applied:
        return reports[-1]
    if len(applied) == 1 and not forward_only_tokens:
        return applied[0]
    losses = {}
    for name in applied[0].losses:
        pairs = [(report.losses[name], report.tokens) for report in applied]
        losses[name] = _weighted_mean(pairs)

    def mean(field: str, weight: str = "tokens") -> float | None:
        return _weighted_mean([(getattr(r, field), getattr(r, weight)) for r in applied])

    def largest(field: str) -> float | None:
        values = [getattr(report, field) for report in applied]
        return max((value for value in values if value is not None), default=None)

    def total(field: str) -> int:
        return sum(getattr(report, field) for report in applied)

    return StepReport(
        loss=mean("loss"),
        losses=losses,
        grad_norm=mean("grad_norm"),
        lr=applied[-1].lr,
        entropy=mean("entropy"),
        kl=mean("kl", "recorded_tokens"),
        ratio_max=largest("ratio_max"),
        clip_frac=mean("clip_frac"),
        tokens=total("tokens"),
        sequences=total("sequences"),
        updates=total("updates"),
        abs_advantage=mean("abs_advantage"),
        old_kl=mean("old_kl", "off_policy_tokens"),
        old_ratio_max=largest("old_ratio_max"),
        recorded_tokens=total("recorded_tokens"),
        off_policy_tokens=total("off_policy_tokens"),
        model_tokens=total("model_tokens"),
        forward_only_tokens=total("forward_only_tokens") + forward_only_tokens,
    )


def _weighted_mean(pairs: Sequence[tuple[float | None, int]]) -> float | None:
    """Of (value, weight); values that are None are left out."""
    measured = [(value, weight) for value, weight in pairs if value is not None]
    if not measured:
        return None
    weights = sum(weight for _, weight in measured)
    return sum(value * weight for value, weight in measured) / weights
