"""How many bytes of tensors are alive at once while code runs, also where the tensors hold no numbers."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Context that counts the storages made inside: those alive now, and the most at once.

    Views count nothing. With tensors of a `FakeTensorMode` nothing is computed or allocated, and the
    count is that of the same code on real tensors.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        """known: tensors that exist already and do not count."""
        super().__init__()
        self.now = 0
        self.peak = 0
        self._sizes: dict[int, int] = {}
        # kept alive, so that no other storage gets their identity
        self._known = [tensor.untyped_storage() for tensor in known]
        self._known_ids = {id(storage) for storage in self._known}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._count(value)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._sizes or key in self._known_ids:
            return
        self._sizes[key] = storage.nbytes()
        weakref.finalize(storage, self._forget, key)
        self.now += self._sizes[key]
        self.peak = max(self.peak, self.now)

    def _forget(self, key: int) -> None:
        self.now -= self._sizes.pop(key)
