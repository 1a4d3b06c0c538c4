"""A study: cells continue from their seed's start, values are kept in one file, and finished runs are not repeated."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from rlcore.analysis import study, study_results
from rlcore.analysis.settings import first_difference
from rlcore.analysis.study import CellRun, after, run_study, seed_numbers, study_main
from rlcore.analysis.study_results import StudyResults, study_table, summarise
from rlcore.errors import RunError
from rlcore.recipe.load import load
from rlcore.run.folder import read_rows
from tests.run.whole import write_recipe

IMITATE = "stages.rl={kind: sft, name: rl, tasks: demonstrations, steps: 2, batch_size: 4}"
MEASURES = {
    "before": lambda run: run.accuracy["before"],
    "after": lambda run: run.accuracy["after"],
    "tokens": lambda run: run.tokens,
    "steps": lambda run: run.steps,
    "wasted": lambda run: run.frac_wasted,
}


def test_cells_continue_from_the_start_of_their_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "study"
    recipe = str(write_recipe(tmp_path))
    cells = {"rl": (), "more sft": (IMITATE,)}

    def run(seeds: list[int], **changes: object) -> StudyResults:
        options = {
            "seeds": seeds,
            "folder": folder,
            "measures": MEASURES,
            "curves": lambda run: {"loss": [(row["step"], 0.5) for row in run.rows]},
            "common": ["stages.rl.steps=2"],
            "start_per_seed": True,
        }
        return run_study(recipe, cells, **(options | changes))

    results = run([0, 1])
    assert list(results.cells) == ["rl", "more sft"]
    assert results.values("rl", "steps") == results.values("more sft", "steps") == [2, 2]
    assert min(results.values("rl", "tokens")) > 0
    assert results.values("more sft", "tokens") == [0, 0]
    assert all(0 <= value <= 1 for value in results.values("rl", "wasted"))
    before = results.values("rl", "before")
    assert before == results.values("more sft", "before") and before[0] != before[1]
    assert [y for _, y in results.curves("rl", "loss")[1]] == [0.5, 0.5]
    assert read_rows(folder / "start-1/metrics.jsonl")[-1]["stage"] == "sft"
    assert read_rows(folder / "more_sft-1/metrics.jsonl")[-1]["stage"] == "rl"

    stored = json.loads((folder / "results.json").read_text())
    run_of_seed_1 = stored["cells"]["more sft"]["runs"]["1"]
    assert stored["cells"]["more sft"]["overrides"] == [IMITATE]
    assert run_of_seed_1["values"]["steps"] == 2 and run_of_seed_1["seconds"] > 0
    assert run_of_seed_1["rlcore"] and "commit" in run_of_seed_1
    assert stored["settings"]["overrides"] == ["stages.rl.steps=2"]

    def no_training(*args: object, **options: object) -> None:
        raise AssertionError("a finished run is repeated")

    monkeypatch.setattr(study, "train", no_training)
    again = run([0, 1])
    assert again.as_dict()["cells"] == results.as_dict()["cells"]
    assert again.seconds >= stored["seconds"]
    with pytest.raises(RunError, match="other settings .*overrides.0.*another folder"):
        run([0], common=["stages.rl.steps=3"])
    with pytest.raises(RunError, match="cell 'rl' with other overrides"):
        cells["rl"] = ("stages.rl.optim.lr=1",)
        run([0])
    cells["rl"] = ()
    with pytest.raises(AssertionError, match="repeated"):
        run([0], measures=MEASURES | {"new": lambda run: 1.0})


def test_a_study_that_is_killed_keeps_the_runs_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []

    def train(recipe, **options: object) -> None:
        trained.append(recipe.name)
        if recipe.name == "b-0" and len(trained) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(study, "train", train)
    monkeypatch.setattr(study, "all_checkpoints", lambda folder: [folder / "step_000001"])
    options = {"seeds": [0, 1], "folder": tmp_path, "measures": {"name": lambda run: run.seed}}
    recipe = str(write_recipe(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        run_study(recipe, {"a": (), "b": ()}, **options)
    assert StudyResults.read(tmp_path / "results.json").values("a", "name") == [0]
    results = run_study(recipe, {"a": (), "b": ()}, **options)
    assert trained == ["start", "a-0", "b-0", "start", "b-0", "start", "a-1", "b-1"]
    assert results.values("b", "name") == [0, 1]


def test_a_cell_keeps_the_model_keys_of_its_recipe(tmp_path: Path) -> None:
    changes = ["model.gradient_checkpointing=true", "model.peft={type: lora, r: 2}"]
    recipe = load(str(write_recipe(tmp_path)), changes)
    continued = after(recipe, 2, tmp_path / "step_000006")
    assert continued.model.gradient_checkpointing and continued.model.peft == recipe.model.peft
    assert continued.model.path == str(tmp_path / "step_000006")
    assert continued.model.config is None and continued.model.tokenizer is None
    assert [stage.label for stage in continued.stages] == ["rl", "after"]


def test_cells_after_evaluations_alone_begin_with_the_recipe_s_model(tmp_path: Path) -> None:
    """Such a start leaves no checkpoint."""
    recipe = load(str(write_recipe(tmp_path)))
    continued = after(recipe, 2, None)
    assert continued.model == recipe.model
    assert [stage.label for stage in continued.stages] == ["rl", "after"]


def test_summaries_and_tables(tmp_path: Path) -> None:
    three = summarise([0.1, 0.2, 0.3])
    assert three.std == pytest.approx(0.1)
    assert three.interval == pytest.approx((0.2 - 4.303 * 0.1 / 3**0.5, 0.2 + 0.2484), abs=1e-4)
    assert three.text(".1%") == "20.0% ± 24.8%"
    assert summarise([0.5]).text() == "0.500" and summarise([None]).text() == "none"
    assert summarise([0.5, None]).text() == "0.500 (1 of 2)"
    results = StudyResults(tmp_path / "results.json", "tiny", {})
    results.add("one", 1, {"right": 0.5, "reached": None}, seconds=1.0)
    results.add("two", 1, {"right": 1.0, "reached": 7.0}, seconds=1.0)
    lines = study_table(StudyResults.read(tmp_path / "results.json")).splitlines()
    assert lines[0] == "|         | one   | two   |"
    assert lines[2:4] == ["| right   | 0.500 | 1.000 |", "| reached | none  | 7.000 |"]
    assert "recipe tiny" in lines[-1]
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(RunError, match="format 1"):
        StudyResults.read(tmp_path / "other.json")


def test_processes_that_share_a_study_keep_each_other_s_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results.json"
    one, two = (StudyResults.open(path, recipe="tiny", settings={}) for _ in range(2))
    for seed in range(2):
        one.add("random", seed, {"right": 0.2 + seed}, seconds=1.0)
        two.add("sec", seed + 1, {"right": 0.5 + 3 * seed}, seconds=1.0)
    one.add("sec", 0, {"right": 0.7}, seconds=1.0)
    stored = StudyResults.read(path)
    assert stored.values("random", "right") == [0.2, 1.2]
    assert stored.values("sec", "right") == [0.7, 0.5, 3.5]
    # of seeds 0 and 1: 0.5 and -0.7
    paired = stored.difference("sec", "random", "right")
    assert paired.values == pytest.approx([0.5, -0.7]) and paired.mean == pytest.approx(-0.1)
    assert paired.half_width == pytest.approx(12.7062 * 0.6, abs=1e-3)
    assert stored.difference("sec", "random", "absent").mean is None
    with pytest.raises(RunError, match="cell 'random' with other overrides"):
        two.add("random", 5, {"right": 0.0}, overrides=["seed=1"], seconds=1.0)
    monkeypatch.setattr(study_results, "LOCK_S", 0.1)
    with FileLock(path.with_suffix(".lock")), pytest.raises(RunError, match="another process"):
        one.save()


def test_seeds_are_a_number_of_them_or_a_range() -> None:
    assert list(seed_numbers("3")) == [0, 1, 2] and list(seed_numbers("3-4")) == [3, 4]
    for wrong in ("0", "4-3", "two", "-1", "1-"):
        with pytest.raises(argparse.ArgumentTypeError, match="no number of seeds"):
            seed_numbers(wrong)


def test_the_command_of_a_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*words: str) -> str:
        folder = str(tmp_path / "runs of the study")
        monkeypatch.setattr(sys, "argv", ["reproduce.py", *words, "--folder", folder])
        measures: dict = {"after": MEASURES["after"], "steps": MEASURES["steps"]}
        quick = ["stages.rl.steps=1"]
        cells = {"rl": (), "in full": ("seed=7",)}
        recipe = write_recipe(tmp_path)
        study_main("A study.", recipe, cells, measures, quick=quick, quick_cells=["rl"])
        return capsys.readouterr().out

    with pytest.raises(SystemExit) as end:
        command("--quick", "--table")
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1 and "cannot be read" in said
    printed = json.loads(command("--quick", "--json"))
    assert list(printed["cells"]) == ["rl"]
    assert printed["cells"]["rl"]["summary"]["steps"]["values"] == [1]
    assert 0 <= printed["cells"]["rl"]["runs"]["0"]["values"]["after"] <= 1
    assert "| steps | 1.000" in command("--quick", "--table")


def test_a_run_without_training_rows_wastes_nothing() -> None:
    assert CellRun("a", 0, {}, [], Path()).frac_wasted == 0


def test_a_key_that_recipes_got_since_is_no_other_setting() -> None:
    """While it has its default: a stored study goes on. Written otherwise, or changed, it is one."""
    before = {"recipe": {"model": {"path": "a"}, "stages": [{"kind": "rl", "steps": 3}]}}
    now = {"recipe": {"model": {"path": "a", "tokens": []}, "stages": [{"kind": "rl", "steps": 3, "budget": 7}]}}
    stated = {"recipe": {"model": {"path": "a"}, "stages": [{"kind": "rl", "steps": 3}]}}
    assert first_difference(before, now, stated) == ""
    assert first_difference(before, now, now) == "recipe.model.tokens: None -> []"
    stated["recipe"]["stages"][0]["budget"] = 7
    assert first_difference(before, now, stated) == "recipe.stages.0.budget: None -> 7"
    now["recipe"]["stages"][0]["steps"] = 4
    assert first_difference(before, now, stated) == "recipe.stages.0.budget: None -> 7"
    now["recipe"]["model"]["path"] = "b"
    assert first_difference(before, now, stated) == "recipe.model.path: 'a' -> 'b'"
    assert first_difference({"old": 1}, {}, {}) == "old: 1 -> None"


def test_values_that_another_process_adds_to_a_run_are_kept(tmp_path: Path) -> None:
    """Both read the same runs, and each measures anew those of its own seed."""
    path = tmp_path / "results.json"
    before = StudyResults(path, "tiny", {})
    for seed in (0, 1):
        before.add("a", seed, {"old": 1.0}, seconds=1)
    one, two = StudyResults.read(path), StudyResults.read(path)
    one.add("a", 0, {"old": 1.0, "new": 2.0}, seconds=1)
    two.add("a", 1, {"old": 1.0, "new": 3.0}, seconds=1)
    one.save()
    assert StudyResults.read(path).values("a", "new") == [2.0, 3.0]
