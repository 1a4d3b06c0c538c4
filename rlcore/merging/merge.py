"""Several models of one architecture and tokenizer become one folder that loads like each of them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlcore.errors import ModelError
from rlcore.pretrained import load_config
from rlcore.tokenizer import different_tokens, load_tokenizer
from rlcore.weight_files import ADAPTER, WeightFiles, write_weights

if TYPE_CHECKING:
    from torch import Tensor

    from rlcore.merging.rules import Rule

_OF_ADAPTERS = (
    *("peft_type", "r", "lora_alpha", "target_modules", "use_dora", "use_rslora"),
    *("alpha_pattern", "rank_pattern", "fan_in_fan_out", "init_weights", "projection_prng_key"),
)
"""Settings in which adapters must agree, where their kind has them."""
_BASE = "base_model_name_or_path"
_OF_MODELS = (
    *("model_type", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act"),
    *("rms_norm_eps", "rope_parameters", "tie_word_embeddings"),
)
"""Settings in which models must agree, where their architecture has them: equal shapes do not show them."""
_HELD_BY_WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf")


def merge(
    sources: Sequence[Path], folder: Path, rule: Rule, *, base: Path | None = None
) -> None:
    """Write to `folder` what `rule` makes of each tensor of the sources.

    sources: folders of models, or of adapters: adapters are merged matrix by matrix, so that the mean of two is
    not the mean of their products. Files other than weights, such as config, tokenizer and chat template,
    are those of the last source. Tensors are written in the type that the first source stores.
    base: the model that the sources were tuned from, where the rule adds differences to it.

    Raises `ModelError` where the models do not fit together, or `folder` holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError(f"{folder} is not empty: name a new folder")
    files = [WeightFiles(source) for source in sources]
    start = WeightFiles(base) if base is not None else None
    for other in [*files[1:], *([start] if start else [])]:
        require_same_model(files[0], other)

    first = files[0]
    merged = ((name, _merged(name, files, start, rule)) for name in first.shapes)
    draft = folder.with_name(f".draft_{folder.name}")
    try:
        draft.mkdir(parents=True)
        write_weights(draft, merged, first.name)
        for path in _other_files(sources[-1]):
            shutil.copy2(path, draft / path.name)
        if folder.exists():
            folder.rmdir()
        os.replace(draft, folder)
    except OSError as error:
        raise ModelError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _merged(
    name: str, files: Sequence[WeightFiles], start: WeightFiles | None, rule: Rule
) -> Tensor:
    stored = files[0].tensor(name)
    if not stored.is_floating_point():
        if any(not stored.equal(other.tensor(name)) for other in files[1:]):
            raise ModelError(
                f"{name} is of whole numbers and differs from model to model: it cannot be merged"
            )
        return stored
    merged = rule(name, Tensors(name, files), start.tensor(name) if start else None)
    if not hasattr(merged, "shape"):
        raise ModelError(
            f"the rule gave {type(merged).__name__} of {name}: it must give a tensor"
        )
    if merged.shape != stored.shape:
        raise ModelError(
            f"the rule made a tensor of shape {list(merged.shape)} of {name}, which has {list(stored.shape)}"
        )
    if not merged.isfinite().all():
        wrong = [one.folder for one in files if not one.tensor(name).isfinite().all()]
        what = (
            f"{wrong[0]} holds numbers that are not finite" if wrong else "the rule made them"
        )
        raise ModelError(f"{name} of the merged model would not be finite: {what}")
    return merged.to(stored.dtype)


class Tensors(Sequence["Tensor"]):
    """The same tensor of several models, [models], each read anew when it is asked for."""

    def __init__(self, name: str, files: Sequence[WeightFiles]) -> None:
        self._name, self._files = name, files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [one.tensor(self._name) for one in self._files[place]]
        return self._files[place].tensor(self._name)


def require_same_model(one: WeightFiles, other: WeightFiles) -> None:
    """Raise `ModelError` unless both have the same tensors, and the same tokenizer or adapter settings."""
    pair = f"{one.folder} and {other.folder} cannot be merged"
    if one.name != other.name:
        raise ModelError(f"{pair}: one is an adapter and one a model")
    for name in sorted(one.shapes.keys() | other.shapes.keys()):
        if name not in one.shapes or name not in other.shapes:
            has, lacks = (one, other) if name in one.shapes else (other, one)
            raise ModelError(f"{pair}: {name} is in {has.folder} and not in {lacks.folder}")
        shapes = one.shapes[name][0], other.shapes[name][0]
        if shapes[0] != shapes[1]:
            raise ModelError(f"{pair}: {name} has the shapes {shapes[0]} and {shapes[1]}")
    if one.name == ADAPTER:
        ours, theirs = _settings(one.folder), _settings(other.folder)
        _require_equal(pair, _OF_ADAPTERS, ours, theirs)
        _require_same_base(pair, ours.get(_BASE), theirs.get(_BASE))
        return
    _require_equal(pair, _OF_MODELS, _architecture(one.folder), _architecture(other.folder))
    different = different_tokens(load_tokenizer(one.folder), load_tokenizer(other.folder))
    if different:
        raise ModelError(f"{pair}: their tokenizers differ, {different}")


def _require_equal(
    pair: str, keys: Sequence[str], ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    for key in keys:
        # a setting that is off may also be absent, as in files of older versions
        if (ours.get(key) or None) != (theirs.get(key) or None):
            raise ModelError(f"{pair}: {key} is {ours.get(key)} and {theirs.get(key)}")


def _require_same_base(pair: str, one: str | None, other: str | None) -> None:
    """Adapters of different models add up to nothing that either was trained for."""
    if one and other and one != other and not _same_weights(Path(one), Path(other)):
        raise ModelError(
            f"{pair}: one was trained on {one} and one on {other}; if these are the same model, write one name in both "
            f"files adapter_config.json, at {_BASE}"
        )


def _same_weights(one: Path, other: Path) -> bool:
    """Whether both are folders of models, with equal tensors."""
    if not (one.is_dir() and other.is_dir()):
        return False
    ours, theirs = WeightFiles(one), WeightFiles(other)
    return ours.shapes == theirs.shapes and all(
        ours.tensor(name).equal(theirs.tensor(name)) for name in ours.shapes
    )


def _architecture(folder: Path) -> dict[str, Any]:
    return load_config(folder).get_text_config().to_dict()


def _settings(folder: Path) -> dict[str, Any]:
    try:
        settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} has no adapter_config.json that can be read") from error
    modules = settings.get("target_modules")
    return {
        **settings,
        "target_modules": sorted(modules) if isinstance(modules, list) else modules,
    }


def _other_files(source: Path) -> list[Path]:
    """Config, tokenizer, chat template and the like; no weights and no list of their files."""
    return [
        path
        for path in sorted(source.iterdir())
        if path.is_file()
        and path.suffix not in _HELD_BY_WEIGHTS
        and not path.name.endswith(".index.json")
        and not path.name.startswith(".")
    ]


def local_folder(name: str) -> Path:
    """The folder of a model: itself, or a copy of a hub name in the cache. Raises `ModelError`."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists() or name.startswith(("~", "/", ".")) or name.count("/") > 1:
        raise ModelError(f"there is no folder {name!r} with a model")
    try:
        from huggingface_hub import snapshot_download

        patterns = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # of the network, of the hub, of the name
        raise ModelError(
            f"{name!r} is no folder, and the hub does not give it: {error}"
        ) from error
