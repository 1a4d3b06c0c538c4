"""The generator: legs across weight updates, exact versions and log-probabilities, lost requests, state in a checkpoint."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import rollout_reference as ref
import torch
from transformers import PreTrainedModel

from rlcore.curriculum.rank_draws import RankDraws
from rlcore.curriculum.uniform import Uniform
from rlcore.rollout.collector import Collector, numbered
from rlcore.rollout.engine import Engine
from rlcore.rollout.generator import Generator
from rlcore.rollout.hf import HfEngine
from rlcore.rollout.open_group import FinishedGroup, TaskDraw, plan_group
from rlcore.rollout.prompt import PromptEncoder
from rlcore.rollout.scripted import ScriptedEngine
from rlcore.rollout.state import group_state, load_group
from rlcore.scoring.unscored import Unscored
from rlcore.types import Completion, Request, Rollout, Sampling, Task

TASKS = [Task(id=f"t{i}", prompt=f"{i}+{i}=") for i in range(4)]
LONG = Sampling(max_tokens=24, temperature=0.9, ignore_eos=True)


def generator(engine: Engine, sampling: Sampling = LONG, **settings: object) -> Generator:
    options = {"group_size": 2, "max_length": 256, "deadline_s": 60.0, **settings}
    return Generator(
        engine=engine,
        encoder=PromptEncoder(ref.make_tokenizer()),
        scorer=Unscored(),
        sampling=sampling,
        seed_of_batch=lambda batch: 100 + batch,
        **options,
    )


def finish(generator: Generator, groups: int) -> list[FinishedGroup]:
    finished: list[FinishedGroup] = []
    deadline = time.monotonic() + 60
    while len(finished) < groups:
        assert time.monotonic() < deadline, f"only {len(finished)} of {groups} groups finished"
        finished += generator.pump(1.0)
    return sorted(finished, key=lambda done: (done.batch, done.draw.order))


def expected_logprobs(models: dict[int, PreTrainedModel], rollout: Rollout) -> list[float]:
    """Of each completion token, by transformers, under the weights of the token's version and its temperature."""
    ids = torch.tensor([rollout.token_ids])
    by_version = {}
    for version, model in models.items():
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, :-1].float() / rollout.temperature
        logprobs = logits.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        by_version[version] = logprobs.tolist()
    values = []
    for position, version in enumerate(rollout.versions):
        if version is not None:
            values.append(by_version[version][position - 1])
    return values


@pytest.fixture
def models(model_path: Path) -> dict[int, PreTrainedModel]:
    """Three versions of the weights, far enough apart that a wrong version is noticed."""
    versions = {}
    for version in range(3):
        model = ref.open_model(model_path)
        for number in range(version):
            ref.perturb(model, 10 + number)
        versions[version] = model
    return versions


def test_every_token_has_the_version_and_log_probability_it_was_written_with(
    model_path: Path, models: dict[int, PreTrainedModel]
) -> None:
    """Staleness 2: three batches are under way while the weights change twice in the middle of completions."""
    generate = generator(HfEngine(model_path, max_length=256))
    engine = generate._engine
    for batch in range(3):
        generate.start(numbered(TASKS), batch=batch)
    finished: list[FinishedGroup] = []
    for version in (1, 2):
        for _ in range(7):
            finished += generate.pump(0.0)  # one token a row
        generate.drain()
        engine.load(models[version].named_parameters(), version)
    finished += finish(generate, 12 - len(finished))
    rollouts = [rollout for done in finished for rollout in done.group.rollouts]
    assert len(rollouts) == 24 and len({rollout.id for rollout in rollouts}) == 24
    assert any(set(r.versions) - {None} == {0, 1, 2} for r in rollouts), "none spans all versions"
    for rollout in rollouts:
        assert len(rollout.completion_ids) == LONG.max_tokens
        turn = rollout.turns[1]
        assert turn.logprobs == pytest.approx(expected_logprobs(models, rollout), abs=2e-5)
        assert turn.versions == sorted(turn.versions)


def test_a_wrong_version_would_be_noticed(
    model_path: Path, models: dict[int, PreTrainedModel]
) -> None:
    """The planted mistake: weights that were loaded without taking the requests back, and a version that lies."""
    generate = generator(HfEngine(model_path, max_length=256))
    generate.start(numbered(TASKS), batch=0)
    for _ in range(7):
        generate.pump(0.0)
    generate._engine.load(models[1].named_parameters(), 0)
    rollouts = [rollout for done in finish(generate, 4) for rollout in done.group.rollouts]
    wrong = [
        max(
            abs(a - b)
            for a, b in zip(r.turns[1].logprobs, expected_logprobs(models, r), strict=True)
        )
        for r in rollouts
    ]
    assert min(wrong) > 1e-3


def test_taking_back_without_new_weights_changes_only_the_seed_of_the_rest(
    model_path: Path,
) -> None:
    greedy = Sampling(max_tokens=24, temperature=0.0, ignore_eos=True)
    undisturbed = generator(HfEngine(model_path, max_length=256), greedy)
    undisturbed.start(numbered(TASKS), batch=0)
    disturbed = generator(HfEngine(model_path, max_length=256), greedy)
    disturbed.start(numbered(TASKS), batch=0)
    for _ in range(3):
        for _ in range(4):
            disturbed.pump(0.0)
        disturbed.drain()
    for one, other in zip(finish(undisturbed, 4), finish(disturbed, 4), strict=True):
        for a, b in zip(one.group.rollouts, other.group.rollouts, strict=True):
            assert a.completion_ids == b.completion_ids and a.finish == b.finish


class Flaky(ScriptedEngine):
    """Loses every request once, as a server that dies does."""

    def poll(self, timeout_s: float) -> list[Completion]:
        self.lost: set[str] = getattr(self, "lost", set())
        completions = []
        for done in super().poll(timeout_s):
            attempt = done.request_id.split("+")[0]
            if attempt not in self.lost:
                self.lost.add(attempt)
                half = len(done.token_ids) // 2
                done = Completion(
                    request_id=done.request_id,
                    token_ids=done.token_ids[:half],
                    logprobs=done.logprobs[:half],
                    versions=done.versions[:half],
                    finish="lost",
                )
            completions.append(done)
        return completions


def test_lost_requests_go_on_as_new_legs() -> None:
    asked: list[Request] = []

    def script(request: Request) -> list[int]:
        asked.append(request)
        return [7, 8, 9, 6, 1]

    generate = generator(Flaky(script, logprob=-0.5), group_size=1)
    generate.start(numbered(TASKS), batch=3)
    for done in finish(generate, 4):
        [rollout] = done.group.rollouts
        assert rollout.completion_ids == [7, 8, 9, 6, 1] and rollout.finish == "stop"
        assert rollout.turns[1].logprobs == [-0.5] * 5
    assert [request.id for request in asked] == [
        *(f"t{i}#3.0" for i in range(4)),
        *(f"t{i}#3.0+1" for i in range(4)),
    ]
    assert all(request.prefix_ids == [7, 8] for request in asked[4:])
    assert len({request.seed for request in asked}) == 8


def test_finished_groups_survive_a_checkpoint() -> None:
    generate = generator(ScriptedEngine(lambda request: [7, 8, 1], logprob=-1.0))
    generate.start(numbered(TASKS), batch=0)
    for done in finish(generate, 4):
        state = json.loads(json.dumps(group_state(done.group)))
        assert load_group(state, done.group.task) == done.group


def test_a_deterministic_engine_gets_whole_waves() -> None:
    """Nothing is submitted while something is being written or scored."""
    submitted: list[list[str]] = []

    class Watched(ScriptedEngine):
        def submit(self, requests: Sequence[Request]) -> None:
            submitted.append([request.id for request in requests])
            super().submit(requests)

    slow = {"t0#0.0": 5}
    for deterministic in (True, False):
        submitted.clear()
        engine = Watched(lambda r: [7, 1], delay=slow, deterministic=deterministic)
        generate = generator(engine, group_size=1)
        generate.start(numbered(TASKS[:2]), batch=0)
        early = generate.pump(0.0)
        generate.start(numbered(TASKS[2:]), batch=1)
        finish(generate, 4 - len(early))
        assert submitted == [["t0#0.0", "t1#0.0"], ["t2#1.0", "t3#1.0"]]
        # both orders are the same; with a deterministic engine the second waited for the slow one
    limited = generator(Watched(lambda r: [7, 1]), group_size=2, max_requests=4)
    submitted.clear()
    limited.start(numbered(TASKS), batch=0)
    finish(limited, 4)
    assert [len(ids) for ids in submitted] == [4, 4]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_task_drawn_twice_has_other_ids_and_seeds_on_every_rank(ranks: int) -> None:
    """Twelve draws from three tasks: ids and seeds are the same for any number of ranks, and all differ."""
    tasks = TASKS[:3]

    def requests(rank: int, ranks: int) -> list[tuple[str, int]]:
        draws = RankDraws(Uniform(tasks, seed=0), tasks, rank=rank, ranks=ranks)
        planned = []
        for draw in [*draws.draw_batch(9), *draws.draw_replacements(1)]:
            task_draw = TaskDraw(
                task=tasks[draw.task_index],
                task_index=draw.task_index,
                order=draw.order,
                occurrence=draw.occurrence,
            )
            group = plan_group(task_draw, [1], batch=4, size=2, sampling=LONG, seed=5)
            planned += [(attempt.id, attempt.seed) for attempt in group.attempts]
        return planned

    everything = [pair for rank in range(ranks) for pair in requests(rank, ranks)]
    assert len(set(everything)) == len(everything) == (9 + ranks) * 2
    assert len({seed for _, seed in everything}) == len(everything)
    alone = requests(0, 1)
    assert set(alone[:18]) <= set(everything)


def test_batches_come_in_the_order_asked_for() -> None:
    slow = {"t0#0.0": 50}
    engine = ScriptedEngine(lambda r: [7, 1], delay=slow, deterministic=False)
    collector = Collector(generator(engine, group_size=1), streaming=True)
    collector.start(0, numbered(TASKS[:2]))
    collector.start(1, numbered(TASKS[2:]))
    first, second = collector.wait(0), collector.wait(1)
    assert [group.task.id for group in first.groups] == ["t0", "t1"]
    assert [group.task.id for group in second.groups] == ["t2", "t3"]
