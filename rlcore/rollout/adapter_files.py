"""A LoRA adapter as the files that vLLM reads: one folder with a config and all tensors at one rank."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file

from rlcore.errors import EngineError

PARTS = (".lora_A.", ".lora_B.")
"""In the name of every tensor of a LoRA adapter, and of no other."""
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Slot sizes that vLLM has; a smaller adapter is padded with zeros."""


def slot_rank(rank: int) -> int:
    """The smallest slot of vLLM that holds an adapter. Raises `EngineError` if none does."""
    if rank > _RANKS[-1]:
        raise EngineError(
            f"vLLM serves adapters up to rank {_RANKS[-1]}, not {rank}; set engine.sync to merged"
        )
    return next(size for size in _RANKS if size >= rank)


def write_adapter(weights: Iterable[tuple[str, torch.Tensor]], folder: Path) -> int:
    """Write the adapter among `weights` into a folder; its bytes. Other weights are those the engine started with.

    The learner's scale is multiplied into B before it gets here, so vLLM's own scale is 1.
    """
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in weights
        if any(part in name for part in PARTS)
    }
    ranks = {len(tensor) for name, tensor in tensors.items() if PARTS[0] in name}
    if not ranks:
        raise EngineError(
            "the weights published hold no LoRA adapter, and this engine takes nothing else (engine.sync)"
        )
    modules = sorted({name.split(".lora_")[0].rpartition(".")[2] for name in tensors})
    config = {
        "peft_type": "LORA",
        "r": max(ranks),
        "lora_alpha": max(ranks),
        "target_modules": modules,
        "bias": "none",
    }
    padded = _padded(tensors, max(ranks))
    save_file(padded, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return sum(tensor.nbytes for tensor in padded.values())


def _padded(tensors: dict[str, torch.Tensor], rank: int) -> dict[str, torch.Tensor]:
    """All of one rank, with zeros: A [r, in] below, B [out, r] at the right. vLLM reads one rank from the config."""
    padded = {}
    for name, tensor in tensors.items():
        missing = rank - (len(tensor) if PARTS[0] in name else tensor.shape[1])
        sides = (0, 0, 0, missing) if PARTS[0] in name else (0, missing)
        padded[name] = torch.nn.functional.pad(tensor, sides)
    return padded
