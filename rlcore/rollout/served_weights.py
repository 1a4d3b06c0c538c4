"""Weights on their way to vLLM servers: files that rank 0 writes, and what is asked of a server to load and to prove them.

A server reads the files where both machines see them, or fetches them from rank 0. They are kept until the next version is
served, so that a server that comes back can be given them.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import torch
from safetensors.torch import save_file

from rlcore.errors import EngineError
from rlcore.rollout.adapter_files import write_adapter
from rlcore.rollout.file_host import FileHost
from rlcore.rollout.publish import Distinct, fingerprint_of_workers
from rlcore.rollout.server_client import Server, ServerError

PART_BYTES = 1 << 30
"""Weights are sent in parts of about this size, so that rank 0 never holds a second model."""
BYTES_PER_S = 100e6
"""Slowest reading of a part that is waited for."""
LOAD_S = 60.0
DIGEST_S = 600.0
"""Deadline of a fingerprint, for which a server reads all its weights."""
_HERE = ("localhost", "127.0.0.1", "::1")
_MEMORY = Path("/dev/shm")
_LOCK = "held_by_a_run"


class ServedWeights:
    """The weights that servers are to hold. Every rank has one of these, and calls `begin` for each load.

    folder: where files are written and all servers read them. Without it, servers on other machines fetch them.
    """

    def __init__(
        self, run: str, urls: Sequence[str], *, folder: str | None, dtype: str, adapter: bool
    ) -> None:
        self._run, self._adapter = run, adapter
        self._dtype = dtype
        # those that do not see this machine's files
        self._elsewhere = {
            url for url in urls if folder is None and urlsplit(url).hostname not in _HERE
        }
        self._host: FileHost | None = None
        self._inside = Path(folder) if folder else (_MEMORY if _MEMORY.is_dir() else None)
        self._folder: Path | None = None
        self._files: list[tuple[Path, int]] = []
        self.label = ""
        """Of the present weights: `<run>/<number of the load>`. A version may be loaded twice, with averaged weights say, and
        a server that is left over from another run has none of our labels."""
        self._loads = 0
        self.fingerprint = ""
        """Of the present weights, once it is proved."""

    def begin(self) -> None:
        """New weights are on their way."""
        self._loads += 1
        self.label = f"{self._run}/{self._loads}"
        self.fingerprint = ""

    # files ---------------------------------------------------------------------------------------------------------

    def write(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Write files, and then remove those of the weights before."""
        before, self._files = self._files, []
        for path, size in self._write(weights, self._make_folder() / f"load_{self._loads}"):
            self._files.append((path, size))
        if self._elsewhere:
            self._host = self._host or FileHost()
            self._host.offer(file for path, _ in self._files for file in self._inside_of(path))
        for path, _ in before:
            shutil.rmtree(path if self._adapter else path.parent, True)

    def _inside_of(self, path: Path) -> list[Path]:
        """The files of what `_write` gives: itself, or those of an adapter's folder."""
        return sorted(path.iterdir()) if self._adapter else [path]

    def _make_folder(self) -> Path:
        if self._folder is None:
            _remove_left_behind(self._inside)
            try:
                name = tempfile.mkdtemp(prefix=f"rlcore_{self._run}_", dir=self._inside)
            except OSError as error:
                raise EngineError(
                    f"weights for the servers cannot be written in {self._inside} ({error}); set engine.folder"
                ) from error
            self._folder = Path(name)
            _hold(self._folder)
            # servers may run as another user
            self._folder.chmod(0o755)
        return self._folder

    def _write(
        self, weights: Iterable[tuple[str, torch.Tensor]], folder: Path
    ) -> Iterator[tuple[Path, int]]:
        folder.mkdir()
        if self._adapter:
            yield folder, write_adapter(weights, folder)
            return
        for number, tensors in enumerate(
            weight_parts(weights, self._dtype, torch.device("cpu"))
        ):
            size = sum(tensor.nbytes for tensor in tensors.values())
            yield self._save(tensors, folder / f"{number}.safetensors"), size

    def _save(self, tensors: dict[str, torch.Tensor], path: Path) -> Path:
        try:
            save_file(tensors, path)
        except Exception as error:  # the library has its own type for a full disk
            raise EngineError(
                f"weights for the servers cannot be written to {path} ({error}); free space there, or set engine.folder"
            ) from error
        return path

    def remove(self) -> None:
        """Remove all files."""
        if self._host is not None:
            self._host.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    # servers -------------------------------------------------------------------------------------------------------

    async def give(self, server: Server) -> None:
        """Have a server load the files and serve them."""
        await server.pause()
        for path, size in self._files:
            deadline_s = deadline_of(size)
            if self._adapter:
                folder = await self._adapter_folder(path, server, deadline_s)
                await server.load_adapter(folder, deadline_s)
            else:
                [place] = self._places([path], server)
                await server.call("rlcore_load_file", place, deadline_s=deadline_s)
        if not self._adapter:
            await server.call("rlcore_loaded", deadline_s=LOAD_S)
        await server.call("rlcore_set_label", self.label)
        await server.resume()

    async def _adapter_folder(self, path: Path, server: Server, deadline_s: float) -> str:
        """Where a server, all of whose workers are on one machine, sees the adapter's files."""
        if server.url not in self._elsewhere:
            return str(path)
        places = self._places(self._inside_of(path), server)
        folders = await server.call("rlcore_fetch_adapter", *places, deadline_s=deadline_s)
        return str(folders[0])

    def _places(self, files: Sequence[Path], server: Server) -> list[str]:
        """Paths, or addresses for a server elsewhere."""
        if server.url not in self._elsewhere or self._host is None:
            return [str(file) for file in files]
        return [self._host.address(file, server.url) for file in files]

    async def is_served(self, server: Server) -> bool:
        """Whether a server says that it has the present weights."""
        return set(await server.call("rlcore_get_label")) == {self.label}

    async def check(self, server: Server) -> None:
        """Raise `ServerError` if a server has other weights than the present ones."""
        if not await self.is_served(server):
            raise ServerError(f"{server.url} has not taken the weights {self.label}")

    async def fingerprint_of(self, server: Server) -> str:
        digests = await server.call("rlcore_digests", self._dtype, deadline_s=DIGEST_S)
        stale = await server.call("rlcore_stale_copies", deadline_s=DIGEST_S)
        return fingerprint_of_workers(digests, stale)

    async def restore(self, server: Server) -> None:
        """Give the present weights, which are proved, to a server if it lacks them, and prove that it has them."""
        if not await self.is_served(server):
            await self.give(server)
        held = await self.fingerprint_of(server)
        if held != self.fingerprint:
            raise ServerError(f"{server.url} holds other weights ({held}) than those published")


def weight_parts(
    weights: Iterable[tuple[str, torch.Tensor]], dtype: str, device: torch.device
) -> Iterator[dict[str, torch.Tensor]]:
    """Weights as servers hold them, in parts of about `PART_BYTES`. A part is emptied when the next one is asked for."""
    is_new = Distinct()
    part: dict[str, torch.Tensor] = {}
    size = 0
    for name, tensor in weights:
        # tied weights share memory, which the file format does not
        copy = tensor if is_new(tensor) else tensor.clone()
        part[name] = copy.detach().to(device, getattr(torch, dtype)).contiguous()
        size += part[name].nbytes
        if size >= PART_BYTES:
            yield part
            # whoever reads them still names this one: else two would be held at a time
            part.clear()
            size = 0
    if part:
        yield part


def deadline_of(size: int) -> float:
    """Longest wait for a server to take so many bytes, in seconds."""
    return LOAD_S + size / BYTES_PER_S


def _hold(folder: Path) -> int:
    """Mark a folder as one of a process that lives; the mark goes with the process."""
    descriptor = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR, 0o644)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def _remove_left_behind(inside: Path | None) -> None:
    """Remove folders of weights whose process was killed."""
    for folder in (inside or Path(tempfile.gettempdir())).glob("rlcore_*/"):
        if (folder / _LOCK).is_file():
            try:
                descriptor = _hold(folder)
            except OSError:  # its process lives
                continue
            shutil.rmtree(folder, ignore_errors=True)
            os.close(descriptor)
