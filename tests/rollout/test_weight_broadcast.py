"""Weights to servers by broadcast: what they hold, servers that die or freeze on the way, groups that are made anew."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from fake_vllm import FakeVllm
from test_vllm_server_faults import (
    alive,
    all_groups,
    fakes,
    short_waits,
    start,
    wait_until,
    weights,
)

from rlcore.errors import EngineError, PublishError
from rlcore.rollout import broadcast_group, served_weights, weight_broadcast
from rlcore.rollout.engine import SequenceScore
from rlcore.rollout.publish import fingerprint, publish
from rlcore.rollout.vllm_server import VllmServers

__all__ = ["fakes", "short_waits", "start"]  # fixtures

Start = Callable[..., VllmServers]


@pytest.fixture(autouse=True)
def short_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broadcast_group, "JOIN_S", 2.0)
    monkeypatch.setattr(weight_broadcast, "JOIN_S", 2.0)
    monkeypatch.setattr(weight_broadcast, "LATER_S", 0.5)
    monkeypatch.setattr(served_weights, "LOAD_S", 0.5)


class Learner:
    """Weights that are counted as they are read."""

    def __init__(self, value: float) -> None:
        self.value = value
        self.reads = 0

    def __call__(self) -> Iterator[tuple[str, torch.Tensor]]:
        self.reads += 1
        yield from weights(self.value)


def send(engine: VllmServers, version: int, value: float = 1.0) -> int:
    """Publish; how often the weights were read for it."""
    learner = Learner(value)
    # fakes have no model
    engine.score = lambda texts: [SequenceScore([0.0], [{}]) for _ in texts]
    report = publish(
        learner,
        engine,
        version,
        canary=[[1, 2]],
        score=lambda texts: [[0.0] for _ in texts],
        served_dtype="float32",
    )
    assert report.fingerprint == fingerprint(tensor for _, tensor in weights(value))
    return learner.reads


@pytest.fixture
def engine(fakes: list[FakeVllm], start: Start) -> VllmServers:
    return start(fakes, transport="broadcast", reconnect_s=5.0)


def test_all_servers_hold_what_was_sent(
    engine: VllmServers, fakes: list[FakeVllm], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one group over several publishes, in one part or in several; no file is written."""
    assert send(engine, 1) == 1
    groups = [fake.group for fake in fakes]
    monkeypatch.setattr(served_weights, "PART_BYTES", 1)
    assert send(engine, 2, 2.0) == 1
    assert [fake.takes for fake in fakes] == [3, 3] and groups == [fake.group for fake in fakes]
    assert not any(fake.loads or fake.paused for fake in fakes)
    assert engine._weights._folder is None
    all_groups(engine)


@pytest.mark.parametrize("fault", ["dies in an update", "dies in a broadcast", "freezes in a broadcast"])
def test_a_server_that_is_lost_on_the_way_is_left_out_and_has_the_next_weights(
    fault: str, engine: VllmServers, fakes: list[FakeVllm]
) -> None:
    if fault != "dies in an update":  # that is when a group is made
        send(engine, 1)
    fakes[0].fault = fault
    assert send(engine, 2, 2.0) == 2
    assert alive(engine) == [fakes[1].url]
    all_groups(engine)
    fakes[0].fault = ""
    fakes[0].released.set()
    wait_until(lambda: "next weights" in engine._pool.whys)
    assert alive(engine) == [fakes[1].url]
    assert send(engine, 3, 3.0) == 1
    assert sorted(alive(engine)) == sorted(fake.url for fake in fakes)
    assert fakes[0].digests == fakes[1].digests and not fakes[0].paused
    all_groups(engine)


def test_a_server_that_was_started_again_unnoticed_joins_another_group(
    engine: VllmServers, fakes: list[FakeVllm]
) -> None:
    send(engine, 1)
    fakes[0].group = None
    assert send(engine, 2, 2.0) == 2
    assert len(alive(engine)) == 2 and fakes[0].digests == fakes[1].digests
    assert send(engine, 3, 3.0) == 1


def test_the_only_server_is_waited_for(engine: VllmServers, fakes: list[FakeVllm]) -> None:
    send(engine, 1)
    for fake in fakes:
        fake.fault = "dead"
    wait_until(lambda: not alive(engine))
    threading.Timer(0.3, lambda: setattr(fakes[1], "fault", "")).start()
    send(engine, 2, 2.0)
    assert alive(engine) == [fakes[1].url]


def test_servers_of_another_model_are_told_apart_from_lost_ones(
    engine: VllmServers, fakes: list[FakeVllm]
) -> None:
    fakes[0].fault = "other model"
    assert send(engine, 1) == 2
    assert alive(engine) == [fakes[1].url]
    fakes[1].fault = "other model"
    with pytest.raises(EngineError, match="no server has taken the weights .*sizes must match.*rlcore serve"):
        send(engine, 2)


def test_a_group_that_does_not_meet_ends_with_what_to_do(
    engine: VllmServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a firewall, where servers answer and their workers are not reached."""
    monkeypatch.setattr(FakeVllm, "call", lambda self, method, arguments: [])
    with pytest.raises(EngineError, match="no server has taken the weights .*engine.transport=file"):
        send(engine, 1)


def test_what_arrives_changed_fails_the_proof(
    engine: VllmServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = broadcast_group.BroadcastGroup.take

    def reversed_take(*arguments: object) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in take(*arguments):
            yield name, tensor * 2

    monkeypatch.setattr(broadcast_group.BroadcastGroup, "take", reversed_take)
    with pytest.raises(PublishError, match="does not hold the published weights"):
        send(engine, 1)


def test_names_shapes_and_tied_weights_arrive(tmp_path: Path) -> None:
    """Of the group alone: scalars, empty tensors, views of one memory, bfloat16 bit for bit."""
    import torch.distributed as dist

    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    memory = torch.randn(6, generator=torch.Generator().manual_seed(0)).bfloat16()
    sent = {"a": memory.view(2, 3), "b": memory[:0], "c": memory[1], "d": memory[2:5]}
    taken: dict[str, torch.Tensor] = {}

    def take() -> None:
        meeting = broadcast_group.Meeting(
            host="127.0.0.1", port=store.port, name="g", first_rank=1, size=2, backend="gloo"
        )
        group = broadcast_group.BroadcastGroup.join(meeting, 0)
        contents = broadcast_group.contents_of(sent)
        taken.update(group.take(contents, torch.bfloat16, torch.device("cpu"), 5.0))

    thread = threading.Thread(target=take)
    thread.start()
    group = broadcast_group.BroadcastGroup(store, 0, 2, name="g", backend="gloo", here="127.0.0.1")
    group.give(sent, 5.0)
    thread.join()
    assert list(taken) == list(sent)
    for name, tensor in sent.items():
        assert taken[name].shape == tensor.shape and taken[name].equal(tensor)
