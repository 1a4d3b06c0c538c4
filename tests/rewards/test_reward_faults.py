"""What a faulty reward may return, raise, print and leave running."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlcore import RewardSpec, Task
from rlcore.scoring.scorer import Scorer
from rlcore.workers.strays import MARK, kill_strays
from tests.rewards.test_scorer import _alive

TASK = Task(id="t", prompt="p", answer="a")

FAULTS = """
    import os, subprocess, sys, time
    from rlcore import Verdict, reward

    class Mute(Exception):
        def __str__(self):
            raise ValueError("not even this")

    class Odd:
        def __float__(self):
            raise Mute

    def batch(prompts, completions, **columns):
        return {"set": {1.0, 2.0}, "bytes": b"ab", "range": range(2), "keys": {1.0: 0, 2.0: 0}.keys(), "tuple": (1.0, 2.0)}[
            completions[0]]

    @reward
    def short(completion, answer):
        if completion == "mute": raise Mute
        if completion == "text": return Verdict(value=1.0, parts={"x": "no number"})
        if completion == "odd": return Verdict(value=1.0, parts={"x": Odd()})
        if completion == "nan": return Verdict(value=1.0, parts={"x": float("nan"), "y": float("inf"), "z": 2.0})
        if completion == "print":
            for _ in range(200): print("x" * 100_000)
        if completion == "escape": print("\\x1b[2Jcleared", flush=True)
        return 1.0

    @reward
    def daemon(completion, answer, *, note):
        code = f"import os, time; os.setsid(); open({note!r}, 'a').write(str(os.getpid()) + ' '); time.sleep(1000)"
        subprocess.Popen([sys.executable, "-c", code])
        subprocess.Popen(["setsid", sys.executable, "-c", code.replace("os.setsid(); ", "")])
        while open(note).read().count(" ") < 2: time.sleep(0.01)
        time.sleep(1000)
"""


@pytest.fixture
def verdicts_of(plugin, rollout):
    path = plugin(FAULTS)

    def score(name: str, *texts: str):
        group = [rollout(text) for text in texts]
        with Scorer([RewardSpec(f"{path}:{name}")], workers=1, deadline_s=20) as scorer:
            pid = scorer._workers[0].pid
            verdicts = scorer.score([(TASK, group)])[0]
            assert scorer._workers[0].pid == pid, "the worker was lost"
        return verdicts

    return score


@pytest.mark.parametrize("kind", ["set", "bytes", "range", "keys"])
def test_a_batch_result_without_an_order_of_its_own_is_refused(verdicts_of, kind: str) -> None:
    verdicts = verdicts_of("batch", kind, "other")
    assert verdicts[0].status == "crashed" and "must return a list" in verdicts[0].reason


def test_a_tuple_is_a_list_of_values(verdicts_of) -> None:
    assert [verdict.value for verdict in verdicts_of("batch", "tuple", "other")] == [1.0, 2.0]


@pytest.mark.parametrize("text", ["mute", "text", "odd"])
def test_what_cannot_be_said_is_a_crash_and_keeps_the_worker(verdicts_of, text: str) -> None:
    bad, good = verdicts_of("short", text, "fine")
    assert bad.status == "crashed" and bad.reason
    assert good.value == 1.0


def test_parts_that_are_not_finite_are_left_out(verdicts_of) -> None:
    path_parts = verdicts_of("short", "nan")[0]
    assert path_parts.value == 1.0
    shown = {name.rpartition("/")[2]: part for name, part in path_parts.parts.items()}
    assert shown.get("x") is None and shown.get("y") is None


def test_what_rewards_print_is_bounded_and_harmless(verdicts_of, capfd) -> None:
    verdicts_of("short", "escape", "print")
    until = time.monotonic() + 10
    said = ""
    while "the rest is dropped" not in said and time.monotonic() < until:
        time.sleep(0.1)
        said += capfd.readouterr().err
    assert "?[2Jcleared" in said and "\x1b" not in said
    assert "(a worker printed over 1 MB: the rest is dropped)" in said
    assert len(said) < 1_100_000


def test_daemons_of_a_reward_are_killed_with_it(plugin, rollout, tmp_path: Path) -> None:
    note = tmp_path / "pids"
    note.write_text("")
    spec = RewardSpec(f"{plugin(FAULTS)}:daemon", params={"note": str(note)})
    with Scorer([spec], workers=1, deadline_s=3) as scorer:
        assert scorer.score([(TASK, [rollout("x")])])[0][0].status == "timed-out"
        pids = list(map(int, note.read_text().split()))
        assert len(pids) == 2
        until = time.monotonic() + 5
        while any(map(_alive, pids)) and time.monotonic() < until:
            time.sleep(0.02)
        assert not any(map(_alive, pids))


def test_only_marked_processes_are_killed() -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(100)"]
    marked = subprocess.Popen(sleep, env={**os.environ, MARK: "mine-1"})
    other = subprocess.Popen(sleep, env={**os.environ, MARK: "mine-12"})
    try:
        time.sleep(0.3)
        assert kill_strays("mine-1") == 1
        assert marked.wait(5) == -9
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
