"""Faults of environments, and of their workers: who pays for them, and who must not."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlcore import Task
from rlcore.env import Observation
from rlcore.env.child import Setup
from rlcore.env.forms import EnvironmentSpec
from rlcore.env.pool import EnvironmentPool, Failed
from rlcore.env.worker import EnvironmentWorker, WorkerLost, _Turns
from rlcore.errors import EnvError

FAULTY = Path(__file__).parent / "faulty.py"
DEADLINE_S = 1.5


def spec(name: str = "Counter") -> EnvironmentSpec:
    return EnvironmentSpec(f"{FAULTY}:{name}")


def task(**columns: object) -> Task:
    return Task(id="t", prompt="Count.", columns=columns)


def told(number: int) -> dict[str, object]:
    return {"role": "assistant", "content": str(number)}


def answers(pool: EnvironmentPool, *keys: str, limit_s: float = 30.0) -> list[Observation | Failed]:
    """What each of these episodes was answered."""
    all_answers: dict[str, Observation | Failed] = {}
    end = time.monotonic() + limit_s
    while set(keys) - set(all_answers):
        assert time.monotonic() < end, f"no answer of {set(keys) - set(all_answers)}"
        all_answers.update(pool.poll(0.5))
    return [all_answers[key] for key in keys]


def finish(pool: EnvironmentPool, key: str) -> Observation | Failed:
    """The last answer of an episode that is told 1 until it ends."""
    for _ in range(4):
        pool.step(key, told(1))
        (answer,) = answers(pool, key)
        if isinstance(answer, Failed) or answer.done:
            return answer
    raise AssertionError("it did not end")


@pytest.fixture(scope="module")
def pools() -> Iterator[Callable[[str], EnvironmentPool]]:
    kept: dict[str, EnvironmentPool] = {}

    def pool_of(name: str) -> EnvironmentPool:
        if name not in kept:
            kept[name] = EnvironmentPool(spec(name), workers=1, deadline_s=DEADLINE_S)
        return kept[name]

    yield pool_of
    for pool in kept.values():
        pool.close()


@pytest.fixture
def pool(pools: Callable[[str], EnvironmentPool]) -> EnvironmentPool:
    """One worker, whose episodes are called one after the other."""
    return pools("Counter")


@pytest.fixture
def side_by_side(pools: Callable[[str], EnvironmentPool]) -> EnvironmentPool:
    """One worker of an async environment."""
    return pools("Waiting")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("number", "replied with a int"),
        ("messages", "replied with a list"),
        ("nan", "the reward of a turn is nan"),
        ("text reward", "the reward of a turn is 'high'; it must be a finite number"),
        ("nan metric", "the metric 'm' of a turn is inf"),
        ("no JSON", "not JSON serializable"),
        ("restart", "restarts without the messages"),
        ("many", "an observation of 9"),
        ("raise", "KeyError: 'x'"),
        ("sys.exit", "SystemExit: 1"),
        ("interrupt", "KeyboardInterrupt"),
        ("memory", "MemoryError"),
    ],
)
def test_a_fault_that_python_sees_costs_its_episode_only(
    pool: EnvironmentPool, fault: str, reason: str
) -> None:
    pids = pool.pids
    pool.reset("good", task(), 0)
    pool.reset("bad", task(fault=fault), 0)
    answers(pool, "good", "bad")
    failed = finish(pool, "bad")
    assert isinstance(failed, Failed) and failed.status == "crashed" and reason in failed.reason
    assert finish(pool, "good") == Observation([], reward=4.0, done=True)
    assert pool.pids == pids


@pytest.mark.parametrize("fault", ["exit", "segfault", "kill", "close", "daemon", "frames"])
def test_a_fault_that_ends_the_process_costs_its_episode_only(
    pool: EnvironmentPool, fault: str
) -> None:
    pool.reset("good", task(), 0)
    pool.reset("bad", task(fault=fault), 0)
    answers(pool, "good", "bad")
    pool.step("good", told(1))
    assert answers(pool, "good") == [Observation("1")]
    pids = pool.pids
    failed = finish(pool, "bad")
    assert isinstance(failed, Failed) and failed.status == "crashed"
    pool.step("good", told(1))
    assert answers(pool, "good") == [Observation("2")]
    assert pool.pids != pids
    pool.forget("good")


def test_a_late_turn_is_tried_once(pool: EnvironmentPool, tmp_path: Path) -> None:
    """It cannot be another's fault, so a second deadline would be wasted."""
    log = tmp_path / "log"
    pool.reset("late", task(fault="hang", log=str(log)), 0)
    answers(pool, "late")
    assert finish(pool, "late") == Failed("timed-out", "no reply within 1.5 s")
    assert log.read_text().split() == ["reset", "hang"]


def test_a_worker_that_was_killed_from_outside_costs_nothing(pool: EnvironmentPool) -> None:
    pool.reset("a", task(), 0)
    answers(pool, "a")
    pool.step("a", told(1))
    os.kill(pool.pids[0] or 0, signal.SIGKILL)
    assert answers(pool, "a") == [Observation("1")]
    os.kill(pool.pids[0] or 0, signal.SIGKILL)
    pool.step("a", told(1))
    assert answers(pool, "a") == [Observation("2")]
    pool.forget("a")


def test_a_process_that_the_environment_forked_says_and_reads_nothing(pool: EnvironmentPool) -> None:
    pool.reset("good", task(), 0)
    pool.reset("forks", task(fault="fork"), 0)
    answers(pool, "good", "forks")
    pids = pool.pids
    for _ in range(3):
        pool.step("forks", told(1))
        (reply,) = answers(pool, "forks")
        assert isinstance(reply, Observation)
    pool.forget("forks")
    for total in ("1", "2", "3"):
        pool.step("good", told(1))
        assert answers(pool, "good") == [Observation(total)]
    pool.forget("good")
    assert pool.pids == pids


def test_what_no_tokenizer_takes_is_replaced(pool: EnvironmentPool) -> None:
    pool.reset("a", task(fault="surrogate"), 0)
    answers(pool, "a")
    pool.step("a", told(1))
    assert answers(pool, "a") == [Observation("half ? of a pair")]
    pool.forget("a")


def test_a_long_reply_is_cut(pool: EnvironmentPool) -> None:
    pool.reset("a", task(fault="huge"), 0)
    answers(pool, "a")
    pool.step("a", told(1))
    (reply,) = answers(pool, "a")
    assert isinstance(reply.reply, str) and len(reply.reply) < 20_100 and "cut" in reply.reply
    pool.forget("a")


def test_an_episode_that_is_forgotten_while_it_waits_leaves_nothing_in_the_worker(
    pool: EnvironmentPool, tmp_path: Path
) -> None:
    """Its call was made after its end was told, and nobody ended it any more."""
    log = tmp_path / "log"
    pool.reset("busy", task(fault="hang"), 0)
    answers(pool, "busy")
    pool.step("busy", told(1))
    pool.reset("gone", task(log=str(log)), 0)
    time.sleep(0.1)
    pool.forget("gone")
    answers(pool, "busy")
    pool.reset("after", task(), 0)
    answers(pool, "after")
    pool.forget("after")
    lines = log.read_text().split() if log.exists() else []
    assert lines.count("reset") == lines.count("close")


def test_what_a_forgotten_episode_says_is_not_its_successors(pool: EnvironmentPool) -> None:
    pool.reset("a", task(), 0)
    answers(pool, "a")
    pool.step("a", told(5))
    time.sleep(0.3)  # its reply waits to be polled
    pool.forget("a")
    pool.reset("a", task(), 0)
    assert answers(pool, "a") == [Observation("go")]
    pool.forget("a")


def test_a_reply_that_comes_with_its_deadline_counts() -> None:
    """The pool's own loop may be held up: what arrived meanwhile is not late."""
    with EnvironmentPool(spec("slow"), workers=1, deadline_s=0.6) as pool:
        pool.reset("a", task(), 0)
        answers(pool, "a")
        pool.step("a", told(1))
        time.sleep(0.05)
        pool._loop.call_soon_threadsafe(time.sleep, 0.9)
        assert answers(pool, "a") == [Observation([], reward=1.0, done=True)]


def test_a_blocked_worker_costs_the_one_that_blocks_it(side_by_side: EnvironmentPool) -> None:
    """All are late at the same moment; each is tried again alone."""
    keys = [f"good {number}" for number in range(4)]
    for key in keys:
        side_by_side.reset(key, task(), 0)
    side_by_side.reset("bad", task(fault="hang"), 0)
    answers(side_by_side, *keys, "bad")
    side_by_side.step("bad", told(1))
    for key in keys:
        side_by_side.step(key, told(1))
    *good, bad = answers(side_by_side, *keys, "bad")
    assert good == [Observation("1")] * 4
    assert bad == Failed("timed-out", "no reply within 1.5 s")
    for key in keys:
        side_by_side.forget(key)


def test_a_late_turn_of_an_async_environment_costs_no_process(side_by_side: EnvironmentPool) -> None:
    side_by_side.reset("bad", task(fault="waits"), 0)
    answers(side_by_side, "bad")
    pids = side_by_side.pids
    assert finish(side_by_side, "bad") == Failed("timed-out", "no reply within 1.5 s")
    assert side_by_side.pids == pids


def test_an_episode_that_is_forgotten_in_its_turn_is_stopped(
    side_by_side: EnvironmentPool, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    side_by_side.reset("gone", task(fault="waits", log=str(log)), 0)
    answers(side_by_side, "gone")
    side_by_side.step("gone", told(1))
    time.sleep(0.1)
    began = time.monotonic()
    side_by_side.forget("gone")
    while "close" not in log.read_text():
        time.sleep(0.01)
    (worker,) = side_by_side._workers
    while worker._turns._running:
        time.sleep(0.01)
    assert time.monotonic() - began < 0.5 * DEADLINE_S


def test_an_environment_that_cannot_be_rebuilt_says_so(pools: Callable[..., EnvironmentPool]) -> None:
    pool = pools("Random")
    pool.reset("a", task(), 0)
    pool.reset("bad", task(fault="exit"), 0)
    answers(pool, "a", "bad")
    pool.step("bad", told(1))
    pool.step("a", told(1))
    bad, a = answers(pool, "bad", "a")
    assert isinstance(bad, Failed) and isinstance(a, Failed)
    assert "replies differently to the same completions" in a.reason


def test_what_cannot_be_started_gets_a_sentence() -> None:
    with pytest.raises(EnvError, match=r"LookupError: no such server \(faulty.py:"):
        EnvironmentPool(spec("Broken"), workers=1)
    with pytest.raises(EnvError, match="did not start: .*No such file.*'/no/python'"):
        EnvironmentPool(spec(), workers=2, python="/no/python")


def test_a_call_of_a_process_that_was_replaced_is_not_made() -> None:
    async def replaced() -> None:
        setup = Setup(spec(), None, 1000, DEADLINE_S)
        worker = EnvironmentWorker(setup, deadline_s=DEADLINE_S, python=None)
        await worker.start()
        try:
            await worker.ready()
            with pytest.raises(WorkerLost) as lost:
                await worker.call("close", "a", None, worker.generation - 1)
            assert not lost.value.alone
        finally:
            await worker.close()

    asyncio.run(replaced())


def test_who_must_be_alone_is_not_overtaken_for_ever() -> None:
    async def turns() -> list[str]:
        both = _Turns()
        both.concurrent = True
        order: list[str] = []

        async def one(name: str, *, exclusive: bool) -> None:
            async with both.one(exclusive=exclusive):
                order.append(name)
                await asyncio.sleep(0.01)

        async def chain(name: str) -> None:
            for number in range(5):
                await one(f"{name}{number}", exclusive=False)

        chains = [asyncio.create_task(chain(name)) for name in "ab"]
        await asyncio.sleep(0.005)
        await chains[0].get_loop().create_task(asyncio.sleep(0.006))
        alone = asyncio.create_task(one("alone", exclusive=True))
        await asyncio.gather(*chains, alone)
        return order

    assert asyncio.run(turns()).index("alone") < 6


@pytest.mark.parametrize("memory_gb", [0.001, 0.05])
def test_memory_that_holds_no_worker_is_named(memory_gb: float) -> None:
    with pytest.raises(EnvError, match=f"env.memory_gb is {memory_gb}, which does not even hold a worker"):
        EnvironmentPool(spec(), workers=1, memory_gb=memory_gb)
