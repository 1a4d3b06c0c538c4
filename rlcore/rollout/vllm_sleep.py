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


class SleepMode:
    """Which parts of an engine sleep."""

    def __init__(self, engine: LLMEngine) -> None:
        self._engine = engine
        self._asleep: list[str] = []

    def sleep(self) -> None:
        """Give the engine's GPU memory back, if it is awake. Nothing may be under way in it."""
        if not self._asleep:
            self._engine.sleep(level=1)
            self._asleep = list(PARTS)

    def wake(self, *parts: str) -> None:
        """Take the memory of these parts again, or of all that sleep. vLLM must not be told to wake a part that is awake."""
        waking = [part for part in self._asleep if not parts or part in parts]
        if not waking:
            return
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # what torch keeps of the learner's is not there for vLLM
        self._engine.wake_up(waking)
        self._asleep = [part for part in self._asleep if part not in waking]
