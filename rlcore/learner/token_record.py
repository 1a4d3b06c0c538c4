"""What the learner computed of each trained token of a step, kept for people who look at the rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from rlcore.types import Sample

if TYPE_CHECKING:
    from torch import Tensor

    from rlcore.learner.pack import MicroBatch

Key = tuple[str, int, tuple[int, ...]]
"""Id, part and tokens of a sample: a replayed sample may have the id of another one."""


def key_of(sample: Sample) -> Key:
    return sample.id, sample.part, tuple(sample.token_ids)


class TokenValues(NamedTuple):
    """Of one sample, [T] each; None where a token was not trained."""

    logprobs: list[float | None]
    """Of the policy just before the update that first trained the token, at the sample's temperature."""
    entropies: list[float | None]
    """Of the same distribution, in nats."""


class _Read(NamedTuple):
    """A micro-batch whose forward pass is done."""

    keys: list[Key]  # [R]
    masks: list[list[bool]]  # [R][T]
    lengths: Tensor  # [R], trained tokens of each sequence
    logprobs: Tensor  # [N]
    entropies: Tensor  # [N]


class TokenRecord:
    """Collects what the forward passes of training compute anyway; values leave the device in `take`."""

    def __init__(self) -> None:
        self._read: list[_Read] = []

    def add(
        self, samples: Sequence[Sample], batch: MicroBatch, logp: Tensor, entropy: Tensor
    ) -> None:
        """Keep logp [N], or [N, 1 + K] with the sampled token first, and entropy [N] of a micro-batch of `samples`."""
        members = [samples[index] for index in batch.order]
        sampled = logp[:, 0] if logp.dim() == 2 else logp
        self._read.append(
            _Read(
                keys=[key_of(sample) for sample in members],
                masks=[sample.mask for sample in members],
                lengths=batch.row.bincount(minlength=len(members)),
                logprobs=sampled.detach(),
                entropies=entropy.detach(),
            )
        )

    def take(self) -> dict[Key, TokenValues]:
        """All that was added since the last call. Of a token that was trained several times the first time counts."""
        values: dict[Key, TokenValues] = {}
        for read in self._read:
            lengths = read.lengths.tolist()
            logprobs = _rounded(read.logprobs).split(lengths)
            entropies = _rounded(read.entropies).split(lengths)
            for i, key in enumerate(read.keys):
                if key not in values:
                    values[key] = TokenValues(
                        _placed(logprobs[i].tolist(), read.masks[i]),
                        _placed(entropies[i].tolist(), read.masks[i]),
                    )
        self._read = []
        return values


def _rounded(values: Tensor) -> Tensor:
    """On the CPU, to a millionth of a nat: float32 has no more of a log-probability."""
    return values.double().cpu().round(decimals=6)


def _placed(trained: Sequence[float], mask: Sequence[bool]) -> list[float | None]:
    values = iter(trained)
    return [next(values) if is_trained else None for is_trained in mask]
