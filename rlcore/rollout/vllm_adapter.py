"""A LoRA adapter served beside the weights it adapts, instead of merged into them: a publish moves megabytes, not the model.

vLLM keeps one adapter slot, filled anew in place at every publish, so completions that are under way go on under the new adapter as
they do under new weights.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rlcore.rollout.adapter_files import slot_rank, write_adapter

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest


class AdapterSlot:
    """The one adapter of an engine, handed over through a folder that is written again at each publish."""

    def __init__(self, rank: int) -> None:
        self.engine_arguments: dict[str, Any] = {
            "enable_lora": True,
            "max_loras": 1,
            "max_cpu_loras": 1,
            "max_lora_rank": slot_rank(rank),
        }
        self.request: LoRARequest | None = None
        """What goes with every request; None until an adapter was published."""
        self._folder = Path(tempfile.mkdtemp(prefix="rlcore_adapter_"))

    def write(self, weights: Iterable[tuple[str, torch.Tensor]]) -> LoRARequest:
        """Put the adapter among `weights` into the folder; other weights are those the engine started with."""
        from vllm.lora.request import LoRARequest

        write_adapter(weights, self._folder)
        self.request = LoRARequest("policy", 1, str(self._folder), load_inplace=False)
        return LoRARequest("policy", 1, str(self._folder), load_inplace=True)

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
