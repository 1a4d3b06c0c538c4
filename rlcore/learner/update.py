"""One optimiser update: samples in, parameters changed, a `StepReport` out."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from rlcore.errors import LearnerError
from rlcore.learner.gradient import BatchLoss, sums_over_tokens
from rlcore.learner.layout import layout_difference, tolerance
from rlcore.learner.offload import Offloaded
from rlcore.learner.optim import Average
from rlcore.learner.pack import Layout, MicroBatch, in_step, pack
from rlcore.learner.policy import Policy
from rlcore.learner.report import MAXIMA, build_report, empty_report, losses_by_name
from rlcore.learner.settings import OptimSettings
from rlcore.learner.sharding import optimizer_in_parts, reshard
from rlcore.learner.teacher_columns import reads_of_streams, require_scores
from rlcore.learner.token_record import TokenRecord
from rlcore.objective.parts import Counts
from rlcore.objective.term import Objective
from rlcore.types import Sample, StepReport


class Learner:
    """Trains a policy on samples. It knows no algorithm: credit is in the samples, the loss is the objective's.

    Every rank holds a learner and calls its methods together with the others. The gradient is that of the objective over
    the samples of all ranks, whatever the micro-batches, the order or the number of processes.
    """

    version: int
    """Counts publishes: the number under which engines serve the weights that this step began with. Set by the caller."""
    updates: int
    """Counts optimiser updates; the schedule follows it."""
    record: TokenRecord | None = None
    """Keeps log-probability and entropy of the trained tokens, where somebody takes them after each step."""

    def __init__(
        self,
        policy: Policy,
        objective: Objective,
        *,
        accelerator: Accelerator,
        micro_batch_tokens: int = 8192,
        layout: Layout = "auto",
        version: int = 0,
        reference: Policy | None = None,
        **optim: Any,
    ) -> None:
        """`optim` are the fields of `OptimSettings`; `lr` and `total_updates` are required.

        `reference` is only used if the objective reads one. By default it is the policy as it is now, so a resumed run must
        pass the one it began with, or under an adapter the base model.
        """
        self.policy = policy
        self.objective = objective
        self.accelerator = accelerator
        self.version = version
        self.updates = 0
        self.micro_batch_tokens = micro_batch_tokens
        self.layout = layout
        self._layout_checked = layout == "packed"
        self._one_pass = sums_over_tokens(objective)
        self._reads_of_stream = reads_of_streams(objective)
        self._settings = OptimSettings(**optim)
        self._schedule = self._settings.make_schedule()
        optimizer = self._settings.make_optimizer(policy.module)
        self._module, self._optimizer = accelerator.prepare(policy.module, optimizer)
        # After `prepare`, which shards the policy: the reference is then sharded like it.
        self._reference = None
        if objective.needs_reference:
            self._reference = policy.frozen(accelerator.device, reference)
        ema = self._settings.ema
        self.average = None if ema is None else Average(policy.module, ema)

    def update(self, samples: Sequence[Sample]) -> StepReport:
        """One optimiser update from the samples of all ranks; each rank gives its own, possibly none.

        The ratio of a sample is taken to its `old_logprobs`; without them to what the engine recorded, or, where the sample
        is of the learner's `version`, to the policy itself (ratio 1). So a caller that updates several times between two
        publishes must set `old_logprobs`, as `rlcore.learner.updates` does.

        If no rank has a trained token nothing changes, neither parameters nor optimiser nor schedule, and the report has 0
        tokens. Raises `LearnerError`, before any parameter is touched, where the loss or gradient is not finite, or where
        no term of the objective reads a sample's stream.
        """
        lr = self._settings.lr * self._schedule(self.updates)
        totals, agreed = self._accumulate(samples)
        if totals is None:
            return empty_report(agreed.counts, lr=lr)
        parameters = self._module.parameters()
        norm = self.accelerator.clip_grad_norm_(parameters, self._settings.clip_norm)
        grad_norm = float(norm)
        self._refuse_non_finite(totals, grad_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        self._optimizer.zero_grad()
        if self.average is not None:
            self.average.update()
        self.updates += 1
        report = build_report(
            self.objective,
            totals,
            agreed.counts,
            grad_norm=grad_norm,
            lr=lr,
            model_tokens=agreed.model_tokens,
            forward_only_tokens=0 if self._reference is None else agreed.model_tokens,
        )
        for control in self.objective.controls.values():
            control.observe(report.entropy)
        return report

    def accumulate(
        self, samples: Sequence[Sample]
    ) -> tuple[list[float] | None, dict[str, Counts]]:
        """The part of `update` before the optimiser: the gradient over the samples of all ranks, in the parameters.

        Returns the sum of all tallies (see `BatchLoss.tally`), None if nothing is trained, and the counts of each stream.
        """
        totals, agreed = self._accumulate(samples)
        return totals, agreed.counts

    @torch.no_grad()
    def with_old_logprobs(self, samples: Sequence[Sample]) -> tuple[list[Sample], int]:
        """The samples with the policy's present log-probabilities as `old_logprobs`, and the tokens read for it on all ranks.

        At each sample's own temperature; 0 at tokens that are not trained. Collective: each rank gives its own, possibly none.
        """
        old: list[list[float]] = [[0.0] * len(sample.token_ids) for sample in samples]
        batches = self._pack(samples)
        agreed = self._agree(batches)
        for number, batch in enumerate(in_step(batches, agreed.rounds)):
            batch = batch.to(self.accelerator.device, self.policy.dtype)
            logp, _ = self._module(*_inputs(batch))
            sequence_lengths = batch.row.bincount(minlength=len(batch.order)).tolist()
            by_sequence = logp.cpu().split(sequence_lengths)
            for index, values in zip(batch.order, by_sequence, strict=True):
                if number < len(batches):
                    _fill(old[index], samples[index].mask, values.tolist())
        reshard(self.policy.module)
        completed = []
        for sample, values in zip(samples, old, strict=True):
            completed.append(replace(sample, old_logprobs=values))
        return completed, agreed.model_tokens

    def sequence_logprobs(self, samples: Sequence[Sample]) -> list[float]:
        """The sum of the policy's present log-probabilities over each sample's trained tokens. Collective."""
        scored, _ = self.with_old_logprobs(samples)
        return [sum(sample.old_logprobs) for sample in scored]

    def state_dict(self) -> dict[str, Any]:
        """Optimiser, updates, version, averaged weights and moving coefficients; the weights themselves are the policy's to save.

        What is sharded stays so.
        """
        state = {
            "optimizer": self._optimizer.state_dict(),
            "updates": self.updates,
            "version": self.version,
        }
        if self.average is not None:
            state["average"] = self.average.state_dict()
        for name, control in self.objective.controls.items():
            state[f"objective/{name}"] = control.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken, or what a checkpoint has of it: `shard_files.with_stored`."""
        self._load_optimizer(state)
        self.updates = state["updates"]
        self.version = state["version"]
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        for name, control in self.objective.controls.items():
            control.load_state_dict(state[f"objective/{name}"])

    def take_moments(self, state: dict[str, Any]) -> None:
        """Begin with the optimiser's moments of another learner's state, and with this one's own settings and schedule."""
        own_settings = []
        for group in self._optimizer.param_groups:
            own_settings.append({k: value for k, value in group.items() if k != "params"})
        self._load_optimizer(state)
        for group, settings in zip(self._optimizer.param_groups, own_settings, strict=True):
            group.update(settings)

    def _load_optimizer(self, state: dict[str, Any]) -> None:
        # accelerate wraps it
        optimizer = getattr(self._optimizer, "optimizer", self._optimizer)
        stored = state["optimizer"]
        if not isinstance(optimizer, Offloaded):  # which cuts one tensor after another
            stored = optimizer_in_parts(stored, optimizer)
        optimizer.load_state_dict(stored)

    def _accumulate(self, samples: Sequence[Sample]) -> tuple[list[float] | None, _Agreed]:
        for sample in samples:
            if sample.stream not in self.objective.streams:
                streams = ", ".join(self.objective.streams)
                raise LearnerError(
                    f"sample {sample.id!r} is of stream {sample.stream!r}, which no term of the objective reads "
                    f"(they read {streams})"
                )
        require_scores(samples, self._reads_of_stream)
        batches = self._pack(samples)
        agreed = self._agree(batches)
        if agreed.rounds == 0:
            return None, agreed
        self._optimizer.zero_grad()
        tallies = []
        for number, batch in enumerate(in_step(batches, agreed.rounds)):
            # Gradients are summed over the ranks once, in the last backward pass.
            is_last = number == agreed.rounds - 1
            with nullcontext() if is_last else self.accelerator.no_sync(self._module):
                tally, logp, entropy = self._backward(batch, agreed.counts)
            tallies.append(tally)
            if self.record is not None and number < len(batches):
                self.record.add(samples, batch, logp, entropy)
        return self._sum_over_ranks(torch.stack(tallies)), agreed

    def _agree(self, batches: Sequence[MicroBatch]) -> _Agreed:
        """What all ranks must know of each other's micro-batches."""
        local = [float(len(batches)), float(sum(len(batch.token_ids) for batch in batches))]
        for stream in self.objective.streams:
            tokens = 0
            for batch in batches:
                index = batch.of_stream(stream)
                tokens += len(batch.row) if index is None else len(index)
            sequences = sum(batch.streams.count(stream) for batch in batches)
            local += [tokens, sequences]
        ranks = self._gather(torch.tensor(local, dtype=torch.float64))
        sums = [int(value) for value in ranks.sum(0)]
        counts = {}
        for number, stream in enumerate(self.objective.streams):
            counts[stream] = Counts(sums[2 + 2 * number], sums[3 + 2 * number])
        return _Agreed(counts=counts, rounds=int(ranks[:, 0].max()), model_tokens=sums[1])

    def _pack(self, samples: Sequence[Sample]) -> list[MicroBatch]:
        """Micro-batches in the layout, which is given up if the first ones that share tokens differ from packed ones."""
        settings = {"max_tokens": self.micro_batch_tokens, "version": self.version}
        batches = pack(samples, layout=self.layout, **settings)
        if self._layout_checked:
            return batches
        shares = torch.tensor([any(batch.shares for batch in batches)])
        if not self._gather(shares).any():
            return batches
        self._layout_checked = True
        local = layout_difference(
            self._module, self.policy, samples, batches, max_tokens=self.micro_batch_tokens
        )
        difference = self._gather(torch.tensor([local], dtype=torch.float64)).max().item()
        if difference <= tolerance(self.policy.arithmetic, self.accelerator.mixed_precision):
            return batches
        warnings.warn(
            "the shared layout is left out: its log-probabilities differ from the packed layout's "
            f"by {difference:.2g}",
            stacklevel=3,
        )
        self.layout = "packed"
        return pack(samples, layout="packed", **settings)

    def _backward(
        self, batch: MicroBatch, counts: dict[str, Counts]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Add a micro-batch's gradient. Returns its tally (see `BatchLoss.tally`), logp and entropy."""
        batch = batch.to(self.accelerator.device, self.policy.dtype)
        reference = None
        if self._reference is not None:
            with torch.no_grad():
                reference, _ = self._reference(*_inputs(batch))
        wide = "teacher_top" in self.objective.reads
        inputs = _inputs(batch, target=batch.with_top_ids if wide else batch.target)
        batch_loss = BatchLoss(self.objective, batch, counts, reference, pieces=self._one_pass)
        if self._one_pass:
            logp, entropy, loss = self._module(*inputs, loss=batch_loss)
        else:
            logp, entropy = self._module(*inputs)
            loss = batch_loss(logp, entropy, slice(None))
        # Data parallelism averages gradients over ranks, the objective is their sum.
        self.accelerator.backward(loss * self.accelerator.num_processes)
        return batch_loss.tally(logp, entropy), logp, entropy

    def _gather(self, values: Tensor) -> Tensor:
        """[k] of each rank -> [ranks, k], on the CPU."""
        return self.accelerator.gather(values.to(self.accelerator.device)[None]).cpu()

    def _sum_over_ranks(self, tallies: Tensor) -> list[float]:
        """Tallies [micro-batches, k] of each rank -> [k] over all: sums, and in the last places maxima."""
        sums = tallies[:, : -len(MAXIMA)].sum(0)
        maxima = tallies[:, -len(MAXIMA) :].amax(0)
        ranks = self._gather(torch.cat([sums, maxima]))
        all_sums = ranks[:, : -len(MAXIMA)].sum(0)
        all_maxima = ranks[:, -len(MAXIMA) :].amax(0)
        return [*all_sums.tolist(), *all_maxima.tolist()]

    def _refuse_non_finite(self, totals: list[float], grad_norm: float) -> None:
        losses = losses_by_name(self.objective, totals)
        if all(map(math.isfinite, [*losses.values(), grad_norm])):
            return
        self._optimizer.zero_grad()
        listed = ", ".join(f"{name} {value:g}" for name, value in losses.items())
        raise LearnerError(
            f"update {self.updates} is not finite (losses: {listed}; gradient norm: {grad_norm:g}) and was not applied: "
            "look for infinite rewards or advantages, or lower the learning rate"
        )


class _Agreed(NamedTuple):
    """Facts about the micro-batches of all ranks."""

    counts: dict[str, Counts]  # of each stream, over all ranks
    rounds: int  # forward passes that each rank must do
    model_tokens: int  # tokens the model reads, over all ranks


def _inputs(batch: MicroBatch, target: Tensor | None = None) -> tuple[Any, ...]:
    """Arguments of `PackedModule.forward`, in its order. target: in place of the batch's own."""
    return (
        batch.token_ids,
        batch.positions,
        batch.lengths,
        batch.source,
        batch.target if target is None else target,
        batch.temperature,
        batch.parents,
        batch.support,
    )


def _fill(values: list[float], mask: Sequence[bool], trained_values: Sequence[float]) -> None:
    """Write the values of the trained tokens to their positions."""
    positions = [position for position, is_trained in enumerate(mask) if is_trained]
    for position, value in zip(positions, trained_values, strict=True):
        values[position] = value
