"""Presets that leave out or mark tokens by comparing all tokens of a step.

A part of a term sees one micro-batch, so a rule about quantiles of the batch cannot be a part: its
gradient would depend on how the update was cut. Such a rule is the objective's `select` instead, a
function from the samples of a step, before its first update, to the same samples in which the tokens
that it leaves out have advantage 0, or in which some are marked for a term that reads `tokens.marked`.
They keep their place in the averages. It knows the tokens by their advantages and by two recorded
log-probabilities, those of the policy that wrote them and (where it was recomputed) those of the policy
at the start of the step. `gather` joins the items of all processes, so the choice does not depend on
micro-batches, minibatches, packing or the number of processes.

Papers decide anew in each minibatch with the log-probabilities of the moment; up to the first update of a
step that is the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from rlcore.errors import RecipeError
from rlcore.objective.off_policy import behaviour_policy
from rlcore.objective.parts import clip, old_policy
from rlcore.objective.term import Objective, Selection, Term
from rlcore.objective.tokens import Tokens, reads
from rlcore.types import Sample

if TYPE_CHECKING:
    from torch import Tensor

    from rlcore.objective.parts import Advantage

Gather = Callable[[Iterable[Any]], list[Any]]
"""The items of all processes, on every process."""


class _Token(NamedTuple):
    """A trained token of the policy's stream, and where it stands."""

    sample: int
    position: int
    advantage: float
    behaviour: float
    """Log-probability under the policy that wrote it, as the engine recorded it."""
    old: float
    """Under the policy at the start of the step; `behaviour` where that was not recomputed."""


def m2po(threshold: float = 0.04) -> Objective:
    """M2PO (arXiv 2510.01161): token mean of -M r A log pi, r constant, without a clip.

    r = pi / mu is taken to the policy mu that wrote the token, so no correction is needed. M leaves
    out the fewest tokens such that the mean of (log r)^2 over the others is at most `threshold`: those
    with the largest |log r|, at the start of the step and over all its tokens. If no such set
    exists, all but the smallest are left out; equal ones go together. For stale tokens: it
    needs `max_staleness` above 0, and `old_logprobs: trainer`, which measures log r; tokens of the
    current version whose log-probability was not recomputed count as r = 1. What the policy moves
    within a step is not looked at again.
    """
    if threshold <= 0:
        raise RecipeError(f"m2po: the threshold is {threshold:g}, but must be above 0")
    term = Term(denominator=behaviour_policy)
    return Objective((term,), select=_small_second_moment(threshold))


def clip_cov(
    fraction: float = 2e-4,
    least: float = 1.0,
    most: float = 5.0,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> Objective:
    """Clip-Cov (arXiv 2505.22617): PPO's clipped loss, token mean, without the tokens
    that lower entropy most.

    A token's covariance is (A - mean A) (log pi - mean log pi), means over the tokens of the step.
    Of those between `least` and `most`, as many as `fraction` of all tokens (at least one) are drawn
    at random and left out. log pi is that of the policy at the start of the step. The draw depends
    on the ids of the rollouts alone.
    """
    _check_fraction("clip_cov", fraction)
    term = Term(mask=clip(clip_low, clip_high), denominator=old_policy)
    return Objective((term,), select=_large_covariance(fraction, least, most))


def kl_cov(fraction: float = 2e-3, beta: float = 1.0) -> Objective:
    """KL-Cov (arXiv 2505.22617): token mean of -r A, plus beta |log r| at the tokens of largest covariance.

    The covariance is that of `clip_cov`. As many as `fraction` of all tokens of the step (at least one),
    those of the largest, are held near the policy at its start; no ratio is clipped. The paper takes
    fraction 2e-3 for 7B and 2e-4 for 32B, and beta 1. The pull is 0 in the first update of a step, where
    r is 1: it needs several (minibatches, update_epochs) or stale tokens.
    """
    _check_fraction("kl_cov", fraction)
    near = Term(advantage=_back_to_old(beta), name="kl_cov")
    return Objective((Term(denominator=old_policy), near), select=_mark_largest(fraction))


def _check_fraction(name: str, fraction: float) -> None:
    if not 0 < fraction <= 1:
        raise RecipeError(
            f"{name}: the fraction is {fraction:g}, but must be above 0 and at most 1"
        )


def _back_to_old(beta: float) -> Advantage:
    """-beta sign(log r) at marked tokens, 0 elsewhere: the descent of beta |log r|."""

    @reads("marked")
    def advantage(tokens: Tokens) -> Tensor:
        sign = (tokens.logp - tokens.old).sign()
        return -beta * sign * tokens.marked.to(sign.dtype)

    return advantage


def _mark_largest(fraction: float) -> Selection:
    def select(samples: Sequence[Sample], gather: Gather) -> list[Sample]:
        tokens = list(_tokens(samples))
        covariances, total = _covariances(tokens, gather)
        # Its lot tells tokens of equal covariance apart, in all processes alike.
        ranked = [
            (covariance, _lot(samples[token.sample], token.position))
            for covariance, token in zip(covariances, tokens, strict=True)
        ]
        number = max(1, int(fraction * total))
        largest = set(sorted(gather(ranked), reverse=True)[:number])
        chosen = [token for rank, token in zip(ranked, tokens, strict=True) if rank in largest]
        return _marked(samples, chosen)

    return select


def _small_second_moment(threshold: float) -> Selection:
    def select(samples: Sequence[Sample], gather: Gather) -> list[Sample]:
        tokens = list(_tokens(samples))
        distances = sorted(gather([abs(token.old - token.behaviour) for token in tokens]))
        limit = _largest_kept(distances, threshold)
        return _without(
            samples, [token for token in tokens if abs(token.old - token.behaviour) > limit]
        )

    select.compares_stale = True  # type: ignore[attr-defined]
    return select


def _largest_kept(distances: Sequence[float], threshold: float) -> float:
    """The largest of the ascending `distances` with which the mean square is at most `threshold`."""
    kept = distances[0] if distances else 0.0
    squares = 0.0
    for count, distance in enumerate(distances, start=1):
        squares += distance**2
        # Ascending, so the mean only grows.
        if squares / count > threshold:
            break
        kept = distance
    return kept


def _large_covariance(fraction: float, least: float, most: float) -> Selection:
    def select(samples: Sequence[Sample], gather: Gather) -> list[Sample]:
        tokens = list(_tokens(samples))
        covariances, total = _covariances(tokens, gather)
        candidates = []
        for covariance, token in zip(covariances, tokens, strict=True):
            if least < covariance < most:
                candidates.append((_lot(samples[token.sample], token.position), token))
        lots = sorted(gather([lot for lot, _ in candidates]))
        drawn = set(lots[: max(1, int(fraction * total))])
        return _without(samples, [token for lot, token in candidates if lot in drawn])

    return select


def _covariances(tokens: Sequence[_Token], gather: Gather) -> tuple[list[float], int]:
    """(A - mean A) (log pi - mean log pi) of each token, and the number of tokens of all processes."""
    sums = (len(tokens), sum(t.advantage for t in tokens), sum(t.old for t in tokens))
    totals = [sum(values) for values in zip(*gather([sums]), strict=True)]
    count = max(1, totals[0])
    mean_advantage = totals[1] / count
    mean_logp = totals[2] / count
    covariances = [
        (token.advantage - mean_advantage) * (token.old - mean_logp) for token in tokens
    ]
    return covariances, totals[0]


def _lot(sample: Sample, position: int) -> float:
    """A random number that belongs to the token."""
    return random.Random(f"{sample.id}, {sample.part}, {position}").random()


def _tokens(samples: Sequence[Sample]) -> Iterator[_Token]:
    """Trained tokens that some policy wrote; demonstrations and text are left alone."""
    for index, sample in enumerate(samples):
        behaviour = sample.logprobs
        if behaviour is None or sample.stream != "policy":
            continue
        old = sample.old_logprobs or behaviour
        for position, is_trained in enumerate(sample.mask):
            if is_trained:
                yield _Token(
                    index,
                    position,
                    sample.advantages[position],
                    behaviour[position],
                    old[position],
                )


def _without(samples: Sequence[Sample], tokens: Iterable[_Token]) -> list[Sample]:
    """The samples with advantage 0 at these tokens."""
    changed: dict[int, list[float]] = {}
    for token in tokens:
        if token.sample not in changed:
            changed[token.sample] = list(samples[token.sample].advantages)
        changed[token.sample][token.position] = 0.0
    return [
        replace(sample, advantages=changed[index]) if index in changed else sample
        for index, sample in enumerate(samples)
    ]


def _marked(samples: Sequence[Sample], tokens: Iterable[_Token]) -> list[Sample]:
    """The samples with these tokens marked."""
    marks = [[False] * len(sample.token_ids) for sample in samples]
    for token in tokens:
        marks[token.sample][token.position] = True
    return [
        replace(sample, marked=marked) if any(marked) else sample
        for sample, marked in zip(samples, marks, strict=True)
    ]
