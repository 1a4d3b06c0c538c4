"""A LoRA adapter served beside the weights it adapts, instead of merged into them: a publish moves megabytes, not the model.

vLLM keeps one adapter slot, filled anew in place at every publish, so completions that are under way go on under the new adapter as
they do under new weights. The learner's scale is multiplied into B before it gets here, so vLLM's own scale is 1.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from rlcore.errors import EngineError

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest

PARTS = (".lora_A.", ".lora_B.")
"""In the name of every tensor of a LoRA adapter, and of no other."""
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Slot sizes that vLLM has; a smaller adapter is padded with zeros."""


class AdapterSlot:
    """The one adapter of an engine, handed over through a folder that is written again at each publish."""

    def __init__(self, rank: int) -> None:
        if rank > _RANKS[-1]:
            raise EngineError(
                f"vLLM serves adapters up to rank {_RANKS[-1]}, not {rank}; set engine.sync to merged"
            )
        self.engine_arguments: dict[str, Any] = {
            "enable_lora": True,
            "max_loras": 1,
            "max_cpu_loras": 1,
            "max_lora_rank": next(size for size in _RANKS[1:] if size >= rank),
        }
        self.request: LoRARequest | None = None
        """What goes with every request; None until an adapter was published."""
        self._folder = Path(tempfile.mkdtemp(prefix="rlcore_adapter_"))

    def write(self, weights: Iterable[tuple[str, torch.Tensor]]) -> LoRARequest:
        """Put the adapter among `weights` into the folder; other weights are those the engine started with."""
        from vllm.lora.request import LoRARequest

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
        save_file(_padded(tensors, max(ranks)), self._folder / "adapter_model.safetensors")
        (self._folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
        self.request = LoRARequest("policy", 1, str(self._folder), load_inplace=False)
        return LoRARequest("policy", 1, str(self._folder), load_inplace=True)

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _padded(tensors: dict[str, torch.Tensor], rank: int) -> dict[str, torch.Tensor]:
    """All of one rank, with zeros: A [r, in] below, B [out, r] at the right. vLLM reads one rank from the config."""
    padded = {}
    for name, tensor in tensors.items():
        missing = rank - (len(tensor) if PARTS[0] in name else tensor.shape[1])
        sides = (0, 0, 0, missing) if PARTS[0] in name else (0, missing)
        padded[name] = torch.nn.functional.pad(tensor, sides)
    return padded
