"""Values of turns: rollouts are continued from the end of a turn, in environments that are brought there by replay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlcore.env.base import Observation
from rlcore.env.forms import EnvironmentSpec
from rlcore.env.pool import EnvironmentPool, Failed
from rlcore.rollout.attempt import Attempt
from rlcore.rollout.conversation import Conversation
from rlcore.rollout.episodes import Episodes
from rlcore.rollout.open_group import TaskDraw, plan_continuations, plan_group
from rlcore.rollout.prompt import PromptEncoder
from rlcore.rollout.talk import Talk
from rlcore.tokenizer import byte_tokenizer
from rlcore.types import Episode, Prefix, Rollout, Sampling, Task, Turn
from tests.env.pools import FakePool
from tests.env.test_multi_turn_runs import rl, rollouts, write_recipe
from tests.env.test_turn_credit import rollout_of
from tests.run.whole import finish, start

GUESSING = Path(__file__).with_name("guessing.py")
TASK = Task(id="t", prompt="?", answer=5)


def said(text: str) -> dict:
    return {"role": "assistant", "content": text}


def ask(pool: EnvironmentPool, key: str):  # type: ignore[no-untyped-def]
    (answer,) = pool.poll(60.0)
    assert answer[0] == key
    return answer[1]


def test_an_environment_is_brought_where_the_rollout_was() -> None:
    with EnvironmentPool(EnvironmentSpec(f"{GUESSING}:guess"), workers=1) as pool:
        pool.reset("whole", TASK, 7)
        ask(pool, "whole")
        replies = []
        for text in ("1", "9"):
            pool.step("whole", said(text))
            replies.append(ask(pool, "whole"))
        pool.reset("continued", TASK, 7, [said("1"), said("9")])
        assert ask(pool, "continued") == replies[-1]
        pool.step("continued", said("5"))
        last = ask(pool, "continued")
        assert last.done and last.reward == 1.0
        pool.reset("over", TASK, 7, [said("5"), said("1")])
        over = ask(pool, "over")
        assert isinstance(over, Failed) and "earlier" in over.reason


def conversation() -> Rollout:
    rollout = rollout_of("r", [0.1, 0.2, 0.3], ["a", "b", "c"])
    messages = [{"role": "user", "content": "?"}]
    for number in range(3):
        messages += [said(str(number)), {"role": "user", "content": f"reply {number}"}]
    episode = Episode(
        messages=messages[:-1],
        prompt_messages=1,
        rewards=[0.1, 0.2, 0.3],
        states=["a", "b", "c"],
        ending="done",
        seed=11,
    )
    return Rollout(id="r", task_id="t", turns=rollout.turns, text="2", episode=episode)


def test_a_continuation_begins_as_the_rollout_stood() -> None:
    rollout = conversation()
    prefix = Prefix(task=TASK, rollout=rollout, length=4, n=2, max_tokens=8)
    group = plan_continuations(
        prefix, batch=0, sampling=Sampling(max_tokens=8), seed=3, max_length=64
    )
    assert group.environment_seed == 11
    assert [attempt.id for attempt in group.attempts] == ["r@4~0", "r@4~1"]
    for attempt in group.attempts:
        assert attempt.turns == list(rollout.turns[:4])
        assert [*attempt.prompt_ids, *attempt.token_ids] == rollout.token_ids[:7]
        talk = attempt.talk
        assert talk is not None and talk.is_waiting and not attempt.is_over
        assert (talk.rewards, talk.states) == ([0.1], ["a", "b"])
        assert [message["content"] for message in talk.said] == ["0", "1"]
    assert len({attempt.seed for attempt in group.attempts}) == 2
    with pytest.raises(ValueError, match="no turn"):
        group.attempts[0].take_turns(rollout, 3)


def test_the_start_is_continued_by_new_episodes() -> None:
    prefix = Prefix(task=TASK, rollout=conversation(), length=0, n=1, max_tokens=8)
    (attempt,) = plan_continuations(
        prefix, batch=0, sampling=Sampling(max_tokens=8), seed=3, max_length=64
    ).attempts
    assert attempt.talk is None and attempt.turns == []


def test_rollouts_of_an_attempt_that_goes_on_keep_the_tokens_of_before() -> None:
    attempt = Attempt(id="x", seed=0, prompt_ids=[], sampling=Sampling(max_tokens=8))
    rollout = conversation()
    attempt.take_turns(rollout, 2)
    attempt.talk = Talk.until(rollout.episode, 1)
    attempt.go_on([3], restart=False, room=8)
    attempt.token_ids, attempt.logprobs, attempt.versions = [77], [-1.0], [5]
    attempt.finish = "stop"
    continued = attempt.rollout("t", lambda prompt, completion: "77")
    assert continued.turns[:2] == rollout.turns[:2]
    assert continued.turns[2] == Turn(role="observation", token_ids=[3])
    assert continued.versions == [None, None, 0, 0, None, 5]


def test_a_run_values_its_turns(tmp_path: Path) -> None:
    """Each value is a mean of whole rewards of continuations, and A_i = Q_i - Q_(i-1) is on the tokens of turn i."""
    recipe = write_recipe(tmp_path)
    finish(
        start(
            "train",
            recipe,
            "stages.rl.steps=2",
            "stages.rl.credit={turns: null, steps: {split: turn, scheme: vine, rollouts: 2, completions: all}}",
        )
    )
    rows = [row for row in rollouts(recipe) if row.get("steps")]
    several = [row for row in rows if len(row["steps"]["spans"]) > 1]
    assert several and rl(recipe)[0]["credit/prefixes"] > 0
    for row in several:
        values = row["steps"]["values"]
        assert values[-1] == pytest.approx(row["value"])
        lengths = [end - begin for begin, end in row["steps"]["spans"]]
        assert sum(lengths) == sum(row["mask"])
    trained = [row for row in several if row.get("advantages") and None not in row["steps"]["values"]]
    assert trained
    for row in trained:
        values, lengths = row["steps"]["values"], [e - b for b, e in row["steps"]["spans"]]
        expected = [
            after - before
            for before, after, n in zip(values, values[1:], lengths, strict=False)
            for _ in range(n)
        ]
        got = [value for value, n in row["advantages"] for _ in range(n)]
        assert got == pytest.approx(expected), json.dumps(row["steps"])


class Silent(FakePool):
    """Replies with nothing, and the episode goes on."""

    def answer(self, key: str, number: int, message: dict) -> Observation:
        return Observation()


def test_an_environment_that_says_nothing_adds_nothing() -> None:
    encoder = PromptEncoder(byte_tokenizer(max_length=64))
    conversation = Conversation(encoder)
    episodes = Episodes(Silent(), conversation, max_turns=4, max_tokens=8, max_length=64)
    draw = TaskDraw(task=TASK)
    sampling = Sampling(max_tokens=8)
    group = plan_group(draw, [], batch=0, size=1, sampling=sampling, seed=0)
    (attempt,) = group.attempts
    group.started = 1
    episodes.begin(attempt, group)
    assert [one for _, one in episodes.poll(0.0)] == [attempt]
    attempt.token_ids, attempt.logprobs, attempt.versions = [65], [-1.0], [0]
    attempt.finish = "stop"
    episodes.completed(attempt, group)
    assert [one for _, one in episodes.poll(0.0)] == [attempt]
    assert attempt.prompt_ids == [*encoder.encode(TASK), 65] and not attempt.is_over
