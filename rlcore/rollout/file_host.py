"""Files of weights on their way to servers of other machines, which fetch them from the first rank over HTTP."""

from __future__ import annotations

import os
import secrets
import threading
import urllib.request
from collections.abc import Iterable
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any
from urllib.parse import urlsplit

from rlcore.rollout.network import address_towards
from rlcore.rollout.server_client import ServerError

SILENCE_S = 60.0
"""A download that gets no byte for so long has failed."""


class FileHost:
    """Hands files out to whoever knows their addresses. A random word in these is what keeps others away.

    It listens on every interface of this machine, at a free port.
    """

    def __init__(self) -> None:
        self._word = secrets.token_urlsafe(16)
        self._files: dict[str, Path] = {}
        handler = type("Handler", (_Handler,), {"files": self._files})
        self._http = _Listener(("", 0), handler)
        self._port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def offer(self, paths: Iterable[Path]) -> None:
        """Hand out these files, and no others any more."""
        self._files.clear()
        self._files.update({self._route(path): path for path in paths})

    def address(self, path: Path, server_url: str) -> str:
        """Where the machine of a server finds a file. Raises `ServerError` if that machine is not known by its name."""
        return f"http://{_address_towards(server_url)}:{self._port}{self._route(path)}"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _route(self, path: Path) -> str:
        return f"/{self._word}/{path.parent.name}/{path.name}"


def fetch(address: str) -> bytes:
    """The file that a `FileHost` has at an address. Raises `ConnectionError`, in words for whoever runs the learner."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(address, timeout=SILENCE_S) as reply:
            data = reply.read()  # fewer bytes than announced are an error
    except (OSError, HTTPException) as error:
        raise ConnectionError(
            f"this server cannot fetch weights from {urlsplit(address).netloc} ({error}): let it reach the learner's first "
            "process there, or set engine.folder to a folder that both machines share"
        ) from error
    return data


class _Listener(ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: Any) -> None:
        """Nothing is printed for a download that a server has broken off: the server says why."""


class _Handler(BaseHTTPRequestHandler):
    files: dict[str, Path]

    def do_GET(self) -> None:
        path = self.files.get(self.path)
        try:
            file = None if path is None else path.open("rb")
        except OSError:  # the next weights have replaced it
            file = None
        if file is None:
            self.send_error(404)
            return
        with file:
            self.send_response(200)
            self.send_header("Content-Length", str(os.fstat(file.fileno()).st_size))
            self.end_headers()
            self.wfile.flush()
            self.connection.sendfile(file)

    def log_message(self, *_: Any) -> None:
        pass


def _address_towards(server_url: str) -> str:
    """This machine's address as the machine of a server sees it."""
    try:
        return address_towards(server_url)
    except OSError as error:
        raise ServerError(f"{server_url}: {error}", kind="unreachable") from error
