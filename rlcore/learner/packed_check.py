"""Proof that a model computes the same log-probabilities in packed form as on its own."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlcore.errors import ModelError, first_line
from rlcore.learner.attention import PACKED
from rlcore.learner.module import PackedModule

LENGTHS = (7, 12)
"""Tokens of the two random sequences that are compared."""


def check_packed(model: PreTrainedModel) -> None:
    """Switch `model` to packed attention and compare its log-probabilities with those before.

    Raises `ModelError` where they differ, and for models that cannot be trained here.
    """
    name = type(model).__name__
    head = model.get_output_embeddings()
    if head is None:
        raise ModelError(
            f"{name} has no output embeddings: it is not a language model rlcore can train"
        )
    generator = torch.Generator().manual_seed(0)
    sequences = []
    for length in LENGTHS:
        ids = torch.randint(len(head.weight), (length,), generator=generator)
        sequences.append(ids.to(model.device))

    # "eager" is the only implementation that does everything an architecture may ask for.
    model.set_attn_implementation("eager")
    try:
        expected = _logprobs_one_by_one(model, sequences)
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"{name} cannot run; do its sizes fit together? {first_line(error)}"
        ) from error
    model.set_attn_implementation(PACKED)
    with torch.no_grad():
        packed, _ = PackedModule(model)(*_packed(sequences))

    difference = (packed.double() - expected).abs().mean().item()
    is_exact = model.dtype in (torch.float32, torch.float64)
    limit = 1e-4 if is_exact else 0.05
    if not difference <= limit:  # also where it is NaN
        raise ModelError(
            f"{name} is not supported: its packed log-probabilities differ from its own by "
            f"{difference:.2g} on average, so its attention or its output head does something "
            "rlcore does not know"
        )


@torch.no_grad()
def _logprobs_one_by_one(model: PreTrainedModel, sequences: list[Tensor]) -> Tensor:
    """Log-probabilities of all tokens but the first of each sequence."""
    logprobs = []
    for ids in sequences:
        logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1].double()
        logprobs.append(logits.log_softmax(-1).gather(1, ids[1:, None])[:, 0])
    return torch.cat(logprobs)


def _packed(sequences: list[Tensor]) -> tuple[Tensor, Tensor, tuple[int, ...], Tensor, Tensor]:
    """The inputs of `PackedModule` for the sequences side by side in one row."""
    inputs = torch.cat([ids[:-1] for ids in sequences])
    targets = torch.cat([ids[1:] for ids in sequences])
    lengths = tuple(len(ids) - 1 for ids in sequences)
    positions = torch.cat([torch.arange(length, device=inputs.device) for length in lengths])
    every_token = torch.arange(len(inputs), device=inputs.device)
    return inputs, positions, lengths, every_token, targets
