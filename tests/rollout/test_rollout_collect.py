"""Collecting with a scripted engine: order, stragglers, overlap, refusals."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import rollout_reference as ref

from rlcore.errors import EngineError, RewardError, TaskError
from rlcore.rollout.collector import CollectedBatch, collect
from rlcore.rollout.engine import generate
from rlcore.rollout.open_group import request_seed
from rlcore.rollout.prompt import PromptEncoder
from rlcore.rollout.scripted import ScriptedEngine
from rlcore.types import Request, Rollout, Sampling, Task, Verdict

TASKS = [Task(id=f"t{i}", prompt=f"{i}+1=") for i in range(3)]


class LengthScorer:
    """Value = number of letters; keeps the order of arrival. `silent` never answers."""

    def __init__(self, silent: bool = False) -> None:
        self.arrived: list[str] = []
        self._ready: list[tuple[str, list[Verdict]]] = []
        self._silent = silent

    def submit(self, key: str, task: Task, rollouts: Sequence[Rollout]) -> None:
        self.arrived.append(key)
        self._ready.append((key, [_verdict(rollout) for rollout in rollouts]))

    def check_progress(self) -> None:
        if self._silent and self._ready:
            raise RewardError("no reward call has finished")

    def poll(self, timeout_s: float) -> list[tuple[str, list[Verdict]]]:
        ready, self._ready = ([], self._ready) if self._silent else (self._ready[::-1], [])
        return ready


def _verdict(rollout: Rollout) -> Verdict:
    if rollout.finish == "aborted":
        return Verdict(value=None, status="unscorable")
    return Verdict(value=float(len(rollout.text)))


def encode(text: str) -> list[int]:
    return [*(ref.CHARS.index(char) for char in text), 1]


def scripted(delay: dict[str, int] | None = None) -> ScriptedEngine:
    return ScriptedEngine(
        lambda request: "ab" * (1 + int(request.id[-1])), encode=encode, logprob=-0.25, delay=delay
    )


def run(
    engine: ScriptedEngine,
    tasks: Sequence[Task] = TASKS,
    scorer: LengthScorer | None = None,
    **options: object,
) -> CollectedBatch:
    options = {
        "sampling": Sampling(max_tokens=20),
        "group_size": 2,
        "seed": 5,
        "deadline_s": 30.0,
        "max_length": 64,
        **options,
    }
    encoder = PromptEncoder(ref.make_tokenizer())
    return collect(
        tasks, engine=engine, encoder=encoder, scorer=scorer or LengthScorer(), **options
    )


def test_groups_come_in_task_order() -> None:
    scorer = LengthScorer()
    collected = run(scripted({"t0#0.1": 9, "t1#0.0": 4}), scorer=scorer)
    assert scorer.arrived == [
        "t2#0.0",
        "t1#0.0",
        "t0#0.0",
    ]  # scored as each group finished, the slow ones last
    assert [group.task.id for group in collected.groups] == ["t0", "t1", "t2"]
    for group in collected.groups:
        assert [rollout.id for rollout in group.rollouts] == [
            f"{group.task.id}#0.0",
            f"{group.task.id}#0.1",
        ]
        assert [verdict.value for verdict in group.verdicts] == [2.0, 4.0]
    assert collected.groups == run(scripted()).groups  # delays change nothing but the clock


def test_a_rollout_is_aligned() -> None:
    rollout = run(scripted()).groups[1].rollouts[0]
    assert rollout.token_ids == [*encode("1+1=")[:-1], *encode("ab")]
    assert rollout.mask == [False] * 4 + [True] * 3
    assert rollout.logprobs == [0.0] * 4 + [-0.25] * 3
    assert (rollout.text, rollout.finish, rollout.task_id) == ("ab", "stop", "t1")


def test_tokens_are_counted() -> None:
    collected = run(scripted())
    assert (collected.prompt_tokens, collected.completion_tokens) == (3 * 2 * 4, 3 * (3 + 5))


def test_a_straggler_is_cut_at_the_deadline() -> None:
    collected = run(scripted({"t1#0.1": 10**6}), deadline_s=0.2)
    late = collected.groups[1]
    assert [rollout.finish for rollout in late.rollouts] == ["stop", "aborted"]
    assert [verdict.status for verdict in late.verdicts] == ["ok", "unscorable"]
    assert all(v.status == "ok" for group in collected.groups[::2] for v in group.verdicts)
    assert 0.2 <= collected.rollout_s < 5


def test_max_tokens_is_cut_to_fit() -> None:
    collected = run(scripted(), max_length=7)
    assert [len(rollout.token_ids) for rollout in collected.groups[0].rollouts] == [7, 7]
    assert [rollout.finish for rollout in collected.groups[0].rollouts] == ["stop", "length"]


def test_a_prompt_without_room_is_refused() -> None:
    with pytest.raises(TaskError, match="task 'long' has 64 tokens and max_length is 64"):
        run(scripted(), [Task(id="long", prompt="1" * 64)])
    assert (
        run(scripted(), [Task(id="fits", prompt="1" * 63)]).groups[0].rollouts[0].completion_ids
        == encode("a")[:1]
    )


def test_a_repeated_task_keeps_ids_and_seeds_apart() -> None:
    seen: list[Request] = []
    engine = ScriptedEngine(lambda request: seen.append(request) or [7, 1])
    collected = run(engine, [TASKS[0], TASKS[1], TASKS[0]])
    ids = [[rollout.id for rollout in group.rollouts] for group in collected.groups]
    assert ids == [["t0#0.0", "t0#0.1"], ["t1#0.0", "t1#0.1"], ["t0#0.2", "t0#0.3"]]
    assert len({request.seed for request in seen}) == 6


def test_seeds_are_stable() -> None:
    assert (
        request_seed(5, "t0", 0) == 2878126769615996478
    )  # changes every run that is resumed, if it changes
    assert all(0 <= request_seed(s, "x", a) < 2**63 for s in range(20) for a in range(20))


def test_missing_verdicts_end_with_a_sentence() -> None:
    with pytest.raises(RewardError, match="no reward call has finished"):
        run(scripted(), scorer=LengthScorer(silent=True))


def test_a_dead_sampler_ends_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = scripted({"t0#0.0": 10**6})
    monkeypatch.setattr("rlcore.rollout.engine.ABORT_GRACE_S", 0.1)
    monkeypatch.setattr(engine, "abort", lambda ids: None)
    with pytest.raises(EngineError, match="did not hand back 1 aborted requests"):
        run(engine, deadline_s=0.1)


def test_generate_keeps_request_order_and_its_deadline() -> None:
    asked = [
        Request(id=f"r{i}", prompt_ids=[5], sampling=Sampling(max_tokens=9), seed=0)
        for i in range(3)
    ]
    assert [c.request_id for c in generate(scripted({"r0": 5}), asked, 10)] == ["r0", "r1", "r2"]
    engine = scripted({"r1": 10**6})
    with pytest.raises(EngineError, match="1 of 3 requests were not finished after 0.1 s"):
        generate(engine, asked, 0.1)
    assert engine.poll(0.0) == []  # nothing is left over for the next caller


def test_scripted_sampler_keeps_the_protocol() -> None:
    engine = ScriptedEngine({"a": [7, 8, 9, 1], "b": [7, 8, 9, 1], "c": "x"}, delay={"b": 3})
    a = Request(id="a", prompt_ids=[5], prefix_ids=[7], sampling=Sampling(max_tokens=2), seed=0)
    b = Request(id="b", prompt_ids=[5], sampling=Sampling(max_tokens=9), seed=0)
    engine.submit([a, b])
    (done,) = engine.poll(0.0)
    assert (done.token_ids, done.finish, done.version_max) == ([8, 9], "length", 0)
    engine.load([], 3)
    engine.poll(0.0)
    engine.abort(["b"])
    (partial,) = engine.poll(0.0)
    assert (partial.token_ids, partial.finish) == ([7, 8], "aborted")
    assert (partial.version_min, partial.version_max) == (0, 3)
    with pytest.raises(EngineError, match="does not begin with the request's prefix"):
        engine.submit(
            [
                Request(
                    id="b", prompt_ids=[5], prefix_ids=[9], sampling=Sampling(max_tokens=2), seed=0
                )
            ]
        )
    with pytest.raises(EngineError, match="give it encode="):
        engine.submit([Request(id="c", prompt_ids=[5], sampling=Sampling(max_tokens=2), seed=0)])
    with pytest.raises(EngineError, match="cannot score"):
        engine.score([[5, 6]])
