"""Stage `offline` with transforms, and the recipe of LeTI."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlcore.errors import RlcoreError
from rlcore.recipe.check import check
from rlcore.recipe.load import load
from rlcore.run.folder import read_rows
from tests.run.whole import finish, kill_when, run_folder, start, story, write_recipe

METHODS = Path(__file__).parents[2] / "recipes/methods"
MARKS = "model.control_tokens=['<|good|>', '<|bad|>', '<|feedback|>', '<|/feedback|>']"
STAGES = (
    "stages=[{kind: sample, tasks: demonstrations, num_samples: 2, limit: 8, rewards: [{use: exact, after: '='}], "
    "sampling: {max_tokens: 8}}, {kind: offline, data: sample, steps: 4, batch_size: 8, optim: {lr: 1e-2}%s}]"
)
TRANSFORMS = ", transform: [feedback, {use: masked_thought, p: 0.5, ramp: 0.0}]"


def ran(folder: Path, *overrides: str) -> Path:
    folder.mkdir()
    recipe = write_recipe(folder)
    finish(start("train", recipe, MARKS, *overrides))
    return run_folder(recipe)


def test_stored_completions_are_changed_as_demonstrations_are(tmp_path: Path) -> None:
    """Strength 0 is the stage without, bit for bit; feedback makes texts longer and trains no further token."""
    off = ", transform: {use: masked_thought, p: 0.0}"
    plain, same, told = (ran(tmp_path / name, STAGES % what) for name, what in (("p", ""), ("s", off), ("t", TRANSFORMS)))
    assert story_of(plain) == story_of(same)
    rows = [read_rows(folder / "metrics.jsonl") for folder in (plain, told)]
    for one, other in zip(*rows, strict=True):
        assert one["tokens/trained"] == other["tokens/trained"] and one["loss"] != other["loss"]
        assert other["tokens/forward_backward"] > one["tokens/forward_backward"]


def test_two_processes_draw_what_one_draws(tmp_path: Path) -> None:
    """Both learn from the rows of one run."""
    source = ran(tmp_path / "source", STAGES % "") / "samples/sample"
    offline = f"stages=[{{kind: offline, data: {source}, steps: 3, batch_size: 8{TRANSFORMS}}}]"
    rows = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        recipe = write_recipe(folder)
        finish(start("train", recipe, MARKS, offline, processes=processes))
        rows.append(read_rows(run_folder(recipe) / "metrics.jsonl"))
    for one, two in zip(*rows, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)


def test_kill_and_resume_are_exact(tmp_path: Path) -> None:
    stories = [story_of(ran(tmp_path / "whole", STAGES % TRANSFORMS))]
    folder = tmp_path / "killed"
    folder.mkdir()
    recipe = write_recipe(folder)
    words = ("train", recipe, MARKS, STAGES % TRANSFORMS)
    kill_when(start(*words), (run_folder(recipe) / "checkpoints/step_000002").exists)
    finish(start(*words, "--resume"))
    assert story_of(run_folder(recipe)) == stories[0]


def story_of(folder: Path) -> dict[str, object]:
    (folder / "rollouts").mkdir(exist_ok=True)
    return story(folder)


@pytest.mark.parametrize(
    ("transform", "said"),
    [
        ("markers", "changes the task before it is encoded, and stored completions are tokens already"),
        ("{use: conditional, column: level, threshold: 1.0}", "conditional reads the column 'level', which the tasks do not have"),
        ("{use: score, column: reward}", "the objective 'sft' reads no advantages"),
    ],
)
def test_what_stored_completions_cannot_do(tmp_path: Path, transform: str, said: str) -> None:
    with pytest.raises(RlcoreError) as error:
        check(load(str(write_recipe(tmp_path)), [STAGES % f", transform: {transform}"]))
    assert said in str(error.value) and "stages.offline.transform" in str(error.value)


def test_leti_learns_without_a_right_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the two tokens the policy is equally good at the start, better behind both in the end, and best behind the one
    for right."""
    monkeypatch.chdir(METHODS)
    small = ("tasks.train.size=256", "tasks.good.size=256", "tasks.bad.size=256", f"run.folder={tmp_path}")
    finish(start("train", "leti.yaml", *small), timeout_s=500)
    accuracy = {row["stage"]: row["accuracy"] for row in read_rows(tmp_path / "leti/eval.jsonl")}
    assert abs(accuracy["good_before"] - accuracy["bad_before"]) < 0.1, accuracy
    assert accuracy["good"] > accuracy["good_before"] + 0.3, accuracy
    assert accuracy["good"] > accuracy["bad"] + 0.2, accuracy
    rows = [row for path in (tmp_path / "leti/samples").rglob("*.jsonl") for row in read_rows(path)]
    for row in rows:
        written = [token for token, own in zip(row["token_ids"], row["mask"], strict=True) if own]
        assert max(written) < 262, "no completion holds a control token"
