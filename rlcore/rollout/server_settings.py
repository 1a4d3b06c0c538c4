"""What a recipe says of vLLM servers: where they are, how many to start, how weights get there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rlcore.errors import EngineError

SERVERS = "RLCORE_SERVERS"
"""Environment variable with the addresses of servers, separated by commas."""
FILE = "file"
BROADCAST = "broadcast"


def addresses(servers: Sequence[str] = ()) -> list[str]:
    """The recipe's servers or the environment's, each once. Raises `EngineError` if there are none."""
    named = list(servers) or os.environ.get(SERVERS, "").split(",")
    urls = list(dict.fromkeys(url.strip().rstrip("/") for url in named if url.strip()))
    if not urls:
        raise EngineError(
            f"engine vllm_server has no server: set engine.servers or {SERVERS} to addresses that "
            "`rlcore serve RECIPE` prints, or engine.start to a number of servers to start here"
        )
    _check_addresses(urls)
    return urls


def check_settings(
    *,
    servers: Sequence[str] = (),
    start: int = 0,
    tensor_parallel: int = 1,
    folder: str | None = None,
    transport: str = FILE,
    **others: Any,
) -> None:
    """Raise `EngineError` for settings that can be seen to be wrong without a model."""
    for name, value, least in (("start", start, 0), ("tensor_parallel", tensor_parallel, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise EngineError(f"engine.{name} is {value!r}: it is a whole number from {least}")
    if start and servers:
        raise EngineError("engine.start and engine.servers are both set: keep one of them")
    _check_addresses(servers)
    if transport not in (FILE, BROADCAST):
        raise EngineError(f"engine.transport is {transport!r}: it is {FILE!r} or {BROADCAST!r}")
    if folder is not None and transport == BROADCAST:
        raise EngineError(
            "engine.folder is for files, which engine.transport=broadcast does without: remove one"
        )
    if folder is not None and not Path(folder).is_dir():
        raise EngineError(
            f"engine.folder is {folder!r}, which is no folder here: make it, where the servers see it too"
        )


def _check_addresses(urls: Sequence[str]) -> None:
    for url in urls:
        if (
            urlsplit(str(url)).scheme not in ("http", "https")
            or not urlsplit(str(url)).hostname
        ):
            raise EngineError(
                f"{url!r} is no address of a server: write it whole, as http://host:8000"
            )
