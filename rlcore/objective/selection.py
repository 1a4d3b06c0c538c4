"""Presets that leave out tokens by comparing all tokens of a step.

A part of a term sees one micro-batch, so a rule about quantiles of the batch cannot be a part: its
gradient would depend on how the update was cut. Such a rule is the objective's `select` instead, a
function from the samples of a step, before its first update, to the same samples in which the tokens
that it leaves out have advantage 0. They keep their place in the averages. It knows the tokens by their
advantages and by two recorded log-probabilities, those of the policy that wrote them and (where it was
recomputed) those of the policy at the start of the step. `gather` joins the items of all processes, so
the choice does not depend on micro-batches, minibatches, packing or the number of processes.

Papers decide anew in each minibatch with the log-probabilities of the moment; up to the first update of a
step that is the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from rlcore.errors import RecipeError
from rlcore.objective.off_policy import behaviour_policy
from rlcore.objective.parts import clip, old_policy
from rlcore.objective.term import Objective, Selection, Term
from rlcore.types import Sample

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
    if not 0 < fraction <= 1:
        raise RecipeError(
            f"clip_cov: the fraction is {fraction:g}, but must be above 0 and at most 1"
        )
    term = Term(mask=clip(clip_low, clip_high), denominator=old_policy)
    return Objective((term,), select=_large_covariance(fraction, least, most))


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
        sums = (len(tokens), sum(t.advantage for t in tokens), sum(t.old for t in tokens))
        totals = [sum(values) for values in zip(*gather([sums]), strict=True)]
        count = max(1, totals[0])
        mean_advantage = totals[1] / count
        mean_logp = totals[2] / count
        candidates = []
        for token in tokens:
            covariance = (token.advantage - mean_advantage) * (token.old - mean_logp)
            if least < covariance < most:
                candidates.append((_lot(samples[token.sample], token.position), token))
        lots = sorted(gather([lot for lot, _ in candidates]))
        drawn = set(lots[: max(1, int(fraction * totals[0]))])
        return _without(samples, [token for lot, token in candidates if lot in drawn])

    return select


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
