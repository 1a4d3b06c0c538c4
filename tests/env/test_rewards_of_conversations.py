"""What rewards see of a conversation, and what the reward `environment` gives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rlcore.env.base import task_arguments
from rlcore.errors import RecipeError, TaskError
from rlcore.recipe.load import load
from rlcore.rollout.demonstration import encode_demonstration
from rlcore.rollout.prompt import PromptEncoder
from rlcore.scoring.forms import RewardSpec
from rlcore.scoring.scorer import Scorer
from rlcore.tokenizer import byte_tokenizer
from rlcore.types import Episode, Rollout, Task
from tests.env.test_multi_turn_runs import write_recipe
from tests.env.test_turn_credit import rollout_of

TASK = Task(id="t", prompt="2+2?", answer="4")
REWARDS = '''
from rlcore import reward

@reward
def short(completion, messages, **columns):
    return len(messages) + (completion == "4")

def batch(completions, messages, **kwargs):
    return [len(said) + 10 * len(completion) for said, completion in zip(messages, completions)]

def verifiers(completion, prompt, **kwargs):
    return 100 * len(prompt) + sum(m["role"] == "tool" for m in completion)
'''


def conversation(ending: str = "done", rewards: tuple[float, ...] = (0.25, 1.0)) -> Rollout:
    messages = [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "", "tool_calls": []},
        {"role": "tool", "name": "add", "content": "4"},
        {"role": "assistant", "content": "4"},
    ]
    episode = Episode(
        messages=messages,
        prompt_messages=1,
        rewards=list(rewards),
        states=[None] * len(rewards),
        ending=ending,
        reason="it broke" if ending == "crashed" else "",
    )
    rollout = rollout_of("r", list(rewards), [None] * len(rewards))
    return Rollout(id="r", task_id="t", turns=rollout.turns, text="4", episode=episode)


@pytest.fixture
def rewards_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(REWARDS)
    return path


def test_each_form_sees_the_conversation(rewards_file: Path) -> None:
    specs = [RewardSpec(f"{rewards_file}:{name}") for name in ("short", "verifiers")]
    chat = Task(id="t", prompt=[{"role": "user", "content": "2+2?"}], answer="4")
    specs_of_chat = [RewardSpec(f"{rewards_file}:batch")]
    with Scorer([*specs, RewardSpec("environment")], workers=1) as scorer:
        ((verdict,),) = scorer.score([(TASK, [conversation()])])
    assert verdict.parts == {"short": 5.0, "verifiers": 101.0, "environment": 1.25}
    with Scorer(specs_of_chat, workers=1) as scorer:
        ((verdict,),) = scorer.score([(chat, [conversation()])])
    assert verdict.parts == {"batch": 34.0}


def test_the_environment_alone_needs_no_worker() -> None:
    with Scorer([RewardSpec("environment", weight=2.0)]) as scorer:
        ((good, lost, cut),) = scorer.score(
            [(TASK, [conversation(), conversation("crashed"), conversation("aborted")])]
        )
    assert good.value == 2.5
    assert (lost.value, lost.status) == (None, "crashed") and "it broke" in lost.reason
    assert (cut.value, cut.status) == (None, "unscorable")


def test_a_lost_environment_has_no_reward_of_others_either(rewards_file: Path) -> None:
    with Scorer([RewardSpec(f"{rewards_file}:short")], workers=1) as scorer:
        ((lost, good),) = scorer.score([(TASK, [conversation("timed-out"), conversation()])])
    assert (lost.value, lost.status) == (None, "timed-out") and good.value == 5.0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("env=null", "but the stage has no env"),
        ("env.max_turns=0", "env.max_turns"),
        ("env.use=nothing", "there is no environment 'nothing'"),
        ("env.typo=1", "typo"),
        ("env.max_turn=3", "did you mean 'max_turns'"),
        ("env.use={here}:Empty", "neither a method `step` nor another public method"),
        ("stages.rl.credit.turns=gigpoo", "gigpo"),
        ("stages.rl.follow_up=guess_masks", "follow_up"),
        ("stages.rl.credit={{turns: null, steps: {{}}}}", "credit.steps"),
    ],
)
def test_bad_recipes_get_a_sentence(change: str, sentence: str, tmp_path: Path) -> None:
    from rlcore.errors import RlcoreError
    from rlcore.recipe.check import check

    with pytest.raises(RlcoreError, match=re.escape(sentence)):
        check(load(str(write_recipe(tmp_path)), [change.format(here=__file__)]))


class Empty:
    def reset(self, **task: object) -> str:
        return "x"


def test_credit_for_turns_needs_an_environment(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no effect without env"):
        load(
            str(write_recipe(tmp_path)),
            ["env=null", "rewards=[{use: length, max_tokens: 4}]"],
        )


def test_a_missing_column_is_named() -> None:
    def asks(answer: int, difficulty: int, **columns: object) -> None:
        """Asks for a column that no task has."""

    with pytest.raises(TypeError, match="asks for 'difficulty'.*there are: answer, seed"):
        task_arguments(asks, {"answer": 1, "seed": 0})


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([{"role": "user", "content": "x"}, {"content": "a"}], "message 2 of the demonstration of task 't'"),
        ([{"role": "user", "content": "x"}], "no message of the assistant"),
        (["text"], "message 1"),
    ],
)
def test_a_malformed_demonstration_is_named(messages: list, sentence: str) -> None:
    encoder = PromptEncoder(byte_tokenizer(max_length=64))
    task = Task(id="t", prompt="?", demonstration=messages)
    with pytest.raises(TaskError, match=sentence):
        encode_demonstration(encoder, task)
