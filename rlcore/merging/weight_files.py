"""The weights in a model's folder, read and written tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from rlcore.errors import ModelError, first_line

if TYPE_CHECKING:
    from torch import Tensor

MODEL = "model.safetensors"
ADAPTER = "adapter_model.safetensors"
SHARD_BYTES = 5 * 2**30
"""Of one file that is written."""


class WeightFiles:
    """The safetensors of a folder: names, shapes and types at once, a tensor when it is asked for."""

    def __init__(self, folder: Path) -> None:
        """Raises `ModelError` where the folder has no safetensors, or they cannot be read."""
        self.folder = folder
        self.name = ADAPTER if (folder / ADAPTER).is_file() else MODEL
        self.shapes: dict[str, tuple[list[int], str]] = {}
        """Shape and type of each tensor."""
        self._file_of: dict[str, Path] = {}
        for path in self._paths():
            try:
                with safe_open(path, framework="pt") as file:
                    for name in file.keys():  # noqa: SIM118 (not a dict)
                        part = file.get_slice(name)
                        self.shapes[name] = (part.get_shape(), part.get_dtype())
                        self._file_of[name] = path
            except (OSError, SafetensorError) as error:
                raise ModelError(f"{path} cannot be read: {first_line(error)}") from error

    def _paths(self) -> list[Path]:
        index = self.folder / f"{self.name}.index.json"
        if index.is_file():
            shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            return [self.folder / shard for shard in sorted(set(shards))]
        if (self.folder / self.name).is_file():
            return [self.folder / self.name]
        raise ModelError(
            f"{self.folder} has no {MODEL} and no {ADAPTER}: models are merged from safetensors "
            "(a .gguf or .bin file: load it with transformers and save it again)"
        )

    def tensor(self, name: str) -> Tensor:
        """The tensor of that name, as it is stored."""
        with safe_open(self._file_of[name], framework="pt") as file:
            return file.get_tensor(name)


def write_weights(folder: Path, like: WeightFiles, make: Callable[[str], Tensor]) -> None:
    """Write a tensor for each of `like`, under its file names and in shards, one shard in memory at a time."""
    from safetensors.torch import save_file

    shards = _shards(like)
    where: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = like.name
        if len(shards) > 1:
            stem = like.name.removesuffix(".safetensors")
            file = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(
            {name: make(name).contiguous() for name in names},
            folder / file,
            metadata={"format": "pt"},
        )
        where |= dict.fromkeys(names, file)
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(map(_bytes, like.shapes.values()))},
            "weight_map": where,
        }
        (folder / f"{like.name}.index.json").write_text(
            json.dumps(index, indent=1), encoding="utf-8"
        )


def _shards(like: WeightFiles) -> list[Sequence[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for name, stored in like.shapes.items():
        if shards[-1] and size + _bytes(stored) > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += _bytes(stored)
    return list(shards)


def _bytes(stored: tuple[list[int], str]) -> int:
    shape, kind = stored
    bits = int("".join(filter(str.isdigit, kind.partition("_")[0])) or 8)
    count = 1
    for length in shape:
        count *= length
    return count * bits // 8
