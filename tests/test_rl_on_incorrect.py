"""The reproduction of arXiv 2406.14532: its recipes are valid and differ where they say, its factor is right on a known curve."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from rlcore.analysis.study import CellRun, run_study
from rlcore.plugin import import_file
from rlcore.recipe.check import check
from rlcore.recipe.load import load
from rlcore.types import Group, Rollout, Task, Verdict

FOLDER = Path(__file__).resolve().parent.parent / "recipes/papers/rl_on_incorrect"


def script(name: str) -> ModuleType:
    return import_file(FOLDER / f"{name}.py")


reproduce, online, efficiency = script("reproduce"), script("compare_online"), script("efficiency")
spurious = script("spurious")


@pytest.mark.parametrize("task", reproduce.TASKS.values(), ids=reproduce.TASKS)
def test_every_method_has_a_valid_recipe_that_ends_in_the_same_evaluations(
    task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where there is no folder runs/, the run that comes first is not yet missed
    settings = [("base", *task.base)]
    for method in [task.sft, *task.methods.values()]:
        for value in method.values:
            changes = (*task.changes, *method.changes, f"{method.key}={value}")
            settings.append((method.recipe, *changes))
    assert len(set(settings)) == len(settings)
    evaluations = set()
    for recipe, *changes in settings:
        loaded = load(str(FOLDER / f"{recipe}.yaml"), changes)
        assert check(loaded)
        assert [stage.name for stage in loaded.stages[-2:]] == list(reproduce.EVALUATIONS)
        evaluations.add("".join(stage.model_dump_json() for stage in loaded.stages[-2:]))
    assert len(evaluations) == 1


def test_a_run_of_the_study_is_trained_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []

    def train(recipe, **options: object) -> None:
        trained.append(recipe.name)
        folder = tmp_path / "runs" / recipe.name
        folder.mkdir(parents=True)
        accuracy = {"validation": recipe.seed / 10, "eval_set": 0.5}
        rows = [json.dumps({"stage": name, "accuracy": accuracy[name], "reward/copied": 0.3}) for name in accuracy]
        (folder / "eval.jsonl").write_text("\n".join(rows) + "\n")

    monkeypatch.setattr(reproduce, "train", train)
    for _ in range(2):
        runs = reproduce.Runs(tmp_path)
        found = reproduce.measure(runs, [0, 1], quick=True)
        assert found.accuracy["sft"] == {size: {0: 0.5, 1: 0.5} for size in (0, 8, 32)}
        assert found.settings["sft"] == {8: "40", 32: "40"}
        assert set(found.accuracy) == {"sft", *reproduce.CHAIN.quick}
        assert found.copied["rft"] == {8: {0: 0.3, 1: 0.3}}
    assert len(trained) == len(set(trained)) == 1 + 2 * 2 * 2 + 3 * 2
    assert runs.results.values("sft-8-40", "validation") == [0.0, 0.1]
    assert "30.0%" in reproduce.show(runs, found)


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
    line = online.training_curve(run, 1000)  # a window of 100 tokens holds one step
    assert line == [(0, 0.0), (100, 0.2), (200, 0.4), (300, 0.6), (400, 0.7)]
    assert online.reached(line, 0.4) == 200 and online.reached(line, 0.8) is None
    assert online.mean_curve([line, line], 400, points=2) == [(0, 0.0), (200, 0.4), (400, 0.7)]
    relative = online.tokens_relative_to_grpo({"grpo": [line], "other": [line[:2]]})
    assert relative == {"grpo": [1.0], "other": [None]}
    assert online.MEASURES["extra tokens"](run) == 0.1 * online.MEASURES["tokens"](run)


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


def test_the_kept_checkpoints_of_a_run_are_evaluated(tmp_path: Path) -> None:
    """A run of two steps: its curve goes from the model it began with to the one it ended with, over the tokens it wrote."""
    small = [
        "model.config.hidden_size=8", "model.config.intermediate_size=8", "model.config.num_hidden_layers=1",
        "tasks.eval_set.size=4", "stages.sft.steps=1", "stages.sft.batch_size=2", "stages.rl.steps=2",
        *(f"stages.{name}.sampling.max_tokens=8" for name in ("before", "rl", "after")),
    ]  # fmt: skip
    recipe, common, _, methods = online.TASKS["late"]
    runs: list[CellRun] = []

    def curves(run: CellRun) -> dict[str, list[tuple[float, float]]]:
        runs.append(run)
        return {"accuracy": online.held_out_curve(run)}

    results = run_study(
        str(FOLDER / f"{recipe}.yaml"), {"grpo": methods["grpo"]}, seeds=[0], folder=tmp_path,
        measures=online.MEASURES, curves=curves, common=[*common, *small],
    )  # fmt: skip
    [line] = results.curves("grpo", "accuracy")
    spent = [online.generated(row) for row in runs[0].rows]
    assert [at for at, _ in line] == [0, sum(spent), sum(spent)] and spent[0] > 0
    assert line == online.held_out_curve(runs[0])  # finished evaluations are read


def test_the_factor_is_how_many_times_more_problems_sft_needs() -> None:
    def accuracy(problems: float) -> float:
        return 0.1 + 0.1 * math.log2(problems)

    sft = {size: {0: accuracy(size), 1: accuracy(size) - 0.02} for size in (1, 2, 4, 8, 16, 32)}
    curves = {
        "sft": sft,
        "three": {size: {0: accuracy(size * 3), 1: accuracy(size * 3) - 0.02} for size in (2, 4, 8)},
        "a third": {4: {0: accuracy(4 / 3), 1: accuracy(4 / 3) - 0.02}},
        "beyond": {4: {0: accuracy(4 * 4), 1: 0.99}, 8: {0: 0.9, 1: 0.9}},
    }
    found = efficiency.factors(curves, tasks=2000)
    assert found["three"]["factor"] == pytest.approx(3, rel=0.05) and found["three"]["beyond_sft"] == 0
    assert 1 < found["three"]["low"] < 3 < found["three"]["high"] < 6
    assert found["a third"]["factor"] == pytest.approx(1 / 3, rel=0.05)
    assert found["beyond"]["beyond_sft"] == 2 and found["beyond"]["factor"] == pytest.approx((8 * 4) ** 0.5)
    noisy = efficiency.factors(curves, tasks=50)
    assert noisy["three"]["high"] - noisy["three"]["low"] > found["three"]["high"] - found["three"]["low"]
    assert "at least, as at 2 of 2 sizes SFT never gets there" in efficiency.table(curves, found)
    drawing = ElementTree.fromstring(efficiency.svg(curves))
    assert len(drawing.findall(".//{*}polyline")) == len(curves)


def test_a_fallen_accuracy_counts_as_noise() -> None:
    assert efficiency.needed({0: 0.0, 2: 0.2, 4: 0.6, 8: 0.5, 16: 0.8}, 0.7) == pytest.approx(
        8 * 2**0.5, rel=1e-6
    )
    assert efficiency.needed({2: 0.2, 4: 0.6}, 0.1) == 2


def test_sums_whose_hints_are_right_as_often_as_said() -> None:
    tasks = list(spurious.sums(size=400, hints_right=0.9, seed=3))
    right = total = 0
    for task in tasks:
        steps = task.demonstration.split(";")[:-1]
        assert task.demonstration.endswith(f"={task.answer}")
        carried = [int(step[2]) for step in steps[1:]]
        assert carried == [int(step[4]) for step in steps[:-1]], "what is carried is the tens digit of the step before"
        for step in steps:
            assert sum(map(int, step[:3])) == int(step[4:])
        pairs = list(zip(task.columns["hints"], carried, strict=True))
        right += sum(hint == carry for hint, carry in pairs)
        total += len(pairs)
    assert right / total == pytest.approx(0.9, abs=0.03)
    held_out = {task.prompt.replace("?0", "").replace("?1", "") for task in spurious.sums(split="heldout", size=400)}
    assert not held_out & {task.prompt.replace("?0", "").replace("?1", "") for task in tasks}


def test_a_teacher_who_copies_hints_is_seen_by_the_measure() -> None:
    for copies, low, high in ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.5, 0.4, 0.6)):
        tasks = spurious.sums(size=300, copies=copies, hints_right=0.5)
        rates = [spurious.copied(task.demonstration, task.columns["hints"]) for task in tasks]
        rates = [rate for rate in rates if rate is not None]
        assert low <= sum(rates) / len(rates) <= high
        right = [task.demonstration.rpartition("=")[2] == task.answer for task in tasks]
        assert all(right) if copies == 0 else not all(right)


def test_pairs_of_the_largest_edit_distance() -> None:
    texts = {"abcd": 1.0, "abce": 0.0, "wxyz": 0.0, "abcf": 1.0}
    rollouts = [
        Rollout.from_tokens(id=text, task_id="t", token_ids=[0, *text.encode()], mask=[False] + [True] * 4, logprobs=[0.0] * 5, text=text)
        for text in texts
    ]  # fmt: skip
    group = Group(task=Task(id="t", prompt="p"), rollouts=rollouts, verdicts=[Verdict(value=v) for v in texts.values()])
    pairs = list(spurious.farthest(group))
    assert [bytes(pair.chosen_ids) for pair in pairs] == [b"abcd", b"abcf"]
    assert {bytes(pair.rejected_ids) for pair in pairs} == {b"wxyz"}
