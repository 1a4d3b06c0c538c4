"""The engine over servers that fail in every way that is known: nothing is lost, every wait ends, each end has its sentence."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import rollout_reference as ref
import torch
from fake_vllm import FakeVllm

from rlcore.errors import EngineError, PublishError
from rlcore.recipe.build_learner import check_engine
from rlcore.recipe.model_sections import EngineSection
from rlcore.rollout import (
    served_weights,
    server_client,
    server_pool,
    server_requests,
    server_settings,
)
from rlcore.rollout.collector import numbered
from rlcore.rollout.file_host import FileHost, fetch
from rlcore.rollout.generator import Generator
from rlcore.rollout.prompt import PromptEncoder
from rlcore.rollout.publish import fingerprint
from rlcore.rollout.server_process import ServerProcesses, ServerSettings, cause
from rlcore.rollout.vllm_server import VllmServers
from rlcore.types import Completion, Sampling, Task, Verdict

Start = Callable[..., VllmServers]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds against real servers takes hundredths here."""
    monkeypatch.setattr(server_pool, "WATCH_S", 0.02)
    monkeypatch.setattr(server_client, "HEALTH_S", 0.05)
    monkeypatch.setattr(server_client, "CONTROL_S", 0.3)
    monkeypatch.setattr(server_requests, "RETRY_S", 0.01)
    monkeypatch.setattr(server_requests, "ABORT_AGAIN_S", 0.01)


@pytest.fixture
def fakes() -> Iterator[list[FakeVllm]]:
    servers = [FakeVllm(), FakeVllm()]
    yield servers
    for server in servers:
        server.stop()


@pytest.fixture
def start(model_path: Path) -> Iterator[Start]:
    engines: list[VllmServers] = []

    def make(fakes: list[FakeVllm], **settings: object) -> VllmServers:
        options = {"max_length": 256, "start_deadline_s": 0.5, "reconnect_s": 0.3, **settings}
        engine = VllmServers(model_path, servers=[fake.url for fake in fakes], **options)
        engines.append(engine)
        return engine

    make.model_path = model_path
    yield make
    for engine in engines:
        engine.close()


def weights(value: float = 1.0) -> list[tuple[str, torch.Tensor]]:
    return [("a", torch.full((3, 4), value)), ("b", torch.arange(5.0))]


def publish(engine: VllmServers, version: int, value: float = 1.0) -> None:
    engine.load(weights(value), version)
    assert engine.fingerprint() == fingerprint(tensor for _, tensor in weights(value))


def publish_while_one_is_started_again(engine: VllmServers, fakes: list[FakeVllm]) -> None:
    """The first server misses version 2, and has it when it is back."""
    port = fakes[0].port
    fakes[0].stop()
    publish(engine, 2, 2.0)
    fakes[0] = FakeVllm(port=port)
    wait_until(lambda: len(alive(engine)) == 2)
    assert fakes[0].digests == fakes[1].digests and not fakes[0].paused


def collect(engine: VllmServers, count: int, deadline_s: float = 5.0) -> dict[str, Completion]:
    """Completions by request, asked for again while they are lost."""
    done: dict[str, Completion] = {}
    until = time.monotonic() + deadline_s
    while len(done) < count:
        assert time.monotonic() < until, f"{count - len(done)} of {count} are missing"
        for completion in engine.poll(0.05):
            done[completion.request_id] = completion
    return done


def generator(engine: VllmServers) -> Generator:
    class Right:
        def __init__(self) -> None:
            self.ready: list[tuple[str, list[Verdict]]] = []

        def submit(self, key: str, task: Task, rollouts: list[object]) -> None:
            self.ready.append((key, [Verdict(value=1.0) for _ in rollouts]))

        def poll(self, timeout_s: float) -> list[tuple[str, list[Verdict]]]:
            ready, self.ready = self.ready, []
            return ready

        def check_progress(self) -> None:
            pass

    return Generator(
        engine=engine,
        encoder=PromptEncoder(ref.make_tokenizer(), format="plain", system=None),
        scorer=Right(),
        sampling=Sampling(max_tokens=20, temperature=1.0),
        group_size=2,
        seed_of_batch=lambda batch: batch,
        max_length=256,
        deadline_s=10.0,
    )


def all_groups(engine: VllmServers, meanwhile: Callable[[int], None] = lambda turn: None) -> list:
    """Six groups of two completions, whole and exact: each token continues the count."""
    generate = generator(engine)
    generate.start(numbered([Task(id=f"t{i}", prompt="12+34=") for i in range(6)]), batch=0)
    finished = []
    until = time.monotonic() + 8
    turn = 0
    while len(finished) < 6:
        assert time.monotonic() < until, f"{6 - len(finished)} groups are missing"
        finished += generate.pump(0.02)
        meanwhile(turn)
        turn += 1
    for done in finished:
        for rollout in done.group.rollouts:
            assert rollout.finish == "length" and len(rollout.completion_ids) == 20
    return finished


FAULTS = ["500", "cut body", "not JSON", "no tokens", "values missing", "freezes", "dead"]


@pytest.mark.parametrize("fault", FAULTS)
def test_completions_of_a_failing_server_are_generated_by_the_other(
    fault: str, fakes: list[FakeVllm], start: Start
) -> None:
    engine = start(fakes)
    publish(engine, 1)

    def meanwhile(turn: int) -> None:
        if turn == 0:
            fakes[0].fault = fault

    all_groups(engine, meanwhile)
    assert fakes[1].served


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_recovers_is_used_again(
    fault: str, fakes: list[FakeVllm], start: Start
) -> None:
    engine = start(fakes)
    publish(engine, 1)
    fakes[0].fault = fault
    all_groups(engine)
    wait_until(lambda: fakes[0].url not in alive(engine) or fault not in ("freezes", "dead"))
    fakes[0].fault = ""
    fakes[0].released.set()
    wait_until(lambda: fakes[0].url in alive(engine))
    fakes[0].served.clear()
    all_groups(engine)
    assert fakes[0].served


def alive(engine: VllmServers) -> list[str]:
    return [server.url for server in engine._pool.alive]


def wait_until(holds: Callable[[], bool], deadline_s: float = 5.0) -> None:
    until = time.monotonic() + deadline_s
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_one_bad_answer_does_not_cost_a_server(fakes: list[FakeVllm], start: Start) -> None:
    engine = start(fakes[:1])
    publish(engine, 1)
    fakes[0].fault = "500"
    [request] = ref.requests([[5, 6]], max_tokens=4)
    engine.submit([request])
    assert collect(engine, 1)[request.id].finish == "lost"
    assert alive(engine) == [fakes[0].url]


def test_an_abort_that_overtakes_its_request_is_repeated(
    fakes: list[FakeVllm], start: Start
) -> None:
    engine = start(fakes[:1])
    publish(engine, 1)
    fakes[0].fault = "abort misses"
    asked = ref.requests([[5, 6]], max_tokens=200)
    engine.submit(asked)
    time.sleep(0.05)
    engine.abort([asked[0].id])
    done = collect(engine, 1)[asked[0].id]
    assert done.finish == "aborted" and 0 < len(done.token_ids) < 200
    assert fakes[0].aborts == 3 and set(done.versions) == {1}


def test_requests_of_a_frozen_server_come_back_from_an_abort(
    fakes: list[FakeVllm], start: Start
) -> None:
    engine = start(fakes[:1])
    publish(engine, 1)
    fakes[0].fault = "freezes"
    asked = ref.requests([[5, 6], [7, 8]], max_tokens=20)
    engine.submit(asked)
    engine.abort([request.id for request in asked])
    assert {done.finish for done in collect(engine, 2).values()} == {"aborted"}


def test_an_abort_by_somebody_else_is_no_end(fakes: list[FakeVllm], start: Start) -> None:
    """The completion goes on, and has all its tokens once."""
    engine = start(fakes[:1])
    publish(engine, 1)

    fakes[0].fault = "foreign abort"

    def meanwhile(turn: int) -> None:
        if turn == 2:
            fakes[0].fault = ""

    all_groups(engine, meanwhile)
    assert any(len(body["prompt"]) > 6 for body in fakes[0].served), "tokens so far are sent"


def test_weights_while_completions_are_under_way(fakes: list[FakeVllm], start: Start) -> None:
    """Each token has the version of the server that wrote it; nothing is written while weights change."""
    engine = start(fakes)
    publish(engine, 1)
    generate = generator(engine)
    generate.start(numbered([Task(id=f"t{i}", prompt="12+34=") for i in range(6)]), batch=0)
    finished: list = []
    version = 1
    while len(finished) < 6:
        finished += generate.pump(0.01)
        if version < 4:
            generate.drain()
            version += 1
            publish(engine, version, float(version))
    versions = [
        rollout.turns[1].versions for done in finished for rollout in done.group.rollouts
    ]
    assert all(v == sorted(v) for v in versions) and max(map(len, map(set, versions))) > 1
    with pytest.raises(EngineError, match="2 requests are under way"):
        engine.submit(ref.requests([[5], [6]], "late", max_tokens=100))
        engine.load(weights(), 9)


@pytest.mark.parametrize("fault", ["dies in an update", "wrong label"])
def test_a_server_that_fails_in_an_update_is_left_out(
    fault: str, fakes: list[FakeVllm], start: Start
) -> None:
    engine = start(fakes)
    publish(engine, 1)
    fakes[0].fault = fault
    publish(engine, 2, 2.0)
    assert alive(engine) == [fakes[1].url]
    all_groups(engine)
    fakes[0].fault = ""
    wait_until(lambda: fakes[0].url in alive(engine))
    assert fakes[0].label == fakes[1].label and fakes[0].digests == fakes[1].digests


def test_a_server_that_was_started_again_gets_the_present_weights(
    fakes: list[FakeVllm], start: Start
) -> None:
    engine = start(fakes)
    publish(engine, 1)
    publish_while_one_is_started_again(engine, fakes)


def test_a_version_that_is_loaded_again_has_another_label(
    fakes: list[FakeVllm], start: Start
) -> None:
    """Averaged weights have the version of the policy; a server with the others is not taken for one with these."""
    engine = start(fakes)
    publish(engine, 1)
    before = fakes[0].label
    publish(engine, 1, 2.0)
    assert fakes[0].label == fakes[1].label != before


def test_servers_with_different_weights_fail_the_proof(
    fakes: list[FakeVllm], start: Start
) -> None:
    engine = start(fakes)
    engine.load(weights(), 1)
    fakes[1].fault = "other weights"
    with pytest.raises(PublishError, match="different weights: http://"):
        engine.fingerprint()


def test_without_any_server_the_wait_ends_with_the_reasons(
    fakes: list[FakeVllm], start: Start
) -> None:
    engine = start(fakes)
    publish(engine, 1)
    for fake in fakes:
        fake.stop()
    with pytest.raises(EngineError, match="no server has answered for 0.3 s") as error:
        all_groups(engine)
    assert all(fake.url in str(error.value) for fake in fakes)


@pytest.mark.parametrize("moment", ["before", "while loading"])
def test_weights_wait_for_the_only_server_to_come_back(
    moment: str, fakes: list[FakeVllm], start: Start
) -> None:
    """A cut network at the time of a publish costs the time that it is cut."""
    engine = start(fakes[:1], reconnect_s=5.0)
    publish(engine, 1)
    fakes[0].fault = "freezes" if moment == "before" else "dies in an update"
    wait_until(lambda: not alive(engine) or moment != "before")

    def mend() -> None:
        fakes[0].fault = ""
        fakes[0].released.set()

    timer = threading.Timer(0.3, mend)
    timer.start()
    publish(engine, 2, 2.0)
    assert alive(engine) == [fakes[0].url]
    all_groups(engine)


def test_weights_are_given_up_when_no_server_comes_back(
    fakes: list[FakeVllm], start: Start
) -> None:
    engine = start(fakes[:1])
    publish(engine, 1)
    fakes[0].stop()
    with pytest.raises(EngineError, match=r"no server has answered for 0.3 s \(http://127"):
        engine.load(weights(), 2)


def test_a_request_that_a_server_refuses_ends_the_run_with_its_words(
    fakes: list[FakeVllm], start: Start
) -> None:
    engine = start(fakes)
    fakes[0].fault = fakes[1].fault = "400"
    with pytest.raises(EngineError, match="answers 400: no such thing"):
        all_groups(engine)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"error": {"message": "too long", "type": "BadRequestError", "param": None, "code": 400}}, "too long"),
        ({"object": "error", "message": "too long", "code": 400}, "too long"),
        ({"error": "too long"}, "too long"),
        ({"detail": "Not Found"}, "Not Found"),
        ({"detail": [{"loc": ["body", "seed"]}]}, '{"detail": [{"loc": ["body", "seed"]}]}'),
        ({"error": None}, '{"error": null}'),
        ("too long", "too long"),
        (None, "upstream failed"),
    ],
)
def test_of_an_error_its_sentence_is_told(answer: Any, said: str) -> None:
    text = "upstream failed\n" if answer is None else json.dumps(answer)

    async def call() -> None:
        transport = httpx.MockTransport(lambda request: httpx.Response(400, text=text))
        async with httpx.AsyncClient(transport=transport) as http:
            await server_client.Server("http://there", http).pause()

    with pytest.raises(server_client.ServerError) as error:
        asyncio.run(call())
    assert str(error.value) == f"http://there/pause answers 400: {said}"


def test_another_program_is_no_server(start: Start) -> None:
    """Its refusal ends the wait at once."""

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    other = ThreadingHTTPServer(("127.0.0.1", 0), Other)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{other.server_address[1]}"
    began = time.monotonic()
    with pytest.raises(EngineError, match=r"no server has started \(.*404: it is no vLLM server\)"):
        VllmServers(start.model_path, servers=[url], max_length=256, start_deadline_s=30)
    assert time.monotonic() - began < 5
    other.shutdown()


def test_a_dead_server_does_not_hold_up_the_others(
    fakes: list[FakeVllm], start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is used when it comes, and an address given twice is one server."""
    monkeypatch.setattr(server_pool, "OTHERS_S", 0.2)
    port = fakes[0].port
    fakes[0].stop()
    began = time.monotonic()
    engine = start([*fakes, fakes[1]], start_deadline_s=30)
    assert time.monotonic() - began < 10
    assert [server.url for server in engine._pool.servers] == [fakes[0].url, fakes[1].url]
    assert "it does not answer at /health: ConnectError" in engine._pool.whys
    publish(engine, 1)
    fakes[0] = FakeVllm(port=port)
    wait_until(lambda: len(alive(engine)) == 2)
    all_groups(engine)


def test_the_last_server_is_waited_for(
    fakes: list[FakeVllm], start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    engine = start(fakes[:1], reconnect_s=5.0)
    publish(engine, 1)
    fakes[0].fault = "freezes"
    wait_until(lambda: not alive(engine))
    fakes[0].fault = ""
    fakes[0].released.set()
    wait_until(lambda: bool(alive(engine)))
    said = capfd.readouterr().err
    lost = f"lost the last server, its requests wait until one comes back: {fakes[0].url} gave no answer at /health"
    assert lost in said


def test_servers_of_another_model_refuse_the_weights_at_once(
    fakes: list[FakeVllm], start: Start
) -> None:
    engine = start(fakes, reconnect_s=30.0)
    for fake in fakes:
        fake.fault = "other model"
    with pytest.raises(EngineError, match="no server has taken the weights .* another model"):
        engine.load(weights(), 1)


def test_the_loss_and_return_of_a_server_are_said(
    fakes: list[FakeVllm], start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    engine = start(fakes)
    publish(engine, 1)
    fakes[0].fault = "freezes"
    wait_until(lambda: len(alive(engine)) == 1)
    fakes[0].fault = ""
    fakes[0].released.set()
    wait_until(lambda: len(alive(engine)) == 2)
    said = capfd.readouterr().err
    assert f"lost a server, its requests are asked for elsewhere: {fakes[0].url} gave no answer at /health" in said
    assert f"{fakes[0].url} is used again" in said


def test_weights_that_a_killed_run_has_left_are_removed(
    fakes: list[FakeVllm], start: Start, tmp_path: Path
) -> None:
    """Those of a run that lives stay."""
    for name in ("rlcore_dead", "rlcore_alive"):
        (tmp_path / name / "load_1").mkdir(parents=True)
        (tmp_path / name / served_weights._LOCK).touch()
    held = served_weights._hold(tmp_path / "rlcore_alive")
    engine = start(fakes, folder=str(tmp_path))
    publish(engine, 1)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert "rlcore_alive" in left and "rlcore_dead" not in left and len(left) == 2
    os.close(held)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"start": -1}, "engine.start is -1: it is a whole number from 0"),
        ({"tensor_parallel": 0}, "engine.tensor_parallel is 0: it is a whole number from 1"),
        ({"start": 1, "servers": ["http://a:1"]}, "are both set: keep one"),
        ({"servers": ["a:1"]}, "'a:1' is no address"),
        ({"folder": "/nonexistent/x"}, "which is no folder here: make it"),
    ],
)
def test_settings_that_are_wrong_without_a_model(settings: dict, sentence: str) -> None:
    with pytest.raises(EngineError, match=sentence):
        server_settings.check_settings(**settings)
    section = EngineSection.model_validate({"use": "vllm_server", **settings})
    with pytest.raises(EngineError, match=sentence):
        check_engine(section)


def test_a_server_does_not_take_a_port_in_use(model_path: Path) -> None:
    """The other program's answers would be taken for the server's."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        settings = ServerSettings(model=str(model_path), dtype="float32", max_length=64)
        with pytest.raises(EngineError, match=f"cannot listen at 127.0.0.1:{port} .*--port"):
            ServerProcesses(settings, 1, ports=[port])


def test_the_cause_of_a_death_is_the_first_error_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text(
        "(pid=1) WARNING ulimit, `OSError: [Errno 24] Too many open files`\n"
        "RuntimeError: head_dim=16 is not there\nat x\n"
        "EngineDeadError: See stack trace above\n"
    )
    assert cause(log) == "RuntimeError: head_dim=16 is not there"


def test_what_is_wrong_with_servers_is_said_at_the_start(
    fakes: list[FakeVllm], start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes[0].longest = 100
    with pytest.raises(EngineError, match=r"takes 100 tokens and engine.max_length is 256"):
        start(fakes[:1])
    fakes[1].fault = "other dtype"
    with pytest.raises(EngineError, match=r"computes in bfloat16 and the run in float32; start it with"):
        start(fakes[1:])
    fakes[1].fault = "freezes"
    with pytest.raises(EngineError, match=r"no server has started within 0.5 s \(http://127"):
        start(fakes[1:])
    with pytest.raises(EngineError, match=r"set engine.servers or RLCORE_SERVERS"):
        start([])
    monkeypatch.setenv(server_settings.SERVERS, "localhost:8000")
    with pytest.raises(EngineError, match=r"'localhost:8000' is no address of a server"):
        start([])


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fakes count as servers of another machine."""
    monkeypatch.setattr(served_weights, "_HERE", ())


def test_servers_elsewhere_fetch_the_weights(
    elsewhere: None, fakes: list[FakeVllm], start: Start
) -> None:
    engine = start(fakes)
    publish(engine, 1)
    first = fakes[0].loads[-1]
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{20,}/load_1/0\.safetensors", first)
    publish_while_one_is_started_again(engine, fakes)
    all_groups(engine)
    with pytest.raises(ConnectionError, match="404"):
        fetch(first)  # the weights before are not handed out any more
    engine.close()
    with pytest.raises(ConnectionError, match=r"let it reach the learner's first process there"):
        fetch(fakes[0].loads[-1])


def test_with_a_shared_folder_nothing_is_fetched(
    elsewhere: None, fakes: list[FakeVllm], start: Start, tmp_path: Path
) -> None:
    engine = start(fakes, folder=str(tmp_path))
    publish(engine, 1)
    assert fakes[0].loads[-1].startswith(str(tmp_path))


def test_a_file_host_gives_what_it_offers_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "load_1"
    folder.mkdir()
    (folder / "0.safetensors").write_bytes(b"weights" * 100_000)
    (folder / "other").write_text("private")
    host = FileHost()
    try:
        host.offer([folder / "0.safetensors"])
        address = host.address(folder / "0.safetensors", "http://127.0.0.1:8000")
        assert fetch(address) == b"weights" * 100_000
        root, _, rest = address.partition("/load_1/")
        for wrong in (
            f"{root}/load_1/other",
            f"{root}/load_1/../load_1/0.safetensors",
            f"{root}/",
            f"{root.rpartition('/')[0]}/guess/load_1/{rest}",
        ):
            with pytest.raises(ConnectionError, match="404"):
                fetch(wrong)
    finally:
        host.close()


def test_a_file_that_comes_half_is_an_error() -> None:
    class Half(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "10")
            self.end_headers()
            self.wfile.write(b"12345")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Half)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(ConnectionError, match=r"IncompleteRead.* or set engine.folder"):
            fetch(f"http://127.0.0.1:{server.server_address[1]}/x")
    finally:
        server.shutdown()
        server.server_close()
