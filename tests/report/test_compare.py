"""`rlcore compare` on runs whose evaluations were written by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from rlcore.analysis.compare import compare, recipe_differences, side
from rlcore.cli.main import main
from rlcore.recipe.load import validate
from rlcore.recipe.yaml_text import read_yaml
from rlcore.run.folder import RunFolder
from tests.run.whole import TINY


def evaluated_run(
    path: Path, scores: Mapping[str, Sequence[float]], *, stage: str = "after", lr: str = "1e-3"
) -> RunFolder:
    """A run with one evaluation. scores: task -> first reward of each completion; the prompt is the task's name."""
    run = RunFolder(path)
    if not run.recipe.exists():
        text = TINY.replace("optim: {lr: 1e-3}", f"optim: {{lr: {lr}}}")
        run.start(validate(read_yaml(text, "tiny"), where="tiny"), resume=False, overwrite=False)
        run.release()
    rows = [
        {"task": task.partition("@")[0], "prompt": task, "mode": "sampled", "score": score,
         "value": score, "parts": {"math": score}, "text": f"{path.name} says {task}", "finish": "stop", "mask": [1]}
        for task, of_task in scores.items() for score in of_task
    ]  # fmt: skip
    greedy = {**rows[0], "mode": "greedy", "score": 0.0}
    name = f"000006_03_{stage}_eval_set"
    run.write_evaluation(name, 0, rows[::2])
    run.write_evaluation(name, 1, [*rows[1::2], greedy])
    flat = [score for of_task in scores.values() for score in of_task]
    run.log_eval(
        {"stage": stage, "stage_index": 3, "step": 6, "eval_set": "eval_set", "tasks": len(scores),
         "completions": len(flat), "accuracy": sum(flat) / len(flat), "greedy/accuracy": 0.0, "rollouts": name,
         "intervals": {"accuracy": [0.1, 0.9]}}
    )  # fmt: skip
    return run


def single(values: str) -> dict[str, list[float]]:
    return {f"task{i}": [float(value)] for i, value in enumerate(values)}


def test_tasks_are_compared_in_pairs(tmp_path: Path) -> None:
    evaluated_run(tmp_path / "a", single("0000011111"))
    evaluated_run(tmp_path / "b", single("1111011110"))
    [pair] = compare(side(str(tmp_path / "a")), side(str(tmp_path / "b")))
    assert (pair.tasks, pair.unpaired) == (10, 0)
    assert pair.difference == pytest.approx(0.3)
    assert pair.p_value == pytest.approx(0.375)  # 4 gained, 1 lost
    assert sorted(c.task for c in pair.changes if c.gained) == [f"task{i}" for i in range(4)]
    assert [c.task for c in pair.changes if not c.gained] == ["task9"]
    low, high = pair.interval
    assert low < 0.3 < high and high - low == pytest.approx(0.9, abs=0.15)


def test_a_task_is_its_prompt_and_not_only_its_id(tmp_path: Path) -> None:
    """task1 has another prompt in the second run: it is another task."""
    evaluated_run(tmp_path / "a", {"task0": [0.0], "task1": [0.0]})
    evaluated_run(tmp_path / "b", {"task0": [1.0], "task1@other": [1.0]})
    [pair] = compare(side(str(tmp_path / "a")), side(str(tmp_path / "b")))
    assert (pair.tasks, pair.unpaired, pair.difference) == (1, 2, 1.0)


def test_of_several_completions_the_task_is_the_unit(tmp_path: Path) -> None:
    evaluated_run(tmp_path / "a", {"x": [0.0, 0.0, 0.0, 1.0], "y": [1.0, 1.0, 1.0, 1.0]})
    evaluated_run(tmp_path / "b", {"x": [1.0, 1.0, 0.0, 1.0], "y": [1.0, 1.0, 1.0, 0.0]})
    [pair] = compare(side(str(tmp_path / "a")), side(str(tmp_path / "b")))
    assert pair.p_value is None and pair.difference == pytest.approx(0.125)
    assert [(c.task, c.before.mean, c.after.mean) for c in pair.changes] == [("x", 0.25, 0.75)]


def test_what_the_command_prints(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    evaluated_run(a, single("001"), stage="before")
    evaluated_run(a, single("011"))
    evaluated_run(b, single("110"), lr="1e-4")
    differences = recipe_differences([side(str(a)), side(str(b))])
    assert differences == {"stages.2.optim.lr": [1e-3, 1e-4]}

    main(["compare", str(a), str(b), "--json"])
    record = json.loads(capsys.readouterr().out)
    assert record["recipe"] == differences
    assert [row["accuracy"] for row in record["results"]] == pytest.approx([2 / 3, 2 / 3])
    [pair] = record["comparisons"]
    assert [one["task"] for one in pair["gained"]] == ["task0"]
    assert [one["task"] for one in pair["lost"]] == ["task2"] and pair["p_value"] == 1

    main(["compare", str(a), str(b), "--show", "lost"])
    said = capsys.readouterr().out
    assert "stages.2.optim.lr" in said and "McNemar's exact test: p = 1" in said
    assert "a says task2" in said and "b says task2" in said and "says task0" not in said
    main(["compare", f"{a}:before", f"{a}:after"])
    said = capsys.readouterr().out
    assert "the recipes are the same" in said and "1 tasks gained, 0 lost" in said


def test_why_there_is_no_comparison_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    a, b, c, d = (tmp_path / name for name in "abcd")
    evaluated_run(a, single("01"))
    evaluated_run(b, {"other": [1.0]})
    evaluated_run(c, single("11"))
    for path in (c / "evaluations").iterdir():
        path.unlink()
    run = evaluated_run(d, single("01"))
    [row] = run.evaluations()
    run.log_eval({**row, "eval_set": "more", "during": "rl", "reward/frac_unscored": 0.5})
    assert main(["compare", *map(str, (a, b, c, d))]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"eval_set: {a} and {b} are not compared, they have no task in common" in said
    assert f"eval_set: {a} and {c} are not compared, {c} kept no completions of it" in said
    assert f"more: {a} and {d} are not compared, {a} has no evaluation of it" in said
    assert "after, during rl" in said and "1 of 2" in said
    main(["compare", str(a), str(b), "--json"])
    [pair] = json.loads(capsys.readouterr().out)["comparisons"]
    assert pair["reason"] == "they have no task in common"


def test_a_run_alone_shows_all_its_evaluations(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    evaluated_run(tmp_path / "a", single("00"), stage="before")
    evaluated_run(tmp_path / "a", single("01"))
    assert main(["compare", str(tmp_path / "a")]) == 0
    said = capsys.readouterr().out
    assert "before" in said and "after" in said and "greedy/accuracy" in said


def test_what_cannot_be_compared_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    evaluated_run(tmp_path / "a", single("01"))
    assert main(["compare", f"{tmp_path / 'a'}:late"]) == 2
    assert "has no evaluation called 'late': there are after" in capsys.readouterr().err
    assert main(["compare", str(tmp_path)]) == 2
    assert "is no run folder" in capsys.readouterr().err
