"""Starting vLLM servers on this machine, and starting one again that has died."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx
import torch

from rlcore.child_process import ending_with_this_process
from rlcore.errors import EngineError
from rlcore.rollout.adapter_files import slot_rank
from rlcore.rollout.vllm_config import CPU_BLOCK, cache_bytes, read_config, share_at_start

MODEL = "policy"
"""Name of the model in the server's routes."""
RESTARTS = 3
"""How often a server is started again in its life."""
WATCH_S = 0.5
END_S = 15.0
"""Between the signal that asks a server to end and the one that ends it."""
_RECENT = 200
"""Lines at the end of a log in which a cause is looked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerSettings:
    """What a server is started with. Its weights are replaced at the first publish."""

    model: str
    """Folder or hub name."""
    dtype: str
    max_length: int
    max_sequences: int = 256
    tensor_parallel: int = 1
    adapter_rank: int | None = None
    memory_gb: float | None = None
    """Of the key-value cache. By default what `vllm_local` takes on a CPU, and vLLM's own share of a GPU."""

    def command(self, host: str, port: int) -> list[str]:
        """vLLM's server with what rlcore needs of it."""
        words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
        words += ["--model", self.model, "--served-model-name", MODEL]
        words += ["--host", host, "--port", str(port), "--disable-uvicorn-access-log"]
        words += ["--dtype", self.dtype, "--max-model-len", str(self.max_length)]
        words += ["--max-num-seqs", str(self.max_sequences)]
        words += ["--tensor-parallel-size", str(self.tensor_parallel)]
        words += ["--worker-extension-cls", "rlcore.rollout.vllm_weights.WeightExtension"]
        # log-probabilities of the distribution that was drawn from, as many as there are
        words += ["--logprobs-mode", "processed_logprobs", "--max-logprobs", "-1"]
        # else the model's generation config would change how requests are sampled
        words += ["--generation-config", "vllm"]
        if self.adapter_rank is not None:
            words += ["--enable-lora", "--max-loras", "1", "--max-cpu-loras", "1"]
            words += ["--max-lora-rank", str(slot_rank(self.adapter_rank))]
        if not torch.cuda.is_available():
            # as `vllm_local` does on a CPU, where a prompt that is read in two pieces stops vLLM
            words += ["--enforce-eager", "--no-enable-chunked-prefill"]
            words += ["--max-num-batched-tokens", str(max(8192, self.max_length))]
            words += ["--block-size", str(CPU_BLOCK)]
        if self.memory_gb is not None or not torch.cuda.is_available():
            config = read_config(self.model, self.tensor_parallel, self.max_length)
            cache = cache_bytes(
                config,
                self.dtype,
                self.max_length,
                self.max_sequences,
                self.memory_gb,
                self.tensor_parallel,
            )
            words += ["--kv-cache-memory-bytes", str(cache)]
            if torch.cuda.is_available():
                words += ["--gpu-memory-utilization", str(share_at_start(cache))]
        return words

    def environment(self, first_device: int) -> dict[str, str]:
        """first_device: of the GPUs that this process sees, the first that the server uses."""
        variables = os.environ | {
            "VLLM_SERVER_DEV_MODE": "1",  # the routes that load weights
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
            "VLLM_NO_USAGE_STATS": "1",
        }
        variables.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        variables.setdefault("GOMP_SPINCOUNT", "1000")
        # The server is no rank of the learner.
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT"):
            variables.pop(name, None)
        variables.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)
        if torch.cuda.is_available():
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            count = torch.cuda.device_count()
            devices = visible.split(",") if visible else [str(i) for i in range(count)]
            mine = devices[first_device : first_device + self.tensor_parallel]
            if len(mine) < self.tensor_parallel:
                raise EngineError(
                    f"a server with {self.tensor_parallel} GPUs, from number {first_device} on, does not fit "
                    f"the {len(devices)} GPUs of this machine: start fewer servers or lower tensor_parallel"
                )
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
        return variables


class _ServerProcess:
    """One server and the process that it runs in at present."""

    def __init__(self, url: str, start: Callable[[], subprocess.Popen[bytes]]) -> None:
        self.url = url
        self._start = start
        self.process = start()
        self.restarts = 0
        self.is_up = False
        """Whether the present process has answered."""
        self.why_ended: str | None = None
        """Set when it is not started again."""

    def start_again(self) -> None:
        self.restarts += 1
        self.is_up = False
        self.process = self._start()


class ServerProcesses:
    """Servers on this machine, one for each port, ended with this object or with this process.

    A server that has answered once and dies is started again, up to `RESTARTS` times. ports: free ones by default.
    first_device: of the visible GPUs; by default those after the GPUs of this machine's ranks. log_folder: gets
    server_<port>.log; by default a temporary folder, which is kept if a server has died. say: told when a server is up or has died.
    """

    def __init__(
        self,
        settings: ServerSettings,
        count: int,
        *,
        host: str = "127.0.0.1",
        ports: Sequence[int] = (),
        first_device: int | None = None,
        log_folder: Path | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        for port in ports:
            _require_free(host, port)
        self._keep_logs = log_folder is not None
        self._logs = log_folder or Path(tempfile.mkdtemp(prefix="rlcore_servers_"))
        self._logs.mkdir(parents=True, exist_ok=True)
        self._say = say
        if first_device is None:
            first_device = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        self._closing = threading.Event()
        self._servers: list[_ServerProcess] = []
        for number, port in enumerate(ports or _free_ports(count)):
            environment = settings.environment(first_device + number * settings.tensor_parallel)
            words = ending_with_this_process(settings.command(host, port))
            start = _starter(words, environment, self.log(port))
            self._servers.append(_ServerProcess(f"http://{_name(host)}:{port}", start))
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self._servers]

    @property
    def ended(self) -> bool:
        """Whether all have ended and none is started again."""
        return all(server.why_ended for server in self._servers)

    @property
    def whys(self) -> str:
        """Why those that have ended for good have."""
        return "; ".join(server.why_ended for server in self._servers if server.why_ended)

    @property
    def all_up(self) -> bool:
        return all(server.is_up for server in self._servers)

    @property
    def logs(self) -> Path:
        """The folder of their output."""
        return self._logs

    def log(self, port: int) -> Path:
        return self._logs / f"server_{port}.log"

    def why_ended(self, url: str) -> str | None:
        """Why the server at an address has ended for good; None while it runs."""
        return next(server.why_ended for server in self._servers if server.url == url)

    def close(self) -> None:
        """End all servers and wait until they have ended."""
        self._closing.set()
        self._thread.join()
        for server in self._servers:
            _signal(server.process, signal.SIGTERM)
        until = time.monotonic() + END_S
        for server in self._servers:
            try:
                server.process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                pass
            # also what is left of its group, such as workers
            _signal(server.process, signal.SIGKILL)
            server.process.wait()
        had_trouble = any(server.restarts or server.why_ended for server in self._servers)
        if not (self._keep_logs or had_trouble):
            shutil.rmtree(self._logs, ignore_errors=True)

    def _watch(self) -> None:
        while not self._closing.wait(WATCH_S):
            for server in self._servers:
                self._look_at(server)

    def _look_at(self, server: _ServerProcess) -> None:
        status = server.process.poll()
        if status is None:
            if not server.is_up and _answers(server.url):
                server.is_up = True
                self._say(f"{server.url} is up")
            return
        if server.why_ended:
            return
        _signal(server.process, signal.SIGKILL)
        log = self.log(int(server.url.rpartition(":")[2]))
        if status < 0:
            why = f"{server.url} was killed by {signal.Signals(-status).name}"
        else:
            why = f"{server.url} ended with status {status}: {cause(log)} (see {log})"
        if not server.is_up:
            server.why_ended = f"{why}; it had not started"
        elif server.restarts == RESTARTS:
            server.why_ended = f"{why}; it was started {RESTARTS} times again"
        if server.why_ended:
            self._say(server.why_ended)
        else:
            self._say(f"{why}; it is started again")
            server.start_again()


def _starter(
    words: Sequence[str], environment: dict[str, str], log: Path
) -> Callable[[], subprocess.Popen[bytes]]:
    def start() -> subprocess.Popen[bytes]:
        output: IO[bytes] = log.open("ab")
        with output:
            return subprocess.Popen(
                words,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # a Ctrl-C in the terminal is for us
                start_new_session=True,
            )

    return start


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    """To a server and all processes of its session."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=1.0).status_code == 200
    except httpx.HTTPError:
        return False


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _require_free(host: str, port: int) -> None:
    """Raise `EngineError` if another program listens at a port: its answers would be taken for the server's."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((host, port))
        except OSError as error:
            raise EngineError(
                f"a server cannot listen at {host}:{port} ({error.strerror}): choose another --port"
            ) from error


def _name(host: str) -> str:
    """How other machines call this host."""
    return socket.gethostname() if host in ("0.0.0.0", "::") else host


def cause(log: Path) -> str:
    """Why a server ended, from its log: the first error near the end that does not only point to another one."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    recent = [line for line in lines if line][-_RECENT:]
    beside = ("EngineDeadError", " WARNING ", " INFO ")
    errors = [
        line
        for line in recent
        if "Error: " in line and not any(word in line for word in beside)
    ]
    return (errors or recent[-1:] or ["its log is empty"])[0][-300:]
