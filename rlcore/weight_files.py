"""The weights in a model's folder, read and written tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from rlcore.errors import ModelError, first_line

if TYPE_CHECKING:
    from torch import Tensor

MODEL = "model.safetensors"
ADAPTER = "adapter_model.safetensors"
FILE_BYTES = 5 * 2**30
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


def write_weights(
    folder: Path, tensors: Iterable[tuple[str, Tensor]], name: str = MODEL
) -> None:
    """Write tensors under a file name, or in several files with an index, as transformers does; one file in memory at a time."""
    from safetensors.torch import save_file

    drafts: list[Path] = []
    number_of: dict[str, int] = {}
    size = total = 0
    held: dict[str, Tensor] = {}

    def write_held() -> None:
        draft = folder / f".{name}.{len(drafts)}"
        save_file(held, draft, metadata={"format": "pt"})
        number_of.update(dict.fromkeys(held, len(drafts)))
        drafts.append(draft)
        held.clear()

    for key, tensor in tensors:
        if held and size + tensor.nbytes > FILE_BYTES:
            write_held()
            size = 0
        held[key] = tensor.contiguous()
        size += tensor.nbytes
        total += tensor.nbytes
    write_held()
    names = _names(name, len(drafts))
    for draft, final in zip(drafts, names, strict=True):
        draft.replace(folder / final)
    if len(names) > 1:
        where = {key: names[number] for key, number in number_of.items()}
        index = {"metadata": {"total_size": total}, "weight_map": where}
        text = json.dumps(index, indent=1)
        (folder / f"{name}.index.json").write_text(text, encoding="utf-8")


def _names(name: str, number: int) -> list[str]:
    stem = name.removesuffix(".safetensors")
    if number == 1:
        return [name]
    return [f"{stem}-{i:05d}-of-{number:05d}.safetensors" for i in range(1, number + 1)]
