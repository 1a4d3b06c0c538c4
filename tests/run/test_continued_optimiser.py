"""`optim: continue`: two stages with one optimiser and one schedule."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlcore.errors import RlcoreError
from rlcore.recipe.load import load
from rlcore.run.folder import read_rows
from tests.run.whole import (
    finish,
    kill_when,
    run_folder,
    start,
    story,
    write_recipe,
)

SFT = "{kind: sft, tasks: demonstrations, steps: %d, batch_size: 64, optim: %s}"
OPTIM = "{lr: 1e-2, schedule: cosine, warmup_steps: 2, ema: 0.9}"
EVAL = "{kind: eval, tasks: eval_set, rewards: [{use: length, max_tokens: 4}], scoring: {workers: 1}, sampling: {max_tokens: 12}}"
WHOLE = f"stages=[{SFT % (8, OPTIM)}, {EVAL}]"


def in_two(second: str = "continue") -> str:
    named = SFT % (4, second)
    return f"stages=[{SFT % (4, OPTIM)}, {EVAL}, {named[:-1]}, name: second}}]"


def written(folder: Path, *arguments: str) -> Path:
    folder.mkdir()
    recipe = write_recipe(folder)
    finish(start("train", recipe, *arguments))
    return run_folder(recipe)


def parameters(folder: Path, kind: str = "") -> torch.Tensor:
    last = sorted((folder / "checkpoints").glob("step_*"))[-1] / kind
    return torch.cat([value.flatten() for value in load_file(last / "model.safetensors").values()])


def test_two_stages_are_one(tmp_path: Path) -> None:
    """All demonstrations are in each step, so that only their order differs."""
    whole = written(tmp_path / "whole", WHOLE)
    halves = written(tmp_path / "halves", in_two())
    anew = written(tmp_path / "anew", in_two(OPTIM))
    rates = [[row["lr"] for row in read_rows(folder / "metrics.jsonl")] for folder in (whole, halves, anew)]
    assert rates[0] == rates[1] and rates[0] != rates[2]
    for kind in ("", "ema"):
        one, two, other = (parameters(folder, kind) for folder in (whole, halves, anew))
        near, far = ((x - one).norm() / one.norm() for x in (two, other))
        assert near < 1e-3 < 0.02 < far, (kind, near, far)


def test_moments_go_on_under_a_schedule_of_the_stage(tmp_path: Path) -> None:
    """Re-warming: the rate rises again from 0. Without a change of the rate the moments alone are the whole optimiser."""
    optim = "{lr: 1e-2}"
    again = "{continues: moments, lr: 4e-3, schedule: cosine, warmup_steps: 2}"
    runs = {}
    for name, second in (("all", "continue"), ("moments", "{continues: moments, lr: 1e-2}"), ("none", optim), ("warmed", again)):
        runs[name] = written(tmp_path / name, in_two(second).replace(OPTIM, optim))
    bits = {name: parameters(folder) for name, folder in runs.items()}
    assert torch.equal(bits["moments"], bits["all"])
    assert not torch.equal(bits["moments"], bits["none"])
    rates = [row["lr"] for row in read_rows(runs["warmed"] / "metrics.jsonl")]
    assert rates == pytest.approx([1e-2] * 4 + [2e-3, 4e-3, 4e-3, 2e-3])


@pytest.mark.parametrize("second", ["continue", "{continues: moments, lr: 4e-3, schedule: cosine, warmup_steps: 2}"])
def test_kill_and_resume_at_the_border_and_behind_it_are_exact(tmp_path: Path, second: str) -> None:
    stories = [story_of(written(tmp_path / "whole", in_two(second)))]
    for step in (4, 6):
        folder = tmp_path / str(step)
        folder.mkdir()
        recipe = write_recipe(folder)
        saved = run_folder(recipe) / f"checkpoints/step_{step:06d}"
        kill_when(start("train", recipe, in_two(second)), saved.exists)
        finish(start("train", recipe, in_two(second), "--resume"))
        stories.append(story_of(run_folder(recipe)))
    assert stories[0] == stories[1] == stories[2]


def story_of(folder: Path) -> dict[str, object]:
    (folder / "rollouts").mkdir(exist_ok=True)
    return story(folder)


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        (f"stages=[{SFT % (4, 'continue')}]", "stages.sft.optim: it goes on with the optimiser of an sft, offline or rl stage"),
        (in_two("{continues: true, lr: 2e-2}"), "stages.second.optim.lr is 0.02 and that of stage sft, whose optimiser goes on, is 0.01"),
        (in_two("{continues: true, use: sgd}"), "optim.use is 'sgd'"),
        (in_two("continues"), "optim"),
        (in_two("{continues: momenta, lr: 1e-2}"), "optim.continues"),
        (in_two("{continues: moments, use: sgd}"), "optim.use is 'sgd' and that of stage sft, whose moments go on, is 'adamw'"),
        (f"stages=[{SFT % (4, '{continues: moments}')}]", "stages.sft.optim: it goes on with the optimiser"),
    ],
)
def test_what_cannot_go_on(tmp_path: Path, stages: str, said: str) -> None:
    with pytest.raises(RlcoreError) as error:
        load(str(write_recipe(tmp_path)), [stages])
    assert said in str(error.value)
