"""A server with the routes of vLLM's that rlcore uses, and faults that can be switched on. No model: tokens count upwards."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from safetensors.torch import load, load_file

from rlcore.rollout.broadcast_group import BroadcastGroup, Meeting
from rlcore.rollout.file_host import fetch
from rlcore.rollout.publish import tensor_digest

TOKEN_S = 0.002


class FakeVllm:
    """One server. `fault` is the name of what goes wrong from now on, "" for nothing."""

    def __init__(self, *, longest: int = 512, port: int = 0) -> None:
        self.fault = ""
        self.longest = longest
        self.label = ""
        self.digests: list[tuple[str, int, int]] = [("w", 1, 1)]
        self.loads: list[str] = []
        self.group: BroadcastGroup | None = None
        self.parts: dict[str, tuple[int, int]] = {}
        self.takes = 0
        self.served: list[dict[str, Any]] = []
        """Bodies of the completions that were asked for."""
        self.aborts = 0
        self.aborted: set[str] = set()
        self.paused = False
        self.released = threading.Event()
        handler = type("Handler", (_Handler,), {"fake": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._http.daemon_threads = True
        self.port = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()

    def stop(self) -> None:
        self.fault = "dead"
        self.released.set()
        self._http.shutdown()
        self._http.server_close()

    def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """max_tokens tokens, one after another, that count upwards from the prompt's last; fewer if it is aborted."""
        self.served.append(dict(body))
        tokens: list[int] = []
        id = f"cmpl-{body['request_id']}-0"
        reason = "length"
        while len(tokens) < body["max_tokens"]:
            if id in self.aborted or (self.fault == "foreign abort" and len(tokens) == 2):
                reason = "abort"
                break
            time.sleep(TOKEN_S)
            tokens.append(5 + (body["prompt"][-1] + len(tokens)) % 40)
        return {
            "token_ids": tokens,
            "logprobs": {"token_logprobs": [-0.25] * len(tokens)},
            "finish_reason": reason,
        }

    def call(self, method: str, arguments: list[str]) -> Any:
        if method == "rlcore_dtype":
            return "bfloat16" if self.fault == "other dtype" else "float32"
        if method == "rlcore_get_label":
            return "another/7" if self.fault == "wrong label" else self.label
        if method == "rlcore_set_label":
            self.label = arguments[0]
        if method == "rlcore_load_file":
            if self.fault == "dies in an update":
                raise ConnectionError
            self.loads.append(arguments[0])
            if arguments[0].startswith("http"):
                tensors = load(fetch(arguments[0]))
            else:
                tensors = load_file(arguments[0])
            self.digests = [(name, *tensor_digest(t)) for name, t in sorted(tensors.items())]
        if method == "rlcore_join":
            self.group = None
            if self.fault == "dies in an update":
                raise ConnectionError
            self.group = BroadcastGroup.join(Meeting.from_json(arguments[0]), 0)
        if method == "rlcore_take":
            self.take(*arguments)
        if method == "rlcore_digests":
            return self.digests if self.fault != "other weights" else [("w", 3, 3)]
        return [] if method == "rlcore_stale_copies" else None


    def take(self, contents: str, dtype: str, deadline_s: str) -> None:
        """A part of the weights; they are counted from the first part of a load on."""
        if self.fault == "freezes in a broadcast":
            self.fault = "freezes"
            self.released.wait(30)
        if self.fault == "dies in a broadcast":
            self.group = None
            raise ConnectionError
        if self.group is None:
            raise RuntimeError("this server is in no group")
        taken = self.group.take(
            contents, getattr(torch, dtype), torch.device("cpu"), float(deadline_s)
        )
        self.parts |= {name: tensor_digest(tensor) for name, tensor in taken}
        self.takes += 1
        self.digests = [(name, *digest) for name, digest in sorted(self.parts.items())]


class _Handler(BaseHTTPRequestHandler):
    fake: FakeVllm

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        fake = self.fake
        if fake.fault == "freezes":
            fake.released.wait(30)
        if fake.fault == "dead":
            return self.close_now()
        if self.path == "/health":
            return self.answer(200, {})
        return self.answer(200, {"data": [{"id": "policy", "max_model_len": fake.longest}]})

    def do_POST(self) -> None:
        fake = self.fake
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"null")
        if fake.fault == "freezes":
            fake.released.wait(30)
        if fake.fault == "dead":
            return self.close_now()
        if self.path == "/v1/completions":
            return self.completion(body)
        if self.path == "/abort_requests":
            fake.aborts += 1
            if fake.fault != "abort misses" or fake.aborts > 2:
                fake.aborted |= set(body["request_ids"])
            return self.answer(200, {"aborted": 1})
        if self.path == "/collective_rpc":
            if fake.fault == "other model" and body["method"] in ("rlcore_load_file", "rlcore_loaded"):
                return self.answer(500, {"error": "sizes must match"})
            try:
                result = fake.call(body["method"], body["args"])
            except ConnectionError:
                return self.close_now()
            except RuntimeError as error:  # of a group that is broken
                return self.answer(500, {"error": str(error)})
            return self.answer(200, {"results": [result]})
        fake.paused = self.path.startswith("/pause")
        return self.answer(200, {})

    def completion(self, body: dict[str, Any]) -> None:
        fault = self.fake.fault
        if fault == "500":
            return self.answer(500, {"error": "the engine has a problem"})
        if fault == "400":
            return self.answer(400, {"error": "no such thing"})
        if fault == "not JSON":
            return self.send(200, b"<html>a proxy</html>")
        choice = self.fake.complete(body)
        if self.fake.fault == "dead":
            return self.close_now()
        if fault == "no tokens":
            del choice["token_ids"]
        if fault == "values missing":
            choice["logprobs"]["token_logprobs"].pop()
        data = json.dumps({"choices": [choice]}).encode()
        if fault == "cut body":
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            return self.close_now()
        return self.send(200, data)

    def answer(self, status: int, value: Any) -> None:
        self.send(status, json.dumps(value).encode())

    def send(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def close_now(self) -> None:
        self.close_connection = True
        self.connection.close()
