"""Files that processes on several nodes must all see: the run folder, the model, the data.

Where they do not, a run would fail late and far from the cause, or train on different data. So each process looks once,
before anything is loaded.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from rlcore.errors import RunError
from rlcore.recipe.schema import Recipe

TOKEN = ".token"
"""File of the run folder that the first process writes and the others look for."""
DEADLINE_S = 60.0
"""How long a file may take to be seen on another node: network file systems show new ones late."""
_SHOWN = 3


def check_shared(accelerator: Accelerator, recipe: Recipe, folder: Path) -> None:
    """Raise `RunError`, on every process, where one does not see what the first one sees. Collective.

    The run folder must be the same one; models and data files must have the same names and sizes.
    """
    if accelerator.num_processes == 1:
        return
    files = dict(_files(recipe)) if accelerator.is_main_process else None
    token = secrets.token_hex(8)
    if accelerator.is_main_process:
        (folder / TOKEN).write_text(token)
    said = [(token, files, socket.gethostname())]
    broadcast_object_list(said)
    token, files, first_host = said[0]
    problems = [] if accelerator.is_main_process else list(_problems(folder, token, files))
    everyone = gather_object([(socket.gethostname(), problem) for problem in problems])
    if accelerator.is_main_process:
        (folder / TOKEN).unlink(missing_ok=True)
    if everyone:
        listed = "; ".join(f"on {host} {problem}" for host, problem in everyone[:_SHOWN])
        raise RunError(
            f"the processes of this run do not see the same files as the first one on {first_host}: {listed}: put them "
            "on a file system that all nodes share, or copy models and data to each node under the same path"
        )


def _files(recipe: Recipe) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """Paths of this machine that the recipe names, each with what is there."""
    paths = recipe.model.path
    named = [paths] if isinstance(paths, str) else list(paths or [])
    named.append(recipe.model.tokenizer or "")
    for section in recipe.tasks.values():
        path = section.parameters.get("path")
        named += [path] if isinstance(path, str) else path or []
    for name in named:
        here = _here(name)
        if here:
            yield name, here


def _here(name: str) -> list[tuple[str, int]]:
    """Names and sizes of the file, or of the files of the folder; nothing where there is none."""
    path = Path(name).expanduser()
    if path.is_file():
        return [(path.name, path.stat().st_size)]
    if not name or not path.is_dir():
        return []
    return sorted((file.name, file.stat().st_size) for file in path.iterdir() if file.is_file())


def _problems(
    folder: Path, token: str, files: dict[str, list[tuple[str, int]]]
) -> Iterator[str]:
    if not _is_seen(folder / TOKEN, token):
        yield f"the run folder {folder.absolute()} is another one (waited {DEADLINE_S:g} s)"
    for name, there in files.items():
        here = _here(name)
        if here != there:
            state = "has other files or sizes" if here else "does not exist"
            yield f"{name} {state}"


def _is_seen(path: Path, token: str) -> bool:
    until = time.monotonic() + DEADLINE_S
    while True:
        try:
            if path.read_text() == token:
                return True
        except OSError:
            pass  # not there yet
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
