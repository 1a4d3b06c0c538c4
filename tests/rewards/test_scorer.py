"""The worker pool: what hangs, dies or raises costs only itself, and the pool goes on at full strength."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import Pipe

import pytest

from rlcore import RewardSpec, Task, Verdict
from rlcore.errors import RewardError
from rlcore.scoring.aggregate import aggregate
from rlcore.scoring.scorer import Scorer
from rlcore.scoring.worker import Worker, WorkerLost

TASK = Task(id="t", prompt="2+2=?", answer="4", columns={"level": 3})

TROUBLE = """
    import ctypes, os, subprocess, sys, time
    from rlcore import Verdict, reward

    def _trouble(text):
        if text == "hang":
            while True:
                pass
        if text == "sleep":
            time.sleep(1000)
        if text == "exit":
            os._exit(3)
        if text == "sys.exit":
            sys.exit(1)
        if text == "segfault":
            ctypes.string_at(0)
        if text == "memory":
            return float(len(bytearray(3 << 30)))
        if text == "raise":
            raise KeyError("no such thing")

    @reward
    def short(completion, answer):
        print("a plugin may print", flush=True)
        _trouble(completion)
        return completion == answer

    def batch(prompts, completions, answer, **columns):
        print("a plugin may print", flush=True)
        for text in completions:
            _trouble(text)
        return [float(text == right) for text, right in zip(completions, answer)]

    @reward
    def orphans(completion, answer, *, note):
        child = subprocess.Popen(["sleep", "1000"])
        open(note, "w").write(f"{os.getpid()} {child.pid}")
        time.sleep(1000)

    @reward
    def pid(completion, answer):
        time.sleep(0.05)
        return os.getpid()
"""


def _statuses(verdicts: list[Verdict]) -> list[str]:
    return [verdict.status for verdict in verdicts]


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("form", ["short", "batch"])
def test_each_failure_costs_only_its_own_answer(form, plugin, rollout):
    texts = ["4", "hang", "5", "exit", "segfault", "memory", "raise", "sys.exit", "4"]
    with Scorer(
        [RewardSpec(f"{plugin(TROUBLE)}:{form}")], workers=1, deadline_s=0.5, memory_gb=1
    ) as scorer:
        verdicts, after = scorer.score(
            [(TASK, [rollout(text) for text in texts]), (TASK, [rollout("4")])]
        )
    assert _statuses(verdicts) == ["ok", "timed-out", "ok"] + ["crashed"] * 5 + ["ok"]
    assert [verdict.value for verdict in verdicts if verdict.status == "ok"] == [1.0, 0.0, 1.0]
    assert [verdict.value for verdict in after] == [1.0], "the pool must go on"
    assert all(verdict.value is None for verdict in verdicts if verdict.status != "ok"), (
        "a failure is never a 0"
    )
    reasons = dict(zip(texts, [verdict.reason for verdict in verdicts], strict=True))
    assert (
        "0.5 s" in reasons["hang"]
        and "SIGSEGV" in reasons["segfault"]
        and "exit code 3" in reasons["exit"]
    )
    assert reasons["raise"].startswith("KeyError: 'no such thing' (my_rewards.py:")
    assert reasons["memory"].startswith("MemoryError") and reasons["sys.exit"].startswith(
        "SystemExit"
    )


def test_pool_is_at_full_strength_after_kills(plugin, rollout):
    path = plugin(TROUBLE)
    with Scorer(
        [RewardSpec(f"{path}:pid"), RewardSpec(f"{path}:short")], workers=2, deadline_s=0.5
    ) as scorer:
        scorer.score([(TASK, [rollout("sleep")])] * 4)
        groups = scorer.score([(TASK, [rollout(str(n))]) for n in range(20)])
        pids = {verdict.parts["pid"] for verdicts in groups for verdict in verdicts}
        assert len(pids) == 2, "both workers must be serving again"
    assert not any(_alive(int(pid)) for pid in pids), "close leaves no process behind"


def test_children_of_a_killed_reward_are_killed(plugin, rollout, tmp_path):
    note = tmp_path / "pids"
    with Scorer(
        [RewardSpec(f"{plugin(TROUBLE)}:orphans", params={"note": str(note)})],
        workers=1,
        deadline_s=0.5,
    ) as scorer:
        assert _statuses(scorer.score([(TASK, [rollout("x")])])[0]) == ["timed-out"]
        time.sleep(0.2)
        assert not any(_alive(int(pid)) for pid in note.read_text().split())


@pytest.mark.parametrize("form", ["short", "batch"])
def test_reward_that_always_hangs_does_not_cost_a_deadline_per_answer(form, plugin, rollout):
    with Scorer([RewardSpec(f"{plugin(TROUBLE)}:{form}")], workers=1, deadline_s=0.3) as scorer:
        started = time.monotonic()
        verdicts = scorer.score([(TASK, [rollout("sleep")] * 64)])[0]
    assert _statuses(verdicts) == ["timed-out"] * 64
    assert time.monotonic() - started < 15.0  # 64 deadlines would be 19
    assert verdicts[-1].reason.startswith("given up")


def test_submit_and_poll_while_the_caller_works(plugin, rollout):
    with Scorer([RewardSpec(f"{plugin(TROUBLE)}:short")], deadline_s=1.0) as scorer:
        assert scorer.poll(5.0) == [], "nothing under way: no wait"
        scorer.submit("slow", TASK, [rollout("sleep")])
        scorer.submit("fast", TASK, [rollout("4"), rollout("5")])
        with pytest.raises(ValueError, match="'fast'"):
            scorer.submit("fast", TASK, [])
        key, verdicts = scorer.poll(5.0)[0]
        assert key == "fast" and [verdict.value for verdict in verdicts] == [1.0, 0.0]
        assert [key for key, _ in scorer.poll(5.0)] == ["slow"]
        scorer.submit("other", TASK, [rollout("5")])
        time.sleep(0.5)  # it is done now, and `score` meets it among its own
        assert scorer.score([(TASK, [rollout("4")])])[0][0].value == 1.0
        assert [(key, verdicts[0].value) for key, verdicts in scorer.poll(5.0)] == [
            ("other", 0.0)
        ], "score must not swallow it"


def test_aborted_rollouts_never_reach_a_reward(plugin, rollout):
    with Scorer([RewardSpec(f"{plugin(TROUBLE)}:short")], workers=1) as scorer:
        mixed, cut = scorer.score(
            [
                (TASK, [rollout("exit", finish="aborted"), rollout("4")]),
                (TASK, [rollout("4", finish="aborted")]),
            ]
        )
    assert _statuses(mixed + cut) == ["unscorable", "ok", "unscorable"]
    assert mixed[0].reason == cut[0].reason == "cut at the rollout deadline"


def test_workers_start_fast_and_without_torch(plugin, rollout):
    path = plugin("""
        import sys
        from rlcore import reward

        @reward
        def torch_is_loaded(completion, answer):
            return "torch" in sys.modules
    """)
    started = time.monotonic()
    with Scorer([RewardSpec(f"{path}:torch_is_loaded")]) as scorer:
        assert scorer.score([(TASK, [rollout("x")])])[0][0].value == 0.0
    assert time.monotonic() - started < 3.0


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "import no_such_module_anywhere\ndef f(prompts, completions): return []",
            "ModuleNotFoundError",
        ),
        ("def f(prompts, completions) return []", "SyntaxError"),
        ("def g(prompts, completions): return []", "has no 'f'"),
        ("import os; os._exit(5)", "exit code 5"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_an_error_at_once(source, message, plugin):
    with pytest.raises(RewardError, match=message):
        Scorer([RewardSpec(f"{plugin(source)}:f")])


def test_an_import_that_hangs_is_killed(plugin, monkeypatch):
    monkeypatch.setattr("rlcore.scoring.worker.LOAD_DEADLINE_S", 0.5)
    with pytest.raises(RewardError, match="no reply within 0.5 s while importing"):
        Scorer([RewardSpec(f"{plugin('while True: pass')}:f")])


def test_a_reward_that_cannot_be_loaded_again_crashes_its_answers(plugin, rollout):
    path = plugin(TROUBLE)
    with Scorer([RewardSpec(f"{path}:short")], workers=1) as scorer:
        os.remove(path)
        verdicts = scorer.score([(TASK, [rollout(text) for text in ("4", "exit", "4")])])[0]
    assert _statuses(verdicts) == ["crashed"] * 3 and "no reward file" in verdicts[2].reason


FORKS = """
    import os
    from rlcore import reward

    @reward
    def forks(completion, answer):
        if completion == "fork" and os.fork() == 0:
            return -1.0     # the mistake: the child process comes back
        return float(completion) if completion != "fork" else 0.5

    class Columns:
        def __call__(self, completion, answer, odd):
            return 1.0
"""


def test_a_forked_process_that_returns_never_shifts_verdicts(plugin, rollout):
    """Each later completion gets its own verdict or none, never that of an earlier one."""
    texts = ["1", "fork", "2", "3", "fork", "4", "5"]
    with Scorer([RewardSpec(f"{plugin(FORKS)}:forks")], workers=1, deadline_s=5.0) as scorer:
        groups = scorer.score([(TASK, [rollout(text) for text in texts])] * 3)
    crashed = 0
    for verdicts in groups:
        for text, verdict in zip(texts, verdicts, strict=True):
            crashed += verdict.status == "crashed"
            assert verdict.value in (None, 0.5 if text == "fork" else float(text)), (text, verdict)
    assert 1 <= crashed <= 12
    reasons = {verdict.reason for verdicts in groups for verdict in verdicts if verdict.reason}
    assert any("forked" in reason for reason in reasons), reasons


def test_a_worker_that_does_not_go_away_does_not_end_the_run(plugin, rollout, monkeypatch):
    with Scorer([RewardSpec(f"{plugin(TROUBLE)}:short")], workers=1, deadline_s=0.5) as scorer:
        stuck = lambda self, timeout=None: (_ for _ in ()).throw(  # noqa: E731
            subprocess.TimeoutExpired("worker", timeout)
        )
        monkeypatch.setattr(subprocess.Popen, "wait", stuck)
        verdicts = scorer.score([(TASK, [rollout(text) for text in ("sleep", "exit", "4")])])[0]
        monkeypatch.undo()
    assert _statuses(verdicts) == ["timed-out", "crashed", "ok"]


class Unreadable:
    """Pickles, and does not unpickle."""

    def __reduce__(self):
        return (_refuse, ())


def _refuse():
    raise LookupError("nobody can read this")


def test_messages_that_do_not_unpickle_crash_their_completions(plugin, rollout):
    odd = Task(id="t", prompt="p", answer="4", columns={"odd": Unreadable()})
    path = plugin(FORKS)
    for function in ("forks", "Columns"):
        with Scorer([RewardSpec(f"{path}:{function}")], workers=1) as scorer:
            unread, after = scorer.score([(odd, [rollout("1"), rollout("2")]), (TASK, [])])
        assert _statuses(unread) == ["crashed"] * 2 and after == []
        assert "cannot be read" in unread[0].reason


def test_replies_that_do_not_unpickle_lose_the_worker(plugin):
    worker = Worker([RewardSpec(f"{plugin(TROUBLE)}:short")], deadline_s=5.0, memory_gb=None)
    try:
        worker.ready()
        for message in (pickle.dumps(Unreadable()), b"no pickle", pickle.dumps((1, -1, 0)), b""):
            ours, theirs = Pipe()
            worker._pipe, kept = ours, worker._pipe
            theirs.send_bytes(message)
            with pytest.raises(WorkerLost) as lost:
                worker.receive()
            worker._pipe = kept
            assert lost.value.status == "crashed"
    finally:
        worker.close()


def test_progress_is_what_bounds_the_wait(plugin, rollout, monkeypatch):
    """Calls that finish may take any time in total; workers that stop are named with the key."""
    monkeypatch.setattr("rlcore.scoring.scorer.PROGRESS_GRACE_S", 0.5)
    monkeypatch.setattr("rlcore.scoring.scorer.GRACE_S", 0.0)
    monkeypatch.setattr("rlcore.scoring.scorer.LOAD_DEADLINE_S", 0.0)
    path = plugin(TROUBLE)
    with Scorer([RewardSpec(f"{path}:short")], workers=1, deadline_s=0.5) as scorer:
        assert scorer.waiting_s == 0.0
        scorer.check_progress()
        scorer._deadline_s = -0.4  # so that more than 0.1 s without progress is an error
        started = time.monotonic()
        pid = [RewardSpec(f"{path}:pid")]
        with Scorer(pid, workers=1, deadline_s=0.1) as slow:
            assert len(slow.score([(TASK, [rollout("x")] * 20)])[0]) == 20
        assert time.monotonic() - started > 0.6 + 0.1, "longer than the limit in total"
        scorer.submit("stuck", TASK, [rollout("sleep")])
        time.sleep(0.3)
        with pytest.raises(RewardError, match="reward_deadline_s.*1 open groups"):
            scorer.check_progress()


def test_names_must_differ():
    with pytest.raises(RewardError, match="two rewards are called 'exact'"):
        Scorer([RewardSpec("rewards.text:exact"), RewardSpec("rewards.text:exact", weight=0.1)])
    with pytest.raises(RewardError, match="at least one"):
        Scorer([])


# Aggregation

TWO = [
    RewardSpec("a:right", weight=2.0),
    RewardSpec("a:short", weight=-0.5),
    RewardSpec("a:logged", weight=0.0),
]


def test_the_aggregate_sums_by_weight_and_keeps_raw_parts():
    verdict = aggregate(TWO, [Verdict(value=1.0), Verdict(value=0.5), Verdict(value=7.0)])
    assert verdict.value == 1.75 and verdict.parts == {"right": 1.0, "short": 0.5, "logged": 7.0}
    assert verdict.value != 1.0 + 0.5 + 7.0  # planted mistake: unweighted


def test_the_aggregate_takes_the_first_failure_and_keeps_the_other_parts():
    crash, late = (
        Verdict(value=None, status="crashed", reason="boom"),
        Verdict(value=None, status="timed-out"),
    )
    verdict = aggregate(TWO, [Verdict(value=1.0), crash, late])
    assert (verdict.value, verdict.status, verdict.reason) == (None, "crashed", "boom")
    assert verdict.parts == {"right": 1.0, "short": None, "logged": None}
    assert aggregate(TWO, [late, crash, Verdict(value=1.0)]).status == "timed-out"


def test_a_failure_without_weight_is_only_logged():
    verdict = aggregate(
        TWO, [Verdict(value=1.0), Verdict(value=0.0), Verdict(value=None, status="crashed")]
    )
    assert verdict.value == 2.0 and verdict.status == "ok" and verdict.parts["logged"] is None


def test_an_optional_reward_that_gives_none_is_left_out_and_one_that_fails_is_not():
    two = [RewardSpec("a:math", optional=True), RewardSpec("a:code", weight=2.0, optional=True)]
    none, crash = (
        Verdict(value=None, status="unscorable", reason="gave None"),
        Verdict(value=None, status="crashed"),
    )
    assert (
        aggregate(two, [none, Verdict(value=0.5)]).value == 1.0
        and aggregate(two, [Verdict(value=0.5), none]).value == 0.5
    )
    assert (aggregate(two, [none, none]).value, aggregate(two, [none, none]).reason) == (
        None,
        "gave None",
    )
    assert aggregate(two, [crash, Verdict(value=0.5)]).status == "crashed"
    assert aggregate([RewardSpec("a:math"), two[1]], [none, Verdict(value=0.5)]).value is None, (
        "not declared optional"
    )


def test_wrong_format_survives_aggregation_unless_something_failed():
    wrong = Verdict(value=0.0, status="wrong-format", reason="no marker")
    assert aggregate(TWO, [wrong, Verdict(value=1.0), Verdict(value=1.0)]).status == "wrong-format"
    assert (
        aggregate(TWO, [wrong, Verdict(value=None, status="unscorable"), Verdict(value=1.0)]).status
        == "unscorable"
    )


def test_workers_die_with_a_parent_that_was_killed(plugin, tmp_path):
    note = tmp_path / "pids"
    path = plugin(TROUBLE)
    program = f"""
import time
from rlcore import RewardSpec, Rollout, Task
from rlcore.scoring.scorer import Scorer
scorer = Scorer([RewardSpec({path + ":orphans"!r}, params={{"note": {str(note)!r}}})], workers=1, deadline_s=600)
answer = Rollout.from_tokens(id="r", task_id="t", token_ids=[1, 2], mask=[False, True], logprobs=[0.0, 0.0], text="x", finish="stop",
                 version=0)
scorer.submit("k", Task(id="t", prompt="p"), [answer])
time.sleep(600)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    try:
        assert _soon(lambda: note.exists() and len(note.read_text().split()) == 2)
        pids = [int(pid) for pid in note.read_text().split()]
        assert all(map(_alive, pids))
    finally:
        parent.kill()
        parent.wait()
    assert _soon(lambda: not any(map(_alive, pids))), (
        "an orphaned worker or its child is still running"
    )


def _soon(happened: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not happened():
        time.sleep(0.05)
    return happened()
