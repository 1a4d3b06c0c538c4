"""The routes of the hub that a push uses: makes a repository, takes large files and a commit, keeps everything."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_of_a_writer"


@dataclass
class Hub:
    address: str
    repositories: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name -> what the request to make it said."""
    large: dict[str, bytes] = field(default_factory=dict)
    """SHA-256 -> content."""
    commits: list[tuple[str, str, dict[str, bytes]]] = field(default_factory=list)
    """Repository, message, files."""
    cards: list[str] = field(default_factory=list)
    """Cards whose metadata were checked."""


class Routes(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def do_PUT(self) -> None:
        self.hub.large[self.path.removeprefix("/large/")] = self._body()
        self._reply(200, {})

    def do_POST(self) -> None:
        body = self._body()
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            self._reply(401, {"error": "Invalid username or password."})
        elif self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif self.path == "/api/validate-yaml":
            self.hub.cards.append(json.loads(body)["content"])
            self._reply(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            self._preupload(json.loads(body))
        elif self.path.endswith("/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        elif match := re.fullmatch(r"/api/models/([\w-]+/[\w-]+)/commit/main", self.path.split("?")[0]):
            self._commit(match[1], body)
        else:
            self._reply(404, {"error": f"no route {self.path}"})

    def _create(self, wish: dict[str, Any]) -> None:
        name = f"{wish['organization']}/{wish['name']}"
        address = {"url": f"{self.hub.address}/{name}"}
        self._reply(409 if name in self.hub.repositories else 200, address)
        self.hub.repositories.setdefault(name, wish)

    def _preupload(self, wish: dict[str, Any]) -> None:
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for file in wish["files"]
        ]
        self._reply(200, {"files": modes})

    def _batch(self, wish: dict[str, Any]) -> None:
        objects = [
            {**item, "actions": {"upload": {"href": f"{self.hub.address}/large/{item['oid']}"}}}
            for item in wish["objects"]
        ]
        self._reply(200, {"transfer": "basic", "objects": objects})

    def _commit(self, name: str, body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines() if line]
        files = {}
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            else:
                files[value["path"]] = base64.b64decode(value["content"])
        self.hub.commits.append((name, lines[0]["value"]["summary"], files))
        address = f"{self.hub.address}/{name}/commit/0123456789abcdef0123456789abcdef01234567"
        self._reply(200, {"commitUrl": address, "commitOid": address[-40:]})

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _reply(self, status: int, value: dict[str, Any]) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@contextmanager
def fake_hub() -> Iterator[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Routes)
    hub = Hub(f"http://127.0.0.1:{server.server_port}")
    Routes.hub = hub
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
