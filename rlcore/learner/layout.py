"""The shared layout compared with the packed one on samples of the first batch that uses it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlcore.learner.pack import MicroBatch, idle_micro_batch, pack
from rlcore.learner.policy import Policy
from rlcore.types import Sample

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Largest root mean square difference of log-probabilities, in nats; 0.05 in half precision."""


def tolerance(dtype: torch.dtype, mixed_precision: str) -> float:
    return TOLERANCE.get(dtype, 0.05) if mixed_precision == "no" else 0.05


def layout_difference(
    module: nn.Module,
    policy: Policy,
    samples: Sequence[Sample],
    batches: Sequence[MicroBatch],
    *,
    max_tokens: int,
) -> float:
    """Root mean square difference between the two layouts' log-probabilities, on samples of the first micro-batch that shares.

    Two forward passes, also where nothing is shared, so that ranks stay in step; then 0. At least two samples, and as many more
    as the packed layout holds in `max_tokens`.
    """
    chosen: list[Sample] = []
    for index in next((batch.order for batch in batches if batch.shares), ()):
        if (
            len(chosen) > 1
            and sum(len(sample.token_ids) for sample in (*chosen, samples[index])) > max_tokens
        ):
            break
        chosen.append(samples[index])
    everything = sum(len(sample.token_ids) for sample in chosen)
    values = []
    for layout in ("shared", "packed"):
        [batch] = pack(chosen, max_tokens=everything, layout=layout) or [idle_micro_batch()]
        values.append(_logp(module, policy, batch))
    return (values[0] - values[1]).square().mean().sqrt().item() if chosen else 0.0


@torch.no_grad()
def _logp(module: nn.Module, policy: Policy, batch: MicroBatch) -> Tensor:
    """Log-probabilities [N], in the order of the samples."""
    batch = batch.to(policy.model.device, policy.dtype)
    logp, _ = module(
        batch.token_ids,
        batch.positions,
        batch.lengths,
        batch.source,
        batch.target,
        temperature=batch.temperature,
        parents=batch.parents,
    )
    place = torch.tensor(batch.order, device=logp.device)[batch.row]
    return logp[place.argsort(stable=True)].double()
