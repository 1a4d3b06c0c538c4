"""Stage and command `merge`: checkpoints of a run as one model, which later stages train, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from rlcore.cli.main import main
from rlcore.errors import RlcoreError
from rlcore.recipe.check import check
from rlcore.recipe.load import load
from rlcore.run.checkpoint import all_checkpoints
from rlcore.run.folder import read_rows
from tests.run.whole import finish, kill_when, run_folder, start, story, write_recipe

MERGE = """
stages:
  - {kind: sft, tasks: demonstrations, steps: 6, batch_size: 16, optim: {lr: 1e-2, warmup_steps: 2}}
  - {kind: merge, last: 3, rule: {use: ema, alpha: 0.4}}
  - {kind: eval, name: merged, tasks: eval_set, rewards: &length [{use: length, max_tokens: 4}], scoring: {workers: 1},
     sampling: {max_tokens: 12}}
  - {kind: sft, name: further, tasks: demonstrations, steps: 4, batch_size: 16, optim: {lr: 1e-3}}
run.keep_checkpoints: 9
"""


def recipe_with(tmp_path: Path, stages: str = MERGE) -> Path:
    base = write_recipe(tmp_path)
    text = f"extends: {base}\nname: tiny\nrun.folder: {tmp_path / 'runs'}\n{stages}"
    path = tmp_path / "merging.yaml"
    path.write_text(text)
    return path


def weights(folder: Path) -> dict[str, np.ndarray]:
    return {name: value.double().numpy() for name, value in load_file(folder / "model.safetensors").items()}


def test_the_policy_becomes_the_merged_model_and_is_trained_further(tmp_path: Path) -> None:
    recipe = recipe_with(tmp_path)
    finish(start("train", recipe))
    folder = run_folder(recipe)
    saved = {path.name: weights(path) for path in all_checkpoints(folder / "checkpoints")}
    assert list(saved) == [f"step_{step:06d}" for step in (2, 4, 6, 7, 9, 11)]
    for name, value in saved["step_000007"].items():
        two, four, six = (saved[f"step_{step:06d}"][name] for step in (2, 4, 6))
        assert np.abs(value - (0.36 * two + 0.24 * four + 0.4 * six)).max() < 1e-6
    moved = max(np.abs(saved["step_000011"][name] - value).max() for name, value in saved["step_000007"].items())
    assert 1e-5 < moved < 0.05
    rows = read_rows(folder / "eval.jsonl")
    assert [row["step"] for row in rows] == [7]


def test_kill_and_resume_are_exact(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for place in (whole, killed):
        place.mkdir()
    recipe = recipe_with(whole)
    finish(start("train", recipe))
    other = recipe_with(killed)
    folder = run_folder(other)
    kill_when(start("train", other), lambda: (folder / "checkpoints/step_000006").exists())
    finish(start("train", other, "--resume"))
    one, two = story_without_rollouts(run_folder(recipe)), story_without_rollouts(folder)
    assert one == two


def story_without_rollouts(folder: Path) -> dict[str, object]:
    (folder / "rollouts").mkdir(exist_ok=True)
    return story(folder)


def test_the_command_merges_the_last_checkpoints_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path)
    finish(start("train", recipe, "stages.rl.steps=2", "run.keep_checkpoints=9", "stages.sft.eval_every=2"))
    run = run_folder(recipe)
    saved = [weights(path) for path in all_checkpoints(run / "checkpoints")[-2:]]
    assert main(["merge", str(run), "--last", "2", "--into", str(tmp_path / "two")]) == 0
    for name, value in weights(tmp_path / "two").items():
        assert np.abs(value - (saved[0][name] + saved[1][name]) / 2).max() < 1e-6

    # by step: the first two checkpoints, of steps 2 and 4, weigh 1/3 and 2/3
    first = [str(path) for path in all_checkpoints(run / "checkpoints")[:2]]
    words = ["--rule", "metric", "metric=step", "eval_set=eval_set"]
    assert main(["merge", *first, *words, "--into", str(tmp_path / "metric")]) == 0
    assert "weight 0.3333" in capsys.readouterr().out
    two, four = (weights(Path(path)) for path in first)
    for name, value in weights(tmp_path / "metric").items():
        assert np.abs(value - (two[name] + 2 * four[name]) / 3).max() < 1e-6

    for arguments, said in (
        ([str(run), "--last", "99"], "keeps"),
        ([str(run), "--rule", "ties"], "name one"),
        ([str(run), "--base", str(run)], "leave it out"),
        ([str(run), "--rule", "tied"], "there is no merge rule 'tied'; did you mean 'ties'"),
        ([str(run), "--rule", "ties", "densty=1", "--base", str(run)], "did you mean 'density'"),
        ([str(tmp_path / "nowhere")], "there is no folder"),
        ([str(run), str(run), "--rule", "linear", "weights=[1]"], "rule linear is for 1 models, and there are 2"),
        ([str(run), "--rule", "residual", "--base", str(run)], "rule residual is for 2 models, and there are 1"),
        ([str(tmp_path / "two"), "--rule", "metric", "eval_set=eval_set"], "is no checkpoint of a run"),
        ([*first, "--rule", "metric", "eval_set=evalset"], "has no accuracy of evalset after step 2"),
    ):
        assert main(["merge", *arguments, "--into", str(tmp_path / "bad")]) == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "bad").exists()


def test_runs_that_began_as_different_random_models_are_not_averaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Data ablation by averaging and Free Lunch over runs need a common start."""
    for name, seed, size in (("a", 0, 64), ("b", 0, 32), ("c", 1, 64)):
        (tmp_path / name).mkdir()
        recipe = write_recipe(tmp_path / name)
        tasks = f"tasks.demonstrations={{use: arithmetic, size: {size}, max_number: 4, terms: [2]}}"
        sft = "stages=[{kind: sft, tasks: demonstrations, steps: 2, batch_size: 16}]"
        finish(start("train", recipe, sft, tasks, f"seed={seed}"))
    runs = {name: str(run_folder(tmp_path / name / "tiny.yaml")) for name in "abc"}
    assert main(["merge", runs["a"], runs["b"], "--into", str(tmp_path / "ab")]) == 0
    assert main(["merge", str(tmp_path / "ab"), runs["c"], "--into", str(tmp_path / "unknown")]) == 0
    capsys.readouterr()
    assert main(["merge", runs["a"], runs["c"], "--into", str(tmp_path / "ac")]) == 2
    assert "their runs began as different random models" in capsys.readouterr().err


def test_own_rule(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    finish(start("train", recipe, "stages.rl.steps=2"))
    own = tmp_path / "own.py"
    own.write_text(
        "def keep_norms(bound: float = 1.0):\n"
        "    def rule(name, tensors, base):\n"
        "        return sum(tensors) * bound\n"
        "    return rule\n"
    )
    run = run_folder(recipe)
    arguments = ["merge", str(run), "--rule", f"{own}:keep_norms", "bound=0.5"]
    assert main([*arguments, "--into", str(tmp_path / "own")]) == 0
    last = all_checkpoints(run / "checkpoints")[-1]
    assert all(np.allclose(value, weights(last)[name] / 2) for name, value in weights(tmp_path / "own").items())


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ("{kind: merge, last: 3, models: [policy]}", "exactly one of last and models"),
        ("{kind: merge, last: 10}", "run.keep_checkpoints is 9"),
        ("{kind: merge, models: [policy, ./nowhere]}", "stages.merge.models: there is no model at './nowhere'"),
        ("{kind: merge, models: [policy], rule: {use: ties, densiti: 1}}", "did you mean 'density'"),
        ("{kind: merge, models: [policy], rule: meen}", "did you mean 'mean'"),
        ("{kind: merge, models: [policy], rule: ties}", "stages.merge.rule: merge rule ties adds differences to a base"),
        ("{kind: merge, last: 2, rule: {use: linear, weights: [1]}}", "linear is for 1 models, and there are 2"),
        ("{kind: merge, last: 2, rule: {use: metric, eval_set: evil_set}}", "which no stage evaluates; did you mean 'eval_set'"),
    ],
)
def test_what_a_recipe_cannot_mean(tmp_path: Path, stage: str, said: str) -> None:
    stages = MERGE.replace("{kind: merge, last: 3, rule: {use: ema, alpha: 0.4}}", stage)
    with pytest.raises(RlcoreError) as error:
        check(load(str(recipe_with(tmp_path, stages))))
    assert said in str(error.value)
