"""Rollouts of adapters are those of the same environment written in a form of our own: tokens, log-probabilities, rewards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rlcore.chat import end_ids
from rlcore.env.forms import EnvironmentSpec
from rlcore.env.pool import EnvironmentPool
from rlcore.rollout.collector import collect
from rlcore.rollout.conversation import Conversation
from rlcore.rollout.episodes import Episodes
from rlcore.rollout.hf import HfEngine
from rlcore.types import Rollout, Sampling
from tests.env.pools import EnvironmentScorer
from tests.env.test_conversation import TASK, _make_model, encoder_of

PROGRAMS = '''
from rlcore.env import environment


def value(texts):
    return sum(map(len, texts)) / 7


@environment
def plain(**columns):
    texts = []
    for turn in range(3):
        texts.append((yield None if turn == 0 else f"turn {turn}"))
    return value(texts)


def agent(base_url, prompt, **columns):
    from openai import OpenAI

    client = OpenAI(base_url=base_url)
    messages = [{"role": "user", "content": prompt}]
    texts = []
    for turn in range(3):
        if turn:
            messages.append({"role": "user", "content": f"turn {turn}"})
        reply = client.chat.completions.create(model="m", messages=messages).choices[0].message
        messages.append(reply)
        texts.append(reply.content)
    return value(texts)
'''
VERIFIERS = '''
import verifiers as vf
from datasets import Dataset


class Turns(vf.MultiTurnEnv):
    async def env_response(self, messages, state, **kwargs):
        turn = len(state["trajectory"])
        return [vf.UserMessage(content=f"turn {turn}")]


async def value(state):
    return sum(len(step["completion"][0].content) for step in state["trajectory"]) / 7


def load_environment():
    data = Dataset.from_list([{"question": "Begin.", "answer": ""}])
    return Turns(dataset=data, rubric=vf.Rubric(funcs=[value]), max_turns=3)
'''


def rollouts_of(spec: EnvironmentSpec, folder: Path, python: str | None = None) -> list[Rollout]:
    encoder = encoder_of("chatml")
    ends = [*range(0, 256, 3), *end_ids(encoder.tokenizer)]
    engine = HfEngine(_make_model(folder, encoder.tokenizer, ends), max_length=600)
    with EnvironmentPool(spec, workers=2, deadline_s=60, python=python) as pool:
        conversation = Conversation(encoder, pool.tools, also_end=ends)
        episodes = Episodes(pool, conversation, max_turns=6, max_tokens=40, max_length=600)
        batch = collect(
            [TASK],
            engine=engine,
            encoder=encoder,
            scorer=EnvironmentScorer(),
            sampling=Sampling(max_tokens=40),
            group_size=4,
            seed=3,
            max_length=600,
            episodes=episodes,
        )
    (group,) = batch.groups
    return group.rollouts


def plain_rollouts(folder: Path) -> list[Rollout]:
    folder.mkdir()
    (folder / "programs.py").write_text(PROGRAMS)
    return rollouts_of(EnvironmentSpec(f"{folder}/programs.py:plain"), folder / "model")


def compare(others: list[Rollout], own: list[Rollout]) -> None:
    assert max(len(rollout.completions) for rollout in own) == 3
    for other, rollout in zip(others, own, strict=True):
        assert other.turns == rollout.turns  # tokens, log-probabilities, finish
        assert len(other.sequences) == 1
        assert other.episode is not None and rollout.episode is not None
        assert other.episode.ending == rollout.episode.ending
        assert other.episode.rewards == pytest.approx(rollout.episode.rewards)


def test_an_agent_program(tmp_path: Path) -> None:
    pytest.importorskip("openai")
    own = plain_rollouts(tmp_path / "plain")
    spec = EnvironmentSpec("agent", params={"function": f"{tmp_path}/plain/programs.py:agent"})
    compare(rollouts_of(spec, tmp_path / "model"), own)


@pytest.mark.slow
def test_an_environment_of_verifiers(tmp_path: Path, interpreter: Callable[..., str]) -> None:
    own = plain_rollouts(tmp_path / "plain")
    (tmp_path / "of_verifiers.py").write_text(VERIFIERS)
    env = f"{tmp_path}/of_verifiers.py:load_environment"
    spec = EnvironmentSpec("verifiers", params={"env": env})
    compare(rollouts_of(spec, tmp_path / "model", interpreter("verifiers==0.3.*")), own)
