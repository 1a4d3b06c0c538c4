"""vLLM's sleep mode: engine and learner have the memory of one GPU in turns.

At level 1, the one used here, vLLM keeps its weights in the memory of the host and forgets all keys and values. Level 2
forgets the weights too, and a step without an update publishes none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from vllm import LLMEngine

PARTS = ("weights", "kv_cache")
"""vLLM's names of what sleeps."""


class SharedMemory:
    """The GPU memory of an engine, given back and taken again."""

    def __init__(self, engine: LLMEngine) -> None:
        self._engine = engine
        self._asleep: list[str] = []

    def give_back(self) -> None:
        """Put the engine to sleep, if it is awake. Nothing may be under way in it."""
        if not self._asleep:
            self._engine.sleep(level=1)
            self._asleep = list(PARTS)

    def take(self, *parts: str) -> None:
        """Wake these parts, or all that sleep. vLLM must not be asked to wake one that is awake."""
        waking = [part for part in self._asleep if not parts or part in parts]
        if not waking:
            return
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # what torch keeps of the learner's is not there for vLLM
        self._engine.wake_up(waking)
        self._asleep = [part for part in self._asleep if part not in waking]
