"""`rlcore.train`: objects where a recipe names them, callbacks, and a metric of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import rlcore
from rlcore.api import name_of
from rlcore.errors import RecipeError
from rlcore.recipe.yaml_text import parse_yaml
from rlcore.run.folder import RunFolder, read_rows
from tests.run.whole import finish, run_folder, start, write_recipe

QUIET = Console(quiet=True)


@rlcore.reward
def brief(completion: str, answer: str, longest: int = 9, **columns: Any) -> float:
    return float(len(completion) <= longest)


def words(group: rlcore.Group) -> dict[str, float]:
    lengths = [len(rollout.text) for rollout in group.rollouts]
    return {"characters": sum(lengths) / len(lengths)}


class Watcher:
    def __init__(self) -> None:
        self.steps: list[tuple[int, str]] = []
        self.evaluations: list[float] = []

    def on_step(self, step: int, metrics: dict[str, Any]) -> None:
        self.steps.append((step, metrics["stage"]))

    def on_evaluation(self, row: dict[str, Any]) -> None:
        self.evaluations.append(row["accuracy"])


def test_rewards_and_callbacks_are_objects(tmp_path: Path) -> None:
    recipe, watcher, rewards = write_recipe(tmp_path), Watcher(), []
    summary = rlcore.train(
        recipe,
        rewards=[{"use": brief, "longest": 7}],
        callbacks=[watcher, lambda step, metrics: rewards.append(metrics.get("reward/brief"))],
        overrides=["stages.sft.steps=1", "stages.rl.steps=2"],
        console=QUIET,
    )
    assert watcher.steps == [(1, "sft"), (2, "rl"), (3, "rl")]
    assert len(watcher.evaluations) == 2 and summary.accuracy_after == watcher.evaluations[-1]
    assert rewards[0] is None and all(0 <= value <= 1 for value in rewards[1:])
    finish(start("train", Path(summary.run), "--resume"))  # the names are in recipe.yaml


def test_a_mapping_may_hold_functions_anywhere(tmp_path: Path) -> None:
    raw = parse_yaml(write_recipe(tmp_path).read_text().replace("run.folder:", "folder:"))
    folder = raw.pop("folder")
    raw["run"] = {"folder": folder}
    rl = next(stage for stage in raw["stages"] if stage["kind"] == "rl")
    rl |= {"metrics": [words], "steps": 2}
    rlcore.train(raw, overrides=["stages.sft.steps=1"], console=QUIET)
    rows = [r for r in read_rows(Path(folder) / "tiny" / "metrics.jsonl") if r["stage"] == "rl"]
    assert len(rows) == 2
    for row in rows:
        assert 0 <= row["metric/words/characters"] <= 12


def test_what_other_processes_cannot_find_is_refused() -> None:
    with pytest.raises(RecipeError, match="define it at the top level of a file"):
        name_of(lambda completion, answer: 0.0)
    with pytest.raises(RecipeError, match="is an object of type Watcher: pass its class"):
        name_of(Watcher())
    assert name_of(brief) == "tests.run.test_python_api:brief"
    assert run_folder(Path("x/y.yaml")) == Path("x/runs/tiny")


def test_a_run_is_resumed_in_the_process_that_made_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = []  # held, as an engine of the first run may hold it

    class Held(RunFolder):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            folders.append(self)

    monkeypatch.setattr("rlcore.run.driver.RunFolder", Held)
    recipe = write_recipe(tmp_path)
    short = ["stages.sft.steps=1", "stages.rl.steps=1"]
    longer = ["stages.sft.steps=1", "stages.rl.steps=2"]
    rlcore.train(recipe, overrides=short, console=QUIET)
    rlcore.train(recipe, overrides=longer, resume=True, console=QUIET)
    rows = read_rows(run_folder(recipe) / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]
