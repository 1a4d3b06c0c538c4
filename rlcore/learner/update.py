"""One optimiser step: samples in, parameters changed, a `StepReport` out."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from rlcore.errors import LearnerError
from rlcore.learner.gradient import BatchLoss, sums_over_tokens
from rlcore.learner.layout import layout_difference, tolerance
from rlcore.learner.optim import OPTIMIZERS, Average, Schedule
from rlcore.learner.pack import Layout, MicroBatch, idle_micro_batch, pack
from rlcore.learner.policy import Policy
from rlcore.learner.sharding import gathered, optimizer_in_parts
from rlcore.objective.parts import Counts, everywhere
from rlcore.objective.term import Objective
from rlcore.types import Sample, StepReport


class Learner:
    """Trains a policy on samples. It knows no algorithm: credit is in the samples, the loss is the objective's.

    Every rank holds a learner and calls its methods together with the others. The gradient is that of the objective over the
    samples of all ranks, whatever the micro-batches, the order or the number of processes.
    """

    version: int
    """Counts parameter changes; the weights an engine serves under this number are the ones held now."""

    def __init__(
        self,
        policy: Policy,
        objective: Objective,
        *,
        accelerator: Accelerator,
        lr: float,
        total_steps: int,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.0,
        clip_norm: float = 1.0,
        optimizer: str = "adamw",
        schedule: str = "constant",
        warmup_steps: int = 0,
        min_lr_ratio: float = 0.0,
        rex_d: float = 0.5,
        decay_shape: str = "linear",
        decay_share: float = 0.1,
        ema: float | None = None,
        micro_batch_tokens: int = 8192,
        layout: Layout = "auto",
        temperature: float = 1.0,
        version: int = 0,
        reference: Policy | None = None,
    ) -> None:
        """`temperature` is the one the samples were drawn at, `optimizer` one of `OPTIMIZERS`, `schedule` a name of `Schedule`;
        `ema` is the decay of the `Average` to keep, if any. `reference` is only used if the objective reads one; by default it is
        the policy as it is now, so a resumed run must give the one it began with, or under an adapter the base model."""
        self.policy, self.objective, self.accelerator, self.version = (
            policy,
            objective,
            accelerator,
            version,
        )
        self.lr, self.clip_norm, self.temperature, self.micro_batch_tokens = (
            lr,
            clip_norm,
            temperature,
            micro_batch_tokens,
        )
        self._schedule = Schedule(
            name=schedule,
            total=total_steps,
            warmup=warmup_steps,
            floor=min_lr_ratio,
            rex_d=rex_d,
            decay_shape=decay_shape,
            decay_share=decay_share,
        )
        self.layout, self._proven = layout, layout == "packed"
        self._one_pass = sums_over_tokens(objective)
        self._updates = 0
        self._reference = None
        if objective.needs_reference:
            device = accelerator.device
            self._reference = (
                reference.module.to(device).requires_grad_(False)
                if reference
                else policy.frozen(device)
            )
        made = OPTIMIZERS[optimizer](policy.module, lr=lr, betas=betas, weight_decay=weight_decay)
        self._module, self._optimizer = accelerator.prepare(policy.module, made)
        self.average = None if ema is None else Average(policy.module, ema)

    def step(self, samples: Sequence[Sample]) -> StepReport:
        """One update from the samples of all ranks; each rank gives its own, possibly none.

        If no rank has a trained token nothing changes, neither parameters nor optimiser, schedule and version, and the report has
        0 tokens. Raises `LearnerError`, before any parameter is touched, where the loss or gradient is not finite, or where no
        term of the objective reads a sample's stream.
        """
        totals, counts = self.accumulate(samples)
        lr = self.lr * self._schedule(self._updates)
        if totals is None:
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
        grad_norm = float(
            self.accelerator.clip_grad_norm_(self._module.parameters(), self.clip_norm)
        )
        self._refuse_non_finite(totals, grad_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        self._optimizer.zero_grad()
        if self.average is not None:
            self.average.update()
        self._updates += 1
        self.version += 1
        return self._report(totals, grad_norm, lr, counts)

    def accumulate(self, samples: Sequence[Sample]) -> tuple[list[float] | None, dict[str, Counts]]:
        """The part of `step` before the update: the gradient of the objective over the samples of all ranks, in the parameters.

        Returns the sum of all tallies (see `BatchLoss.tally`), None if nothing is trained, and the counts of each stream.
        """
        for sample in samples:
            if sample.stream not in self.objective.streams:
                raise LearnerError(
                    f"sample {sample.id!r} is of stream {sample.stream!r}, which no term of the objective reads "
                    f"(they read {', '.join(self.objective.streams)})"
                )
        batches = self._pack(samples)
        counts, rounds = self._agree(batches)
        if rounds == 0:
            return None, counts
        self._optimizer.zero_grad()
        tallies = []
        for number in range(rounds):
            batch = batches[number] if number < len(batches) else idle_micro_batch()
            last = number == rounds - 1
            with nullcontext() if last else self.accelerator.no_sync(self._module):
                tallies.append(self._backward(batch, counts))
        return self._sum_over_ranks(torch.stack(tallies)), counts

    def state_dict(self) -> dict[str, Any]:
        """Optimiser, schedule position, version and averaged weights; the weights themselves are the policy's to save.

        Collective; what is sharded is whole on the first rank, and missing on the others."""
        state = {
            "optimizer": gathered(self._optimizer.state_dict()),
            "updates": self._updates,
            "version": self.version,
        }
        return state if self.average is None else state | {"average": self.average.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken; every rank is given the first one's."""
        optimizer = getattr(self._optimizer, "optimizer", self._optimizer)  # accelerate wraps it
        optimizer.load_state_dict(optimizer_in_parts(state["optimizer"], optimizer))
        self._updates, self.version = state["updates"], state["version"]
        if self.average is not None:
            self.average.load_state_dict(state["average"])

    def _agree(self, batches: Sequence[MicroBatch]) -> tuple[dict[str, Counts], int]:
        """Counts of each stream over all ranks, and how many forward passes each rank must do."""
        mine = [float(len(batches))]
        for stream in self.objective.streams:
            chosen = [(batch, batch.of_stream(stream)) for batch in batches]
            mine.append(
                sum(len(batch.row) if index is None else len(index) for batch, index in chosen)
            )
            mine.append(sum(batch.streams.count(stream) for batch in batches))
        ranks = self._gather(torch.tensor(mine, dtype=torch.float64))
        sums = [int(value) for value in ranks[:, 1:].sum(0)]
        counts = {
            stream: Counts(sums[2 * i], sums[2 * i + 1])
            for i, stream in enumerate(self.objective.streams)
        }
        return counts, int(ranks[:, 0].max())

    def _pack(self, samples: Sequence[Sample]) -> list[MicroBatch]:
        """Micro-batches in the layout, which is given up if the first ones that share tokens differ from packed ones."""
        batches = pack(
            samples, max_tokens=self.micro_batch_tokens, version=self.version, layout=self.layout
        )
        if (
            self._proven
            or not self._gather(torch.tensor([any(batch.shares for batch in batches)])).any()
        ):
            return batches
        self._proven = True
        mine = layout_difference(
            self._module, self.policy, samples, batches, max_tokens=self.micro_batch_tokens
        )
        difference = self._gather(torch.tensor([mine], dtype=torch.float64)).max().item()
        if difference <= tolerance(self.policy.arithmetic, self.accelerator.mixed_precision):
            return batches
        sentence = f"the shared layout is left out: its log-probabilities differ from the packed layout's by {difference:.2g}"
        warnings.warn(sentence, stacklevel=3)
        self.layout = "packed"
        return pack(samples, max_tokens=self.micro_batch_tokens, version=self.version)

    def _backward(self, batch: MicroBatch, counts: dict[str, Counts]) -> Tensor:
        """Add a micro-batch's gradient. Returns its tally, see `BatchLoss.tally`."""
        batch = batch.to(self.accelerator.device, self.policy.dtype)
        inputs = (
            batch.token_ids,
            batch.positions,
            batch.lengths,
            batch.source,
            batch.target,
            self.temperature,
            batch.parents,
            batch.support,
        )
        reference = None
        if self._reference is not None:
            with torch.no_grad():
                reference, _ = self._reference(*inputs)
        part = BatchLoss(self.objective, batch, counts, reference, pieces=self._one_pass)
        if self._one_pass:
            logp, entropy, loss = self._module(*inputs, loss=part)
        else:
            logp, entropy = self._module(*inputs)
            loss = part(logp, entropy, slice(None))
        # Data parallelism averages gradients over ranks, the objective is their sum.
        self.accelerator.backward(loss * self.accelerator.num_processes)
        return part.tally(logp, entropy)

    def _gather(self, values: Tensor) -> Tensor:
        """[k] of each rank -> [ranks, k], on the CPU."""
        return self.accelerator.gather(values.to(self.accelerator.device)[None]).cpu()

    def _sum_over_ranks(self, tallies: Tensor) -> list[float]:
        """Tallies [micro-batches, k] of each rank -> [k] over all: sums, and in the last place the maximum."""
        ranks = self._gather(torch.cat([tallies[:, :-1].sum(0), tallies[:, -1:].amax(0)]))
        return [*ranks[:, :-1].sum(0).tolist(), ranks[:, -1].max().item()]

    def _refuse_non_finite(self, totals: list[float], grad_norm: float) -> None:
        losses = dict(zip((term.name for term in self.objective.terms), totals, strict=False))
        if not all(map(math.isfinite, [*losses.values(), grad_norm])):
            self._optimizer.zero_grad()
            listed = ", ".join(f"{name} {value:g}" for name, value in losses.items())
            raise LearnerError(
                f"update {self._updates} is not finite (losses: {listed}; gradient norm: {grad_norm:g}) and was not applied: "
                "look for infinite rewards or advantages, or lower the learning rate"
            )

    def _report(
        self, totals: list[float], grad_norm: float, lr: float, counts: dict[str, Counts]
    ) -> StepReport:
        terms = self.objective.terms
        entropy, kl, has_behaviour, reduced, ratio_max = totals[len(terms) :]
        tokens = sum(count.tokens for count in counts.values())
        return StepReport(
            loss=sum(totals[: len(terms)]),
            losses=dict(zip((term.name for term in terms), totals, strict=False)),
            grad_norm=grad_norm,
            lr=lr,
            entropy=entropy / tokens,
            kl=kl / has_behaviour if has_behaviour else None,
            ratio_max=ratio_max if has_behaviour else None,
            clip_frac=reduced / tokens
            if any(term.mask is not everywhere for term in terms)
            else None,
            tokens=tokens,
            sequences=sum(count.sequences for count in counts.values()),
        )
