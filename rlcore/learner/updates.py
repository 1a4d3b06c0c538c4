"""The updates of one step: its samples in minibatches, passed once or several times.

    minibatches k, update epochs e: k * e optimiser updates, each with its own global counts

Three policies are told apart. The *behaviour* policy wrote the tokens; its log-probabilities are those the engine
recorded. The *old* policy is the denominator of the importance ratio. The *current* policy is being trained. As long as
no update of the step has been applied, the old policy of tokens of the learner's version is the current one, so their
ratio is exactly 1: with k = e = 1 and no stale tokens nothing else happens here, and no forward pass is added. From the
second update on, and for stale tokens, the ratio is taken to `old_logprobs`:

    trainer   recomputed by the learner before the first update; behaviour -> old is left to the objective's `correction`
    engine    as the engine recorded them: behaviour and old policy are one, and a correction has nothing to correct

Minibatches are cut over the groups (or sequences) of all ranks, so that the updates do not depend on the number of ranks.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from accelerate.utils import gather_object

from rlcore.errors import LearnerError
from rlcore.learner.report import merge_reports
from rlcore.learner.update import Learner
from rlcore.objective.term import Selection
from rlcore.types import Sample, StepReport

OldLogprobs = Literal["trainer", "engine"]
By = Literal["group", "sequence"]
Gather = Callable[[Iterable[Any]], list[Any]]
"""The items of all ranks in rank order, on every rank."""


@dataclass(slots=True)
class _Unit:
    """Samples that stay in one minibatch: a group or a single sequence."""

    key: tuple[Any, ...]
    """Its place in the global order, unique over all ranks."""
    samples: list[Sample]


def run_updates(
    learner: Learner,
    groups: Sequence[tuple[Hashable, Sequence[Sample]]],
    *,
    minibatches: int = 1,
    update_epochs: int = 1,
    seed: int,
    by: By = "group",
    old_logprobs: OldLogprobs = "trainer",
    gather: Gather | None = None,
) -> StepReport:
    """All updates of one step. Collective: every rank calls it with its own groups, possibly none.

    groups: (key, samples) with credit already done. Keys order the groups of all ranks: they must be comparable and unique
    over all ranks, and must not depend on the number of ranks. seed: of this step; it shuffles the order anew in each epoch.
    gather: by default accelerate's.

    Groups without a trained token are left out before the cut. With fewer groups than minibatches there are fewer updates.
    Returns one report of all updates, see `rlcore.learner.report.merge_reports`. `learner.version` does not change.
    """
    gather = gather or _default_gather(learner)
    units = _units(groups, by)
    # after the first update every sample needs old log-probabilities, before it only stale ones do
    several_updates = minibatches * update_epochs > 1
    needs_old = [
        (unit.key, several_updates or _any_stale(unit.samples, learner.version))
        for unit in units
    ]
    needs_old_of_all = gather(needs_old)
    keys = _global_order([key for key, _ in needs_old_of_all])
    forward_only_tokens = 0
    if old_logprobs == "trainer" and any(needs for _, needs in needs_old_of_all):
        forward_only_tokens = _recompute(learner, units, only_stale=not several_updates)
    if learner.objective.select is not None:
        _select(learner.objective.select, units, gather)

    updates_before = learner.updates
    reports = []
    for epoch in range(update_epochs):
        for chosen in cut(keys, minibatches, seed=seed, epoch=epoch):
            is_first = learner.updates == updates_before
            samples = []
            for unit in units:  # in the rank's own order, which the shuffle does not change
                if unit.key in chosen:
                    samples += [
                        _with_old_logprobs_for_this_update(
                            sample, learner.version, is_first, old_logprobs
                        )
                        for sample in unit.samples
                    ]
            reports.append(learner.update(samples))
    if not reports:
        return learner.update([])
    return merge_reports(reports, forward_only_tokens=forward_only_tokens)


def cut(
    keys: Sequence[tuple[Any, ...]], minibatches: int, *, seed: int, epoch: int
) -> list[set[tuple[Any, ...]]]:
    """Members of each minibatch of one epoch: `keys` shuffled and cut into nearly equal parts, empty ones left out."""
    shuffled = list(keys)
    random.Random(f"minibatches of {seed}, epoch {epoch}").shuffle(shuffled)
    bounds = [len(keys) * number // minibatches for number in range(minibatches + 1)]
    parts = [set(shuffled[bounds[i] : bounds[i + 1]]) for i in range(minibatches)]
    return [part for part in parts if part]


def _units(groups: Sequence[tuple[Hashable, Sequence[Sample]]], by: By) -> list[_Unit]:
    units = []
    for key, samples in groups:
        if by == "group":
            units.append(_Unit((key,), list(samples)))
        else:
            for index, sample in enumerate(samples):
                units.append(_Unit((key, index), [sample]))
    return [unit for unit in units if any(any(sample.mask) for sample in unit.samples)]


def _global_order(keys: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    ordered = sorted(keys)
    for first, second in zip(ordered, ordered[1:], strict=False):
        if first == second:
            raise LearnerError(
                f"two groups of the step have the key {first[0]!r}: keys must be unique over all ranks"
            )
    return ordered


def _is_stale(sample: Sample, version: int) -> bool:
    """Whether the engine recorded log-probabilities of it under other weights than the step begins with."""
    return sample.logprobs is not None and sample.version != version


def _any_stale(samples: Sequence[Sample], version: int) -> bool:
    return any(_is_stale(sample, version) for sample in samples)


def _recompute(learner: Learner, units: Sequence[_Unit], *, only_stale: bool) -> int:
    """Set `old_logprobs` of the units' samples to the policy's present ones. Returns the tokens read on all ranks."""
    places = []
    samples = []
    for unit in units:
        for index, sample in enumerate(unit.samples):
            if sample.logprobs is None or (
                only_stale and not _is_stale(sample, learner.version)
            ):
                continue
            places.append((unit, index))
            samples.append(sample)
    completed, tokens = learner.with_old_logprobs(samples)
    for (unit, index), sample in zip(places, completed, strict=True):
        unit.samples[index] = sample
    return tokens


def _select(select: Selection, units: Sequence[_Unit], gather: Gather) -> None:
    """Let the objective leave out tokens of the step's samples. Collective."""
    kept = iter(select([sample for unit in units for sample in unit.samples], gather))
    for unit in units:
        unit.samples = [next(kept) for _ in unit.samples]


def _with_old_logprobs_for_this_update(
    sample: Sample, version: int, is_first: bool, old_logprobs: OldLogprobs
) -> Sample:
    """The sample with the `old_logprobs` that its ratio is taken to in the next update; None for the policy itself."""
    if sample.logprobs is None:  # a demonstration or text: nobody recorded anything
        return sample
    if is_first and sample.version == version:
        # the log-probability that is being computed takes their place, and the ratio is 1
        return replace(sample, old_logprobs=None)
    if old_logprobs == "engine":
        return replace(sample, old_logprobs=sample.logprobs)
    return sample  # _recompute has set them


def _default_gather(learner: Learner) -> Gather:
    if learner.accelerator.num_processes == 1:
        return list
    return lambda items: gather_object(list(items))
