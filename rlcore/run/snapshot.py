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


class Writer:
    """A thread that writes one thing at a time. As a context it waits for it at the end.

    What the write raised is raised again by the next `check`, `wait` or `start`, and at the end of
    the context unless that is left by another exception. The thread is a daemon: who interrupts the
    wait at the end, by a second Ctrl-C, leaves a draft behind, as a kill does.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, write: Callable[[], None]) -> None:
        """Call `write` in the thread, once what is being written is done."""
        self.wait()
        self._thread = threading.Thread(
            target=self._run, args=(write,), name="checkpoint writer", daemon=True
        )
        self._thread.start()

    def check(self) -> None:
        """Raise what a write has failed with; does not wait."""
        if self._error is not None:
            raise self._error

    def wait(self) -> None:
        """Wait until nothing is being written."""
        self._join()
        self.check()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._join()
        if kind is None:
            self.check()

    def _run(self, write: Callable[[], None]) -> None:
        try:
            write()
        except BaseException as error:  # of another thread: it is raised in the run's own
            self._error = error

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None


@torch.no_grad()
def copied(value: Any) -> Any:
    """A deep copy in host memory. Tensors that are one and the same stay one: tied weights."""
    return _copied(value, {})


def _copied(value: Any, known: dict[Any, Tensor]) -> Any:
    if isinstance(value, Tensor):
        key = (value.data_ptr(), value.device, value.dtype, value.shape, value.stride())
        if key not in known or not value.numel():
            known[key] = value.detach().to("cpu", copy=True)
        return known[key]
    if isinstance(value, Mapping):
        return {key: _copied(item, known) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_copied(item, known) for item in value)
    return copy.deepcopy(value)
