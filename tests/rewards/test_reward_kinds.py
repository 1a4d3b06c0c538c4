"""Rewards that are async, written for verifiers, or classes made once a worker; and parameters nobody asked for."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rlcore import RewardSpec, Task
from rlcore.errors import RewardError
from rlcore.scoring.load import load_reward
from rlcore.scoring.scorer import Scorer

TASK = Task(id="t", prompt="2+2=?", answer="4", columns={"level": 3, "info": {"hard": True}})


def score(spec: RewardSpec, rollouts, task: Task = TASK, times: int = 1, **settings):
    with Scorer([spec], workers=1, **settings) as scorer:
        return [scorer.score([(task, rollouts)])[0] for _ in range(times)]


ASYNC = """
    import asyncio, httpx, os, time
    from rlcore import reward

    client = httpx.AsyncClient()
    running = most = 0

    @reward
    async def asks(completion, answer, *, url):
        global running, most
        running += 1
        most = max(most, running)
        reply = await client.get(f"{url}/{completion}", timeout=60)
        running -= 1
        return most if completion == "most" else float(reply.text)

    @reward
    async def trouble(completion, answer):
        if completion == "late":
            await asyncio.sleep(100)
        if completion == "stubborn":
            while True:
                try:
                    await asyncio.sleep(100)
                except asyncio.CancelledError:
                    pass
        if completion == "block":
            while True:
                pass
        if completion == "exit":
            os._exit(1)
        if completion == "raise":
            raise SystemExit("no")
        if completion == "late by itself":
            raise TimeoutError("mine")
        return 1.0
"""


@pytest.fixture(scope="module")
def endpoint():
    """Answers `/N` with N, after a moment."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # connections stay open between calls

        def do_GET(self) -> None:
            time.sleep(0.2)
            said = self.path.strip("/").encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_async_calls_of_a_group_run_side_by_side_and_keep_their_client(plugin, rollout, endpoint):
    spec = RewardSpec(f"{plugin(ASYNC)}:asks", params={"url": endpoint})
    first, second = score(
        spec, [rollout(text) for text in ["1", "2", "3", "4", "5", "most"]], times=2
    )
    assert [verdict.value for verdict in first] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], (
        "six were under way at once"
    )
    assert [verdict.status for verdict in second] == ["ok"] * 6, (
        "the client of the first group serves the second"
    )


def test_an_async_call_is_cut_at_its_deadline_and_the_others_are_not(plugin, rollout):
    texts = ["4", "late", "raise", "late by itself", "4"]
    ((*verdicts,),) = score(
        RewardSpec(f"{plugin(ASYNC)}:trouble"), [rollout(text) for text in texts], deadline_s=0.4
    )
    assert [verdict.status for verdict in verdicts] == [
        "ok",
        "timed-out",
        "crashed",
        "crashed",
        "ok",
    ]
    assert verdicts[1].reason == "no reply within 0.4 s" and verdicts[2].reason.startswith(
        "SystemExit: no"
    )


@pytest.mark.parametrize(
    ("text", "status"), [("block", "timed-out"), ("stubborn", "timed-out"), ("exit", "crashed")]
)
def test_an_async_call_that_blocks_or_dies_costs_only_itself(
    text, status, plugin, rollout, monkeypatch
):
    monkeypatch.setattr("rlcore.scoring.scorer.GRACE_S", 0.1)
    texts = ["4", text, "4", "4"]
    ((*verdicts,),) = score(
        RewardSpec(f"{plugin(ASYNC)}:trouble"), [rollout(text) for text in texts], deadline_s=0.4
    )
    assert [verdict.status for verdict in verdicts] == ["ok", status, "ok", "ok"]


# Written as for verifiers: nothing here knows of rlcore.
VERIFIERS = """
    async def correct_answer(completion, answer) -> float:
        response = completion[-1]["content"]
        return 1.0 if answer in response else 0.0

    async def everything(prompt, completion, answer, state, **kwargs):
        assert prompt == state["prompt"] == [{"role": "user", "content": "2+2=?"}]
        assert completion == state["completion"] == [{"role": "assistant", "content": "it is 4"}]
        assert answer == state["answer"] == "4" and kwargs["info"] == {"hard": True} and kwargs["level"] == 3
        return 0.5

    def state_only(state, bonus=0.0):
        return len(state["completion"][-1]["content"]) + bonus

    def group_of_trl(prompts, completions, state=None, **kwargs):
        return [2.0] * len(completions)
"""


@pytest.mark.parametrize(
    ("function", "params", "expected"),
    [
        ("correct_answer", {}, [1.0, 0.0]),
        ("everything", {}, [0.5, None]),
        ("state_only", {"bonus": 0.5}, [7.5, 1.5]),
        ("group_of_trl", {}, [2.0, 2.0]),
    ],
)
def test_verifiers_functions_work_unchanged(function, params, expected, plugin, rollout):
    spec = RewardSpec(f"{plugin(VERIFIERS)}:{function}", params=params)
    ((*verdicts,),) = score(spec, [rollout("it is 4"), rollout("5")])
    assert [verdict.value for verdict in verdicts] == expected, verdicts
    chat = Task(
        id="t", prompt=[{"role": "user", "content": "2+2=?"}], answer="4", columns=TASK.columns
    )
    assert score(spec, [rollout("it is 4")], chat)[0][0].value == expected[0], (
        "chat prompts are given as they are"
    )


def test_a_metric_a_trl_function_logs_becomes_a_part(plugin, rollout):
    source = """
        def f(completions, log_metric, log_extra, **kwargs):
            log_extra("seen", completions)
            log_metric("share", 0.25)
            return [1.0] * len(completions)
    """
    ((verdict,),) = score(RewardSpec(f"{plugin(source)}:f"), [rollout("a")])
    assert verdict.parts == {"f": 1.0, "f/share": 0.25}


CLASSES = """
    import time
    from rlcore import reward

    class Slow:
        def __init__(self, *, size: int = 2):
            time.sleep(1.0)
            self.size, self.calls = size, 0

        def __call__(self, prompts, completions, **columns):
            self.calls += 1
            return [self.size * 100 + self.calls] * len(completions)

    @reward
    class Short:
        def __call__(self, completion, answer):
            return completion == answer

    @reward
    class Hungry:
        memory_gb = 2

        def __call__(self, completion, answer):
            return len(bytes(int(float(completion) * 2**30))) / 2**30

    class Broken:
        def __init__(self):
            raise ValueError("no weights")
"""


def test_a_class_is_made_once_and_outside_of_the_deadline(plugin, rollout):
    path = plugin(CLASSES)
    groups = score(
        RewardSpec(f"{path}:Slow", params={"size": 3}), [rollout("a")] * 2, times=2, deadline_s=0.5
    )
    assert [[verdict.value for verdict in group] for group in groups] == [[301.0] * 2, [302.0] * 2]
    assert [
        verdict.value
        for verdict in score(RewardSpec(f"{path}:Short"), [rollout("4"), rollout("5")])[0]
    ] == [1.0, 0.0]
    with pytest.raises(
        RewardError, match="cannot construct reward .*Broken': ValueError: no weights"
    ):
        load_reward(RewardSpec(f"{path}:Broken"))
    with pytest.raises(RewardError, match="no parameter 'sise'; did you mean 'size'"):
        load_reward(RewardSpec(f"{path}:Slow", params={"sise": 3}))


def test_what_a_class_must_be_given_is_said():
    with pytest.raises(RewardError, match="reward 'judge' needs a value for model"):
        load_reward(RewardSpec("judge"))


def test_a_reward_sets_its_own_memory_bound(plugin, rollout):
    spec = RewardSpec(f"{plugin(CLASSES)}:Hungry")
    ((more, most),) = score(spec, [rollout("1.5"), rollout("2.5")], memory_gb=1)
    assert more.value == 1.5 and most.reason.startswith("MemoryError")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"limt": 3}, "no parameter 'limt' and would take it for a column; did you mean 'limit'"),
        ({"limit": "three"}, "'limit' must be a valid integer, not 'three'"),
        ({"answer": 3}, "the engine itself passes 'answer'"),
        ({"other": 3, "limit": 3}, None),
        ({"limit": 3, "limits": 4}, None),
    ],
)
def test_a_misspelt_parameter_is_not_taken_for_a_column(params, message, plugin):
    source = """
        from __future__ import annotations
        from rlcore import reward

        @reward
        def f(completion, answer, limit: int = 2, **columns):
            return 1.0
    """
    spec = RewardSpec(f"{plugin(source)}:f", params=params)
    if message is None:
        load_reward(spec)
        return
    with pytest.raises(RewardError, match=message):
        load_reward(spec)


def test_a_file_alone_names_the_function_of_its_own_name(plugin, rollout):
    path = plugin("def my_own(completions): return [3.0] * len(completions)", name="my_own.py")
    ((verdict,),) = score(RewardSpec(path), [rollout("a")])
    assert verdict.parts == {"my_own": 3.0}
