"""Trials that are stopped early or run cheaply first, failed ones, and what the search is told of them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from rlcore.analysis.sweep import sweep as sweeps
from rlcore.analysis.sweep.early import EarlyStop, TrialStopped, Watch, rank_correlation, ranks
from rlcore.analysis.sweep.shown import sweep_table
from rlcore.analysis.sweep.space import Dimension
from rlcore.cli.main import main
from rlcore.errors import RecipeError, RunError
from rlcore.run.folder import RunFolder, read_rows
from tests.run.whole import write_recipe
from tests.sweep.test_sweep import SMALL, sweep_of

RATES = "stages.sft.optim.lr=[1e-2, 8e-3, 1e-6, 9e-3]"
GUIDE = EarlyStop.parse(["low:sft/grad_norm", "high:sft/loss"], after=2)


def guide(norm: float | None, loss: float | None) -> dict[str, float | None]:
    return {"sft/grad_norm": norm, "sft/loss": loss}


def test_ranks_and_their_correlation_are_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for _ in range(20):
        left, right = rng.integers(0, 6, 9).tolist(), rng.normal(size=9).tolist()
        assert ranks(left) == pytest.approx(stats.rankdata(left) - 1)
        assert rank_correlation(left, right) == pytest.approx(stats.spearmanr(left, right).statistic)
    assert rank_correlation([1, 2], [1, 2]) is None and rank_correlation([1, 1, 1], [1, 2, 3]) is None


def test_the_guides_rule_by_hand() -> None:
    """Gradient norms 1, 2, 3, 4 with losses 4, 3, 2, 1: the first trial is the best by both signs."""
    before = [guide(float(n), 5.0 - n) for n in (1, 2, 3, 4)]
    assert GUIDE.verdict(guide(2.5, 2.5), before) is None  # two of four are better
    why = GUIDE.verdict(guide(3.5, 1.5), before)  # three are
    assert why == "after 2 steps 3 of 4 trials before it were better (sft/grad_norm 3.5, sft/loss 1.5)"
    assert GUIDE.verdict(guide(3.5, 4.5), before) is None  # a high loss makes up for the norm
    assert GUIDE.verdict(guide(9.0, 0.1), before[:3]) is None  # one of the first
    assert "not finite" in (GUIDE.verdict(guide(None, None), before) or "")
    before[0] = guide(None, None)
    assert GUIDE.verdict(guide(2.5, 2.5), before) is None


def test_one_sign_is_optunas_median_rule() -> None:
    optuna = pytest.importorskip("optuna")
    rule = EarlyStop({"sft/loss": True}, after=1, first=1)
    rng = np.random.default_rng(1)
    decisions = set()
    for _ in range(40):
        *before, own = rng.integers(0, 9, 6).astype(float).tolist()
        study = optuna.create_study(pruner=optuna.pruners.MedianPruner(n_startup_trials=1))
        for value in before:
            trial = study.ask()
            trial.report(value, 0)
            study.tell(trial, value)
        trial = study.ask()
        trial.report(own, 0)
        stopped = rule.verdict({"sft/loss": own}, [{"sft/loss": value} for value in before]) is not None
        assert stopped == trial.should_prune(), (before, own)
        decisions.add(stopped)
    assert decisions == {True, False}


@pytest.mark.parametrize(
    ("signs", "said"),
    [
        (["sft/loss"], "write low:STAGE/METRIC"),
        (["low:loss"], "write low:STAGE/METRIC"),
        (["low:sft/loss", "high:rl/reward/mean"], "several stages"),
    ],
)
def test_signs_that_mean_nothing(signs: list[str], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        EarlyStop.parse(signs)


def test_a_resumed_run_is_judged_by_its_first_steps(tmp_path: Path) -> None:
    """The rows from before a kill count, and later ones do not."""
    run = RunFolder(tmp_path)
    rows = [{"stage": "other", "loss": 9.0}] + [{"stage": "sft", "loss": float(n)} for n in (1, 3, 100)]
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rule = EarlyStop({"sft/loss": True}, after=2, first=1)
    watch = Watch(rule, run, [{"sft/loss": 1.0}])
    watch.on_step(1, rows[0])
    assert watch.signs is None
    with pytest.raises(TrialStopped, match="1 of 1 trials before it were better"):
        watch.on_step(4, rows[3])
    assert watch.signs == {"sft/loss": 2.0}
    assert EarlyStop({"sft/loss": True}, after=4).signs(run) is None
    with pytest.raises(RecipeError, match="no number 'los'"):
        EarlyStop({"sft/los": True}, after=2).signs(run)


def test_a_rule_that_no_stage_can_follow_is_refused(tmp_path: Path) -> None:
    for stop, said in (
        (EarlyStop({"sfft/loss": True}), "'sfft', which is no stage with steps of the recipe: sft, rl"),
        (EarlyStop({"sft/loss": True}, after=4), "--stop-after 4 is more than the 3 steps of stage sft"),
    ):
        with pytest.raises(RecipeError, match=said):
            sweeps.run_sweep(sweep_of(tmp_path, RATES, stop=stop))
    assert not list(tmp_path.glob("sweep/trial*"))


def test_a_bad_trial_is_stopped_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = EarlyStop({"sft/loss": True}, after=2, first=2)
    results = sweeps.run_sweep(sweep_of(tmp_path, RATES, stop=rule))
    assert [len(cell.runs) for cell in results.cells.values()] == [1, 1, 0, 1]
    assert "2 of 2 trials before it were better" in results.derived["stopped"]["trial_002"]
    runs = [read_rows(RunFolder(tmp_path / f"sweep/trial_00{n}_0").metrics) for n in range(4)]
    assert [len(rows) for rows in runs] == [4, 4, 2, 4]
    for number, rows in enumerate(runs):
        mean = (rows[0]["loss"] + rows[1]["loss"]) / 2
        assert results.derived["early"][f"trial_00{number}"]["sft/loss"] == pytest.approx(mean, rel=1e-12)
    table = sweep_table(results)
    assert "stopped: after 2 steps" in table.splitlines()[5]
    assert "Rank correlation of the first steps with the value, over 3 trials: sft/loss" in table
    assert results.derived["told"]["trial_002"] == "stopped"
    monkeypatch.setattr(sweeps, "train", lambda *_, **__: pytest.fail("a trial ran again"))
    assert sweeps.run_sweep(sweep_of(tmp_path, RATES, stop=rule)).derived == results.derived
    with pytest.raises(RunError, match="other settings"):
        sweeps.run_sweep(sweep_of(tmp_path, RATES))


def test_the_best_of_cheap_trials_are_run_dearly(tmp_path: Path) -> None:
    steps = Dimension.parse("stages.sft.steps=[1, 3]")
    results = sweeps.run_sweep(sweep_of(tmp_path, RATES, fidelity=steps, eta=2))
    cheap = {n: results.values(f"trial_00{n}", "value")[0] for n in range(4)}
    best = sorted(cheap, key=cheap.__getitem__)[:2]
    promoted = [cell for cell in results.cells if "rung" in cell]
    assert promoted == [f"trial_00{n}-rung1" for n in best]
    for number in range(4):
        lengths = [
            sum(row["stage"] == "sft" for row in read_rows(RunFolder(tmp_path / f"sweep/{name}_0").metrics))
            for name in (f"trial_00{number}", f"trial_00{number}-rung1")
            if name in results.cells
        ]
        assert lengths == ([1, 3] if number in best else [1])
    lines = sweep_table(results).splitlines()
    assert "-rung1" in lines[2] and "-rung1" in lines[3] and "-rung1" not in lines[4]
    assert any(line.startswith("rung 0: 4 trials") and "rung 1: 2 trials" in line for line in lines)
    assert "rung 1" in (tmp_path / "sweep/sweep.svg").read_text()


@pytest.mark.parametrize(
    ("fidelity", "said"),
    [
        ("stages.sft.steps=[3]", "two values or more"),
        ("stages.sft.steps={int: [1, 3]}", "a list of two values"),
        ("stages.sft.optim.lr=[1e-3, 1e-2]", "to --over and to --fidelity"),
        ("stages.sft.stepps=[1, 3]", "stepps"),
    ],
)
def test_a_wrong_fidelity_is_met_before_anything_runs(tmp_path: Path, fidelity: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        sweeps.run_sweep(sweep_of(tmp_path, RATES, fidelity=Dimension.parse(fidelity)))
    assert not list(tmp_path.glob("sweep/trial*"))


def test_halving_finds_the_best_of_a_table_for_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replayed over 20 tables of 27 trials whose cheap values (1 and 3 steps of 9) are noisy: as good as half
    of the dear ones at random would be expected to find, for 27 + 9 x 3 + 3 x 9 = 81 steps of 243."""
    write_recipe(tmp_path)
    choices = Dimension.parse(f"seed={list(range(100, 127))}")
    steps = Dimension.parse("stages.sft.steps=[1, 3, 9]")
    found = 0
    for table in range(20):
        rng = np.random.default_rng(table)
        truth = rng.normal(size=27)
        spent = []

        def run(sweep, results, trial, seed, overrides, truth=truth, rng=rng, spent=spent) -> float:
            cost = int(overrides[-1].partition("=")[2])
            spent.append(cost)
            return float(truth[int(trial[6:9])] + rng.normal() * {1: 0.5, 3: 0.25, 9: 0}[cost])

        monkeypatch.setattr(sweeps, "_run", run)
        folder = tmp_path / str(table)
        sweep = sweeps.Sweep(
            recipe=str(tmp_path / "tiny.yaml"), space=[choices], fidelity=steps, metric="sft/loss",
            folder=folder, say=lambda _: None,
        )  # fmt: skip
        results = sweeps.run_sweep(sweep)
        assert sum(spent) == 81 and sorted(spent) == [1] * 27 + [3] * 9 + [9] * 3
        best = sweep_table(results).splitlines()[2].split("|")[1].strip()
        found += int(best[6:9]) == int(truth.argmax())
    # nine trials at full length cost as much: drawn at random they hold the best in a third of the tables
    assert found >= 14


def test_an_error_of_other_code_ends_one_trial_and_is_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the search was told of it stays, so that the trials after it are proposed again."""
    train, broken = sweeps.train, [True]

    def breaks(recipe, **more):
        if broken[0] and recipe.name == "trial_000_0":
            raise KeyError("of a library")
        return train(recipe, **more)

    monkeypatch.setattr(sweeps, "train", breaks)
    over = "stages.sft.optim.lr={log: [1e-4, 1e-2]}"
    settings = {"search": "tpe", "trials": 3, "metric": "sft/loss"}
    first = sweeps.run_sweep(sweep_of(tmp_path, over, **settings))
    assert first.derived["failed"] == {"trial_000": "KeyError: 'of a library'"}
    assert "in breaks" in (tmp_path / "sweep/trial_000_0.error.txt").read_text()
    assert [len(cell.runs) for cell in first.cells.values()] == [0, 1, 1]
    assert sweeps.run_sweep(sweep_of(tmp_path, over, **settings)).derived == first.derived
    broken[0] = False
    again = sweeps.run_sweep(sweep_of(tmp_path, over, retry=True, **settings))
    assert again.derived["failed"] == {} and len(again.cells["trial_000"].runs) == 1
    assert again.derived["told"]["trial_000"] is None
    assert [c.overrides for c in again.cells.values()] == [c.overrides for c in first.cells.values()]


def test_proposals_stay_when_seeds_are_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With more seeds the means move; a search that were told them would propose other values than it did."""

    def run(sweep, results, trial, seed, overrides) -> float:
        rate = math.log10(float(overrides[0].partition("=")[2]))
        return -abs(rate + 3) + seed * (7 if trial == "trial_000" else 0)

    monkeypatch.setattr(sweeps, "_run", run)
    over = "stages.sft.optim.lr={log: [1e-4, 1e-2]}"
    settings = {"search": "tpe", "metric": "sft/loss", "maximise": True}
    first = sweeps.run_sweep(sweep_of(tmp_path, over, trials=14, **settings))
    more = sweeps.run_sweep(sweep_of(tmp_path, over, trials=16, seeds=2, **settings))
    assert len(more.cells) == 16
    for name, cell in first.cells.items():
        assert more.cells[name].overrides == cell.overrides


def test_the_command_stops_and_promotes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path)
    options = ["--stop-on", "low:sft/loss", "--stop-after", "1", "--stop-share", "0", "--fidelity", "stages.sft.steps=[1, 2]"]
    arguments = ["sweep", str(recipe), *SMALL, "--over", "stages.sft.optim.lr=[1e-3, 1e-2]", "--eta", "2", *options]
    assert main([*arguments, "--minimise", "sft/loss", "--folder", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "-rung1" in printed and "| stages.sft.steps |" in printed
    settings = json.loads((tmp_path / "out/results.json").read_text())["settings"]
    assert settings["stop"]["after"] == 1 and settings["fidelity"]["eta"] == 2
    with pytest.raises(SystemExit):
        main([*arguments, "--stop-share", "2"])
    assert "'2' is no number from 0 to 1" in capsys.readouterr().err
