"""Checkpoints that do not stop the steps: the state is copied in memory, and a thread writes the copy.

A step waits for the copy only, not for the disk (the snapshots in host
memory of REFT, arXiv 2310.12670). The copy is taken between two steps, so it is of
one moment. One is written at a time: a checkpoint that is due before the last one is on disk waits
for it, so there is never more than one copy.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

ATOMS = (int, float, bool, str, bytes)
"""Types whose values never change."""
Kind = tuple[torch.dtype, torch.Size, tuple[int, ...]]
"""What two tensors share that can hold each other's values: type, shape and strides."""


class Writer:
    """A thread that writes one thing at a time.

    The thread is a daemon: who interrupts the wait for it, by a second Ctrl-C, leaves a draft
    behind, as a kill does.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, write: Callable[[], None]) -> None:
        """Call `write` in the thread, once what is being written is done."""
        self.join()
        self.check()
        self._thread = threading.Thread(
            target=self._run, args=(write,), name="checkpoint writer", daemon=True
        )
        self._thread.start()

    def check(self) -> None:
        """Raise what a write has failed with; does not wait."""
        if self._error is not None:
            raise self._error

    def join(self) -> None:
        """Wait until nothing is being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self, write: Callable[[], None]) -> None:
        try:
            write()
        except BaseException as error:  # of another thread: it is raised in the run's own
            self._error = error


class HostMemory:
    """Deep copies in host memory, written over those of the time before.

    The pages of new memory cost the system several times what the copy itself does, and freed
    memory of this size goes back to it.
    """

    def __init__(self) -> None:
        self._used: list[Tensor] = []
        self._free: dict[Kind, list[Tensor]] = {}

    def recycle(self) -> None:
        """From now on tensors that were copied before are overwritten; those that nothing took since the last call are given back."""
        self._free = {}
        for tensor in self._used:
            self._free.setdefault(_kind(tensor), []).append(tensor)
        self._used = []

    @torch.no_grad()
    def copied(self, value: Any) -> Any:
        """A deep copy. Tensors that are one and the same stay one: tied weights."""
        return self._copied(value, {})

    def _copied(self, value: Any, known: dict[Any, Tensor]) -> Any:
        if value is None or type(value) in ATOMS:
            return value
        if isinstance(value, Tensor) and value.is_meta:  # no values: they are among the shards
            return value
        if isinstance(value, Tensor):
            key = (value.data_ptr(), value.device, _kind(value))
            if key not in known or not value.numel():
                known[key] = self._like(value).copy_(value)
            return known[key]
        if isinstance(value, Mapping):
            return {key: self._copied(item, known) for key, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self._copied(item, known) for item in value)
        return copy.deepcopy(value)

    def _like(self, tensor: Tensor) -> Tensor:
        """Memory for a tensor."""
        fitting = self._free.get(_kind(tensor))
        memory = fitting.pop() if fitting else torch.empty_like(tensor, device="cpu")
        self._used.append(memory)
        return memory


def _kind(tensor: Tensor) -> Kind:
    return tensor.dtype, tensor.shape, tensor.stride()
