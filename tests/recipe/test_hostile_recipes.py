"""Recipes that nobody would write: refused in a sentence and in time, or kept exactly."""

from __future__ import annotations

import math
import time
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest

from rlcore.cli.main import main
from rlcore.errors import RecipeError, RlcoreError
from rlcore.recipe.check import check
from rlcore.recipe.load import dump, load, load_mapping, recipe_names
from rlcore.recipe.yaml_text import parse_yaml, write_yaml
from tests.soak.mutations import TEXTS, laughs, run

SMALL = """
name: small
model: {config: {model_type: qwen2}, tokenizer: bytes}
tasks: {train: {use: arithmetic, size: 8}}
stages:
  - {kind: sft, tasks: train, steps: 2}
  - {kind: rl, tasks: train, steps: 3, rewards: [{use: exact}]}
  - {kind: sample, tasks: train, rewards: [{use: exact}]}
"""


@pytest.fixture
def small(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return str(path)


BAD_NAMES = ["../x", "..", ".", "/tmp/x", "a/b", "a b", "", "-x", "x" * 101, "é" * 60, "a\nb"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_becomes_a_path_stays_in_its_folder(small: str, name: str) -> None:
    quoted = write_yaml(name).split("\n")[0] if name != "a\nb" else '"a\\nb"'
    overrides = [f"name={quoted}", f"tasks={{{quoted}: {{use: arithmetic}}}}"]
    if name:  # an empty name of a stage or reward is its default
        overrides += [f"stages.{kind}.name={quoted}" for kind in ("rl", "sample", "sft")]
    if name and name != "a/b":  # metrics are grouped by slashes
        overrides.append(f"stages.rl.rewards=[{{use: exact, name: {quoted}}}]")
    for override in overrides:
        with pytest.raises(RecipeError, match="names files and metrics"):
            load(small, [override])


@pytest.mark.parametrize("name", ["x", "rl_2", "before.sft", "é", "7"])
def test_ordinary_names_are_taken(small: str, name: str) -> None:
    assert load(small, [f"stages.rl.name='{name}'"]).stages[1].label == name


def test_two_stages_do_not_write_the_same_samples(small: str) -> None:
    twice = "stages=[&s {kind: sample, tasks: train, rewards: [{use: exact}]}, *s]"
    with pytest.raises(RecipeError, match="both write samples/sample: give one another name"):
        load(small, [twice])


@pytest.mark.parametrize("text", TEXTS)
def test_yaml_that_is_no_recipe_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text + SMALL)
    with pytest.raises(RecipeError):
        load(str(path))


@pytest.mark.parametrize(
    "text", [laughs("[x, x]", "[{}]"), laughs("{k: 1}", "{{<<: [{}]}}", 12)]
)
def test_aliases_of_aliases_are_counted_and_not_expanded(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    started = time.monotonic()
    with pytest.raises(RecipeError):
        load(str(path))
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "override",
    [
        "stages.rl.optim.betas=[0.9]",
        "stages.rl.optim.betas=[0.9, 1.0]",
        "stages.rl.optim.betas=[-1, 0.9]",
        "stages.rl.optim.betas=[0.9, 2]",
        "stages.rl.optim.lr=1e300",
        "stages.rl.optim.lr=.inf",
        "stages.rl.sampling.temperature=1e-320",
        "stages.rl.sampling.top_p=1e-300",
        "stages.rl.rewards.0.weight=1e308",
        "stages.rl.rewards.0.weight=.nan",
        "stages.rl.scoring.deadline_s=.inf",
        "stages.rl.scoring.deadline_s=1e300",
        "stages.rl.scoring.workers=1000000",
        "stages.rl.objective={preset: {a: awr}}",
        "stages.rl.objective={use: {a: awr}}",
        "stages.rl.objective={use: 3}",
        "stages.rl.objective={use: grpo, name: x}",
        "stages.rl.optim.schedule={use: [x]}",
        "tasks.train.letters=100000000",
        "tasks.train.size=2024-05-01",
        "tasks.train={use: null}",
        "tasks.train={use: countdown, numbers: [1000000]}",
        "tasks.train.params={use: null}",
        "tasks.train={use: dataset, path: [{a: b}]}",
        "tasks.train={use: dataset, path: [[x]]}",
        "tasks.train=3",
        "stages.0.x.y=1",
        "stages.99999999999999999999.steps=1",
        "seed=" + "9" * 5000,
        "seed=" + "9" * 30,
        "x",
    ],
)
def test_each_value_that_once_ended_in_a_traceback_is_refused(
    small: str, override: str
) -> None:
    with pytest.raises(RlcoreError) as error:
        check(load(small, [override]))
    assert len(str(error.value)) < 1500


def test_a_parent_that_no_file_can_be_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    for parent in ("a" * 5000, "[a]", '"../x"', "{a: b}"):
        path.write_text(f"extends: {parent}\n")
        with pytest.raises(RecipeError):
            load(str(path))


@pytest.mark.parametrize(
    "value",
    [
        math.inf, -math.inf, 0.1, 1e-300, "1e6", "1e-6", "-2E3", "0x10", "1:30", "null", "yes", "~", "=", "<<",
        " x ", "a: b", "- a", "#", "é\u2028\ufeff\x85", "\U0001f600", "\t", "a\nb\n\n", "\x1b[2J", "'", '"', "%",
        "word " * 60, "2024-05-01", date(2024, 5, 1), datetime(2024, 5, 1, 12, 30, 1, 500), [], {}, [None, True, -1],
        {"a.b": 1, "": 2, 3: [{"x": 0.0}]}, 2**62,
    ],
)  # fmt: skip
def test_what_a_recipe_says_survives_its_dump(small: str, tmp_path: Path, value: Any) -> None:
    raw = parse_yaml(SMALL)
    raw["model"]["config"]["anything"] = value
    raw["stages"][1]["objective"] = {"use": "grpo", "clip_high": value}
    recipe = load_mapping(raw)
    (tmp_path / "again.yaml").write_text(dump(recipe), encoding="utf-8")
    again = load(str(tmp_path / "again.yaml"))
    assert again == recipe
    kept = again.stages[1].objective["clip_high"]
    assert kept == value and type(kept) is type(value)
    assert dump(again) == dump(recipe)


def test_not_a_number_survives_its_dump(small: str) -> None:
    recipe = load(small, ["model.config.x=.nan"])
    assert math.isnan(parse_yaml(dump(recipe))["model"]["config"]["x"])


@pytest.mark.parametrize("name", sorted(recipe_names()))
def test_every_shipped_recipe_survives_its_dump(name: str, tmp_path: Path) -> None:
    text = dump(load(name))
    (tmp_path / "again.yaml").write_text(text, encoding="utf-8")
    assert dump(load(str(tmp_path / "again.yaml"))) == text


def test_what_a_run_wrote_is_not_taken_for_a_file_of_its_recipe(
    small: str, tmp_path: Path
) -> None:
    """`eval.jsonl` beside the recipe of a run is what the run wrote."""
    recipe = load(small, ["prompt.system=eval.jsonl"])
    folder = tmp_path / "run"
    folder.mkdir()
    for name in (".rlcore", "eval.jsonl"):
        (folder / name).write_text("")
    (folder / "recipe.yaml").write_text(dump(recipe))
    assert load(str(folder)).prompt.system == "eval.jsonl"


def test_an_override_changes_one_stage_and_not_those_with_the_same_anchor(
    tmp_path: Path,
) -> None:
    text = SMALL.replace(
        "[{use: exact}]}\n  - {kind: sample", "&r [{use: exact}]}\n  - {kind: sample"
    )
    text = text.replace("rewards: [{use: exact}]", "rewards: *r")
    path = tmp_path / "x.yaml"
    path.write_text(text)
    recipe = load(str(path), ["stages.rl.rewards.0.weight=0.5"])
    assert [stage.rewards[0].weight for stage in recipe.stages[1:]] == [0.5, 1.0]


@pytest.mark.parametrize("rows", ["-1", "0"])
def test_no_rows_to_check_is_a_sentence(small: str, rows: str, capsys: Any) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["recipes", "check", small, "--rows", rows])
    assert "--rows" in capsys.readouterr().err


def test_a_few_random_mutations(capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m tests.soak.mutations` makes ten thousand."""
    assert run(80, seed=7)["FAULT"] == 0, capsys.readouterr().out
