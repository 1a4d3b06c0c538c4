"""A search over a recipe: what is proposed, what is run once and never again, and what fails."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from rlcore.analysis.sweep import sweep as sweeps
from rlcore.analysis.sweep.search import proposals
from rlcore.analysis.sweep.shown import sweep_table
from rlcore.analysis.sweep.space import Dimension, override
from rlcore.cli.main import main
from rlcore.errors import RecipeError, RunError
from rlcore.recipe.load import load
from rlcore.run.folder import RunFolder, read_rows
from tests.run.whole import write_recipe

SMALL = ["stages.sft.steps=3", "stages.sft.optim.schedule=constant", "stages.rl.steps=1"]


def proposed(space: list[Dimension], search: str, values, n: int, seed: int = 0) -> list[dict]:
    """n proposals, each told what `values` makes of it."""
    tried = []
    for proposal, tell in itertools.islice(proposals(space, search, maximise=True, seed=seed), n):
        tell(values(proposal), False)
        tried.append(proposal)
    return tried


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lr", "write key="),
        ("lr=1e-4", "a list of values"),
        ("lr=[]", "a list of values"),
        ("lr={log: [0, 1]}", "above 0"),
        ("lr={uniform: [1, 0]}", "the smaller one first"),
        ("n={int: [1, 2.5]}", "two whole numbers"),
        ("w={simplex: [web]}", "two names or more"),
        ("lr={logg: [1, 2]}", "a list of values"),
        ("lr=[1", "cannot be read"),
        ("lr=[1e-4, 0.0001]", "stands there twice"),
    ],
)
def test_values_that_mean_nothing(text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Dimension.parse(text)


def test_a_grid_is_every_combination() -> None:
    space = [Dimension.parse("a=[1, 2]"), Dimension.parse("b=[x, {use: y}]")]
    assert proposed(space, "grid", lambda p: 0.0, 9) == [
        {"a": 1, "b": "x"}, {"a": 1, "b": {"use": "y"}}, {"a": 2, "b": "x"}, {"a": 2, "b": {"use": "y"}},
    ]  # fmt: skip
    with pytest.raises(RecipeError, match="a grid needs a list of values for lr"):
        proposals([Dimension.parse("lr={log: [1, 2]}")], "grid", maximise=True, seed=0)


@pytest.mark.parametrize("search", ["random", "tpe", "gp"])
def test_proposals_lie_where_they_may_and_are_the_same_again(search: str) -> None:
    space = [Dimension.parse(text) for text in (
        "lr={log: [1e-5, 1e-2]}", "t={uniform: [0.5, 1.5]}", "n={int: [4, 6]}", "kind=[a, b]", "w={simplex: [x, y, z]}",
    )]  # fmt: skip

    def value(one: dict) -> float | None:
        return None if one["n"] == 5 else -abs(one["t"] - 1) - one["w"]["x"]

    tried = proposed(space, search, value, 12)
    assert tried == proposed(space, search, value, 12)
    for one in tried:
        assert 1e-5 <= one["lr"] <= 1e-2 and 0.5 <= one["t"] <= 1.5
        assert one["n"] in (4, 5, 6) and one["kind"] in ("a", "b")
        assert set(one["w"]) == {"x", "y", "z"} and min(one["w"].values()) >= 0
        assert sum(one["w"].values()) == pytest.approx(1, abs=1e-9)


def test_random_shares_are_even_over_the_simplex() -> None:
    """Each share of a flat Dirichlet over three names has the mean 1/3 and the variance 1/18."""
    shares = [p["w"] for p in proposed([Dimension.parse("w={simplex: [x, y, z]}")], "random", lambda p: 0.0, 1500)]
    for name in "xyz":
        column = np.array([one[name] for one in shares])
        assert abs(column.mean() - 1 / 3) < 4 * (1 / 18 / 1500) ** 0.5
        assert abs(column.var() - 1 / 18) < 0.008


@pytest.mark.parametrize("search", ["tpe", "gp"])
def test_a_bayesian_search_finds_the_best_of_a_table_sooner_than_chance(search: str) -> None:
    """A mixture whose loss is known: within 24 queries, the best value over eight searches."""
    space = [Dimension.parse("w={simplex: [web, math, code]}")]
    best = np.array([0.15, 0.7, 0.15])

    def value(one: dict) -> float:
        return -float(((np.array(list(one["w"].values())) - best) ** 2).sum())

    def reached(kind: str) -> float:
        return float(np.mean([max(map(value, proposed(space, kind, value, 24, seed))) for seed in range(8)]))

    assert reached(search) > 0.6 * reached("random")  # nearer to 0


def sweep_of(tmp_path: Path, *over: str, **settings) -> sweeps.Sweep:
    return sweeps.Sweep(
        recipe=str(write_recipe(tmp_path)), overrides=SMALL, space=[Dimension.parse(text) for text in over],
        folder=tmp_path / "sweep", **{"metric": "sft/loss", "maximise": False, **settings},
    )  # fmt: skip


def test_finished_trials_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    over = "stages.sft.optim.lr=[1e-6, 1e-2]"
    first = sweeps.run_sweep(sweep_of(tmp_path, over, trials=1))
    assert list(first.cells) == ["trial_000"]
    calls: list[str] = []
    train = sweeps.train
    monkeypatch.setattr(sweeps, "train", lambda recipe, **more: (calls.append(recipe.name), train(recipe, **more)))
    results = sweeps.run_sweep(sweep_of(tmp_path, over, seeds=2))
    assert calls == ["trial_000_1", "trial_001_0", "trial_001_1"]
    for number in range(2):
        losses = []
        for seed in range(2):
            rows = read_rows(RunFolder(tmp_path / f"sweep/trial_00{number}_{seed}").metrics)
            losses.append([row["loss"] for row in rows if row["stage"] == "sft"][-1])
        assert results.values(f"trial_00{number}", "value") == losses
    table = sweep_table(results).splitlines()
    assert table[0].split("|")[2].strip() == "stages.sft.optim.lr" and "0.01" in table[2] and "1e-06" in table[3]
    assert (tmp_path / "sweep/sweep.svg").read_text().startswith("<svg")
    with pytest.raises(RunError, match="other settings"):
        sweeps.run_sweep(sweep_of(tmp_path, "stages.sft.optim.lr=[1e-6, 1e-3]"))


def test_a_failed_trial_is_a_row_and_the_sweep_goes_on(tmp_path: Path) -> None:
    results = sweeps.run_sweep(sweep_of(tmp_path, "stages.sft.objective=[sft, grpo, dft]"))
    assert [len(cell.runs) for cell in results.cells.values()] == [1, 0, 1]
    assert "demonstrations have none" in results.derived["failed"]["trial_001"]
    assert "failed: stage sft: the objective 'grpo'" in sweep_table(results)
    stored = json.loads((tmp_path / "sweep/results.json").read_text())
    assert stored["derived"]["failed"].keys() == {"trial_001"}


def test_mistakes_end_a_sweep_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="optm"):
        sweeps.run_sweep(sweep_of(tmp_path, "stages.sft.optm.lr=[1e-3]"))
    with pytest.raises(RecipeError, match="set --trials"):
        sweeps.run_sweep(sweep_of(tmp_path, "stages.sft.optim.lr={log: [1e-4, 1e-2]}", search="tpe"))
    for values in ("[-1, 1e-3]", "[1e-3, 1e-2, -1]"):
        with pytest.raises(RecipeError, match="greater than 0"):
            sweeps.run_sweep(sweep_of(tmp_path, f"stages.sft.optim.lr={values}"))
    with pytest.raises(RecipeError, match="'stf/loss' is of no stage of the recipe; did you mean 'sft'"):
        sweeps.run_sweep(sweep_of(tmp_path, "stages.sft.optim.lr=[1e-3]", metric="stf/loss"))
    assert not list(tmp_path.glob("sweep/trial*"))
    with pytest.raises(RunError, match="no number 'los' of a stage 'sft'"):
        sweeps.run_sweep(sweep_of(tmp_path, "stages.sft.optim.lr=[1e-3]", metric="sft/los"))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path)
    arguments = ["sweep", str(recipe), *SMALL, "--over", "stages.sft.optim.lr={log: [1e-4, 1e-2]}", "--trials", "2"]
    assert main([*arguments, "--minimise", "sft/loss", "--folder", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "trial_001" in printed and "| stages.sft.optim.lr |" in printed and "sft/loss" in printed
    assert load(str(recipe), [override("stages.sft.optim.lr", 1e-3)]).stages[0].optim.lr == 1e-3


def test_a_run_that_diverged_has_no_value(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.metrics.write_text('{"stage": "sft", "loss": NaN}\n')
    with pytest.raises(RunError, match="sft/loss of the run .* has diverged"):
        sweeps.read_metric(run, "sft/loss")
