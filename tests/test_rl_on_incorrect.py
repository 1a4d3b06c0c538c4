"""The reproduction of arXiv 2406.14532: its recipes are valid and differ where they say, its factor is right on a known curve."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from rlcore.analysis.study import CellRun, run_study
from rlcore.recipe.check import check
from rlcore.recipe.load import load

FOLDER = Path(__file__).resolve().parent.parent / "recipes/papers/rl_on_incorrect"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reproduce, online = script("reproduce"), script("compare_online")


def test_every_method_has_a_valid_recipe_that_ends_in_the_same_exam() -> None:
    exams = set()
    settings = [
        (recipe, *more, f"{key}={value}")
        for recipe, key, values, more in reproduce.METHODS.values()
        for value in values
    ]
    for recipe, *changes in [("base",), ("sft",), *settings]:
        loaded = load(str(FOLDER / f"{recipe}.yaml"), changes)
        assert check(loaded)
        assert [stage.name for stage in loaded.stages[-2:]] == ["validation", "eval_set"]
        exams.add("".join(stage.model_dump_json() for stage in loaded.stages[-2:]))
    assert len(exams) == 1


def test_a_setting_is_chosen_on_the_validation_problems_alone() -> None:
    def found(validation: float, eval_set: float) -> dict[str, float]:
        return {"validation": validation, "eval_set": eval_set}

    options = {
        "a": {0: found(0.5, 0.9), 1: found(0.4, 0.9)},
        "b": {0: found(0.3, 0.1), 1: found(0.7, 0.1)},
    }
    assert reproduce.chosen(options) == "b"


def test_every_online_method_is_a_valid_recipe() -> None:
    for recipe, common, _, methods in online.TASKS.values():
        for changes in methods.values():
            assert check(load(str(FOLDER / f"{recipe}.yaml"), [*common, *changes]))


def test_the_tokens_to_an_accuracy_are_read_off_the_curve() -> None:
    rows = [
        {"tokens/completion": 90, "credit/tokens": 10, "reward/mean": r}
        for r in (0.0, 0.2, 0.4, 0.6)
    ]
    run = CellRun(cell="grpo", seed=0, evals={"after": {"accuracy": 0.7}}, rows=rows, folder=Path())
    line = online.curve(run, 1000)  # a window of 100 tokens holds one step
    assert line == [(0, 0.0), (100, 0.2), (200, 0.4), (300, 0.6), (400, 0.7)]
    assert online.reached(line, 0.4) == 200 and online.reached(line, 0.8) is None
    assert online.mean_curve([line, line], 400, points=2) == [(0, 0.0), (200, 0.4), (400, 0.7)]
    found = online.summary({"grpo": [line], "other": [line[:2]]}, {"grpo": [run], "other": [run]})
    assert (
        found["grpo"]["share_of_grpo"] == [1.0]
        and found["other"]["share_of_grpo"] == [None]
        and found["grpo"]["extra"] == 0.1
    )


def test_a_mark_counts_in_its_step_alone_and_only_on_a_right_sum() -> None:
    marked = script("working").marked
    assert marked("k:7+15=22;z:22+4=26", "26") == 1.0 == marked("z:7+15=22;k:22+4=26", "26", step=0)
    wrong = (
        "z:7+15=22;k:22+4=26",
        "k:7+15=22;z:22+4=16",
        "k:7+15=22;zz:22+4=26",
        "z:22+4=26;",
        "26",
        "",
    )
    assert [marked(text, "26") for text in wrong] == [0.0] * 6
    assert marked("k:7+15=22;z:22+4=26", "26", finished=False) == 0.0


def test_the_kept_checkpoints_of_a_run_sit_the_exam(tmp_path: Path) -> None:
    """A run of two steps: its curve goes from the model it began with to the one it ended with, over the tokens it wrote."""
    small = [
        "model.config.hidden_size=8", "model.config.intermediate_size=8", "model.config.num_hidden_layers=1",
        "tasks.eval_set.size=4", "stages.sft.steps=1", "stages.sft.batch_size=2", "stages.rl.steps=2",
        *(f"stages.{name}.sampling.max_tokens=8" for name in ("before", "rl", "after")),
    ]  # fmt: skip
    recipe, common, _, methods = online.TASKS["late"]
    runs = run_study(
        str(FOLDER / f"{recipe}.yaml"), {"grpo": methods["grpo"]}, seeds=[0], folder=tmp_path,
        common=[*common, *small], start_per_seed=False,
    )  # fmt: skip
    [line] = [online.held_out(run) for run in runs]
    spent = [online.written(row) for row in runs[0].rows]
    assert [at for at, _ in line] == [0, sum(spent), sum(spent)] and spent[0] > 0
    assert line == online.held_out(runs[0])  # what is there is read


def test_the_factor_is_how_many_times_more_problems_sft_needs() -> None:
    def accuracy(problems: float) -> float:
        return 0.1 + 0.1 * math.log2(problems)

    sft = {size: {0: accuracy(size), 1: accuracy(size) - 0.02} for size in (1, 2, 4, 8, 16, 32)}
    curves = {"sft": sft} | {
        method: {4: {0: accuracy(4 * 3), 1: accuracy(4 * 3) - 0.02}} for method in reproduce.METHODS
    }
    curves["dpo, whole answers"] = {4: {0: accuracy(4 / 3), 1: 0.99}}
    found = reproduce.factors(curves)
    assert found["rft"]["median"] == pytest.approx(3, rel=0.05) and found["rft"]["beyond_sft"] == 0
    assert found["dpo, whole answers"]["least"] == pytest.approx(1 / 3, rel=0.05)
    assert (
        math.isinf(found["dpo, whole answers"]["largest"])
        and found["dpo, whole answers"]["beyond_sft"] == 1
    )
    assert "1/2 beyond SFT" in str([*reproduce.show(curves, found).columns[-1].cells])
    drawing = ElementTree.fromstring(reproduce.svg(curves))
    assert len(drawing.findall(".//{*}polyline")) == len(curves)


def test_a_fallen_accuracy_counts_as_noise() -> None:
    assert reproduce.needed({0: 0.0, 2: 0.2, 4: 0.6, 8: 0.5, 16: 0.8}, 0.7) == pytest.approx(
        8 * 2**0.5, rel=1e-6
    )
    assert reproduce.needed({2: 0.2, 4: 0.6}, 0.1) == 2
