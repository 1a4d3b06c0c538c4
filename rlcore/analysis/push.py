"""A checkpoint with its model card, in a folder or on the hub, as transformers or peft load it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from rlcore.analysis.model_card import Weights, model_card
from rlcore.analysis.trained import HUB_NAME, Trained
from rlcore.errors import RunError, first_line
from rlcore.plugin import did_you_mean
from rlcore.run.checkpoint import all_checkpoints, check_complete
from rlcore.run.folder import RunFolder

HUB = "hf://"
DEADLINE_S = 60
"""How long the hub may take to take or to send the next bytes."""
OF_TOKENIZER = (
    "tokenizer*",
    "chat_template*",
    "special_tokens*",
    "vocab*",
    "merges*",
    "*.model",
)
"""Files that an adapter needs of the merged model beside it."""

Files = Mapping[str, Path | bytes]
"""Name in the repository -> a file to copy, or its content."""


def push(
    run: Path,
    target: str,
    *,
    checkpoint: str | None = None,
    weights: Weights = "policy",
    private: bool = False,
) -> str:
    """Write a checkpoint to a folder or to a repository of the hub, and return where it is.

    target: `owner/name` or `hf://owner/name` is a repository, everything else a folder.
    checkpoint: its name, `step_000050`; the last one by default.
    weights: `policy` (an adapter is merged into it), `ema` (averaged weights), or `adapter` alone.
    private: make a new repository a private one.
    Raises `RunError`.
    """
    folder = RunFolder.of_run(run)
    repository = _repository(target)
    trained = Trained.of(folder, _checkpoint(folder, checkpoint))
    check_complete(trained.checkpoint)
    files = contents(trained, weights)
    if repository:
        return _to_hub(files, repository, trained, private=private)
    return _to_folder(files, Path(target).expanduser())


def contents(trained: Trained, weights: Weights) -> Files:
    """The files to push. Raises `RunError` where the checkpoint does not have these weights."""
    source = trained.checkpoint if weights == "policy" else trained.checkpoint / weights
    if not source.is_dir():
        reason = {"ema": "optim.ema", "adapter": "model.peft"}[weights]
        raise RunError(
            f"{trained.checkpoint} has no {weights} weights, since its recipe has no {reason}: "
            "leave --weights out"
        )
    files: dict[str, Path | bytes] = {
        path.name: path for path in sorted(source.iterdir()) if path.is_file()
    }
    if weights == "adapter":
        for pattern in OF_TOKENIZER:
            files |= {path.name: path for path in trained.checkpoint.glob(pattern)}
        files["adapter_config.json"] = _adapter_config(source, trained.base)
    files["recipe.yaml"] = trained.folder.recipe
    files["README.md"] = str(model_card(trained, weights)).encode()
    return files


def _adapter_config(adapter: Path, base: str) -> bytes:
    """The adapter's config, which names the base model as the hub does where the hub has it."""
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    if HUB_NAME.fullmatch(base):
        config["base_model_name_or_path"] = base
    return (json.dumps(config, indent=2) + "\n").encode()


def _repository(target: str) -> str:
    """Name of the repository that `target` means; empty where it means a folder. Raises `RunError`."""
    if target.startswith(HUB):
        name = target.removeprefix(HUB).strip("/")
        if not HUB_NAME.fullmatch(name):
            raise RunError(f"{target} is no repository of the hub: write {HUB}owner/name")
        return name
    if not HUB_NAME.fullmatch(target):
        return ""
    if Path(target).parent.is_dir():
        raise RunError(
            f"{target} may be a folder here or a repository of the hub: write ./{target} or {HUB}{target}"
        )
    return target


def _checkpoint(folder: RunFolder, name: str | None) -> Path:
    checkpoints = all_checkpoints(folder.checkpoints)
    if not checkpoints:
        raise RunError(f"the run {folder.path} has no checkpoint to push yet")
    if name is None:
        return checkpoints[-1]
    names = {path.name: path for path in checkpoints}
    if name not in names:
        raise RunError(
            f"the run {folder.path} has no checkpoint {name}{did_you_mean(name, names)}; "
            f"it has {', '.join(names)}"
        )
    return names[name]


def _to_folder(files: Files, target: Path) -> str:
    """Copy into a folder that appears when it is whole. Raises `RunError`."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RunError(
            f"{target} is not an empty folder: name another, or remove what is in it"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=target.parent, prefix=f".{target.name}_"
        ) as scratch:
            draft = Path(scratch) / target.name
            draft.mkdir()
            for name, content in files.items():
                if isinstance(content, Path):
                    shutil.copyfile(content, draft / name)
                else:
                    (draft / name).write_bytes(content)
            os.replace(draft, target)
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise RunError(f"cannot write {target}: {reason}; choose another folder") from None
    return str(target)


def _to_hub(files: Files, repository: str, trained: Trained, *, private: bool) -> str:
    """One commit with all files; returns the address of the repository. Raises `RunError`."""
    import httpx
    from huggingface_hub import CommitOperationAdd, HfApi, get_session

    operations = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
        for name, content in files.items()
    ]
    message = f"{trained.recipe['name']}, step {trained.step}"
    api = HfApi()
    # the library waits without end by default
    get_session().timeout = httpx.Timeout(DEADLINE_S)
    try:
        url = api.create_repo(repository, private=private, exist_ok=True)
        api.create_commit(repository, operations, commit_message=message)
    except (OSError, ValueError, httpx.HTTPError) as error:
        raise RunError(
            f"cannot push to {repository} at {api.endpoint}: {first_line(error).rstrip('.')}; log in with "
            "`hf auth login` or set HF_TOKEN to a token that may write there, or push to a folder"
        ) from None
    return str(url)
