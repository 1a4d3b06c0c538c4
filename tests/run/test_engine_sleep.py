"""An engine that sleeps has its memory while it generates, and the learner has it while it learns."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from rich.console import Console

from rlcore.errors import RlcoreError, RunError
from rlcore.learner.update import Learner
from rlcore.recipe.load import load
from rlcore.rollout.hf import HfEngine
from rlcore.run.driver import train
from rlcore.run.student import student_section
from rlcore.types import Request
from tests.run.whole import write_recipe


class Sleepy(HfEngine):
    """Notes what it is used for, in order."""

    story: list[str] = []
    under_way = 0

    def __init__(self, model_folder: Path, *, max_length: int, sleep: bool) -> None:
        super().__init__(model_folder, max_length=max_length)

    def sleep(self) -> None:
        assert not Sleepy.under_way
        self.story.append("sleep")

    def submit(self, requests: list[Request]) -> None:
        Sleepy.under_way += len(requests)
        self.story.append("generate")
        super().submit(requests)

    def poll(self, timeout_s: float) -> list:
        done = super().poll(timeout_s)
        Sleepy.under_way -= len(done)
        return done

    def load(self, weights: object, version: int) -> None:
        self.story.append("load")
        super().load(weights, version)


def test_a_run_puts_its_engine_to_sleep_before_it_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = Learner.update

    def noted(self: Learner, samples: list) -> object:
        Sleepy.story.append("learn")
        return update(self, samples)

    monkeypatch.setattr(Learner, "update", noted)
    monkeypatch.setitem(sys.modules, "sleepy", sys.modules[__name__])
    changes = ["engine={use: 'sleepy:Sleepy', max_length: 48, sleep: true}", "stages.rl.steps=2"]
    more = "{kind: sft, name: more, tasks: demonstrations, steps: 1, batch_size: 4}"
    changes.append(f"stages.after={more}")
    Sleepy.story.clear()
    train(load(str(write_recipe(tmp_path)), changes), console=Console(quiet=True))
    story = " ".join(Sleepy.story).replace("learn " * 6, "", 1)
    step = "generate sleep learn load"
    # the evaluation; two steps; the stage that only learns
    assert story == f"load generate sleep load {step} {step} sleep learn sleep"


def test_a_run_without_a_gpu_has_nothing_to_give_back(tmp_path: Path) -> None:
    recipe = load(str(write_recipe(tmp_path)), ["engine={use: vllm_local, max_length: 48, sleep: true}"])
    with pytest.raises(RunError, match="this run has no GPU"):
        train(recipe, console=Console(quiet=True))
    assert not (tmp_path / "runs").exists()


def test_only_the_run_s_own_engine_sleeps(tmp_path: Path) -> None:
    """vLLM's pool is one for all engines of a process: a second one that slept would take the first one's memory away."""
    asleep = "engine: {use: vllm_local, sleep: true}"
    teacher = f"stages.rl.teacher={{model: here, {asleep}}}"
    with pytest.raises(RlcoreError, match="leave out engine.sleep"):
        load(str(write_recipe(tmp_path)), ["stages.rl.method=opd", teacher])
    with pytest.raises(RlcoreError, match="the student's engine: .*leave out engine.sleep"):
        student_section({"use": "vllm_local", "sleep": True})
