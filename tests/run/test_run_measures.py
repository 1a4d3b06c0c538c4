"""`rlcore measure` on runs that were trained here: its numbers follow from the completions that they keep."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from rlcore.analysis.run_measures import MEASURES
from rlcore.cli.main import main
from rlcore.errors import RecipeError
from rlcore.recipe.load import load
from rlcore.run.driver import train
from rlcore.run.folder import RunFolder, read_rows
from tests.run.whole import TINY

STAGES = """
stages:
  - {kind: sft, name: warm, tasks: demonstrations, steps: 8, batch_size: 16, eval_every: 2, optim: {lr: 1e-2}}
  - &eval {kind: eval, name: base, tasks: [eval_set, other], num_samples: 6,
     rewards: [{use: "PARTS:short"}, {use: "PARTS:liked", weight: 0}], scoring: {workers: 1}, sampling: {max_tokens: 10}}
  - {kind: sft, name: later, tasks: demonstrations, steps: 8, batch_size: 16, eval_every: 2, optim: {lr: 1e-2}}
  - {<<: *eval, name: trained}
  - {kind: eval, name: asked, tasks: eval_set, num_samples: 6, env: {use: reconsider, ask: "?", workers: 1},
     rewards: [{use: "PARTS:short"}, {use: "PARTS:short", name: first, turn: 1, weight: 0, optional: true}],
     scoring: {workers: 1}, sampling: {max_tokens: 6}}
"""
PARTS = """
from rlcore import reward

@reward
def short(completion, answer, **columns):
    return float(len(completion) % 3 == 0)

@reward
def liked(completion, answer, **columns):
    return len(completion) / 5
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("measured")
    (folder / "parts.py").write_text(PARTS)
    tasks = TINY.partition("stages:")[0] + (
        "  other: {use: arithmetic, split: heldout, size: 6, max_number: 3, terms: [2]}\n"
    )
    stages = STAGES.replace("PARTS", str(folder / "parts.py"))
    recipe = folder / "measured.yaml"
    recipe.write_text(tasks + stages + f"run: {{folder: {folder / 'runs'}}}\n")
    for name, steps in (("one", 8), ("two", 4)):
        changes = [f"name={name}", f"stages.warm.steps={steps}"]
        train(load(str(recipe), changes), console=Console(quiet=True))
    return RunFolder(folder / "runs/one")


@pytest.fixture
def measured(capsys: pytest.CaptureFixture):
    def measure(*arguments: object) -> list[dict[str, Any]]:
        assert main(["measure", *map(str, arguments), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return measure


def kept(run: RunFolder, stage: str, eval_set: str = "eval_set") -> list[dict[str, Any]]:
    [row] = [
        row for row in run.evaluations()
        if (row["stage"], row["eval_set"]) == (stage, eval_set) and "during" not in row
    ]  # fmt: skip
    return [kept for path in run.evaluation_files(row) for kept in read_rows(path)]


def by_task(rows: list[dict[str, Any]], key: str = "score") -> list[np.ndarray]:
    tasks: dict[int, list[float]] = {}
    for row in rows:
        tasks.setdefault(row["index"], []).append(row["parts"][key] if key in row["parts"] else row[key])
    return [np.array(scores) for scores in tasks.values()]


def test_asking_twice(run: RunFolder, measured) -> None:
    """Right before and after, from the texts of both turns of every conversation."""
    rows = kept(run, "asked")
    before, after = [], []
    for row in rows:
        said = [m["content"] for m in row["episode"]["messages"] if m["role"] == "assistant"]
        asked = [m["content"] for m in row["episode"]["messages"] if m["role"] == "user"]
        if len(said) == 1:  # cut, so that nothing can follow
            assert row["finish"] == "length"
            continue
        assert asked[-1] == "?" and row["text"] == said[1]
        before.append(len(said[0]) % 3 == 0)
        after.append(len(said[1]) % 3 == 0)
    assert len(rows) == 8 * 6 and 0 < sum(before) < len(before) < 48
    [measures] = measured("reconsider", f"{run.path}:asked")
    assert (measures["completions"], measures["not asked"]) == (len(before), 48 - len(before))
    assert measures["accuracy before"] == pytest.approx(fmean(before))
    assert measures["accuracy after"] == pytest.approx(fmean(after))
    both = [a for b, a in zip(before, after, strict=True) if b]
    mended = [a for b, a in zip(before, after, strict=True) if not b]
    assert measures["CL"] == pytest.approx(fmean(both))
    assert measures["CS"] == pytest.approx(fmean(mended))
    first = fmean(before)
    rss = (fmean(after) - first**2) / (2 * first * (1 - first))
    assert measures["RSS"] == pytest.approx(rss)


def test_capability_by_difficulty(run: RunFolder, measured) -> None:
    """Bins are those of the first run named; pass@3 by counting all subsets."""
    two = RunFolder(run.path.with_name("two"))
    rows = measured("capability", f"{two.path}:base", f"{run.path}:base", f"{run.path}:trained", "k=3")
    of_set = [row for row in rows if row["eval set"] == "eval_set"]
    base, before, after = (
        by_task(kept(*place)) for place in ((two, "base"), (run, "base"), (run, "trained"))
    )
    rate = np.array([scores.mean() for scores in base])
    assert of_set[-1]["solved by base"] == "all" and of_set[-1]["tasks"] == 8
    assert sum(row["tasks"] for row in of_set[:-1]) == 8
    for row in of_set[:-1]:
        low, high = map(float, row["solved by base"].split(" to "))
        members = [i for i in range(8) if low < rate[i] <= high or rate[i] == low == high]
        assert row["tasks"] == len(members)
        for label, scores in (("before", before), ("after", after)):
            chosen = [scores[i] for i in members]
            assert row[f"accuracy {label}"] == pytest.approx(np.mean(chosen))
            assert row[f"pass@3 {label}"] == pytest.approx(fmean(map(pass_at_3, chosen)))
    # two runs: no completion chooses its bin and is measured in it too
    halved = measured("capability", f"{run.path}:base", f"{run.path}:trained")
    [whole] = [r for r in halved if r["solved by base"] == "all" and r["eval set"] == "eval_set"]
    assert whole["accuracy before"] == pytest.approx(fmean(s[1::2].mean() for s in before))
    assert "pass@3 before" in whole


def pass_at_3(scores: np.ndarray) -> float:
    from itertools import combinations

    return fmean(max(subset) for subset in combinations(scores, 3))


def test_the_expected_maximum_of_another_reward(run: RunFolder, measured) -> None:
    from itertools import combinations

    rows = measured("expected_maximum", f"{run.path}:trained", "n=4", "by=liked", "threshold=1.4")
    [row] = [row for row in rows if row["eval set"] == "other"]
    tasks = by_task(kept(run, "trained", "other"), "liked")
    maxima = [fmean(max(four) for four in combinations(scores, 4)) for scores in tasks]
    chances = [fmean(max(four) >= 1.4 for four in combinations(scores, 4)) for scores in tasks]
    assert row["expected maximum"] == pytest.approx(fmean(maxima))
    assert row["chance of 1.4"] == pytest.approx(fmean(chances))
    assert row["tasks"] == 6 and row["n"] == 4


def test_how_a_reward_orders_right_and_wrong(run: RunFolder, measured) -> None:
    [row, _] = measured("calibration", f"{run.path}:trained", "by=liked")
    right_above = []
    scores, liked = by_task(kept(run, "trained")), by_task(kept(run, "trained"), "liked")
    for of_task, by in zip(scores, liked, strict=True):
        for better in by[of_task >= 0.5]:
            for worse in by[of_task < 0.5]:
                right_above.append(0.5 if better == worse else float(better > worse))
    assert row["comparisons"] == len(right_above)
    assert row["accuracy"] == pytest.approx(fmean(right_above))


def test_transfer_stability_gap_and_power_law_from_one_log(run: RunFolder, measured) -> None:
    log = run.evaluations()
    ends = {
        (row["stage"], row["eval_set"]): row["accuracy"] for row in log if "during" not in row
    }
    rows = measured("transfer", run.path, "trained={eval_set: later}")
    [other] = [row for row in rows if row["eval set"] == "other"]
    assert (other["start"], other["after warm"]) == (None, ends["base", "other"])
    assert other["after later"] == ends["trained", "other"]
    assert other["forgetting"] == pytest.approx(ends["base", "other"] - ends["trained", "other"])
    [own] = [row for row in rows if row["eval set"] == "eval_set"]
    assert own["forward transfer"] is None and own["maintenance"] is not None

    [gap, _] = measured("stability_gap", run.path, "stage=later")
    during = [
        row["accuracy"] for row in log
        if row["eval_set"] == "eval_set" and row.get("during") == "later"
    ]  # fmt: skip
    assert len(during) == 4 and gap["start"] == ends["base", "eval_set"]
    assert gap["lowest"] == min([gap["start"], *during]) and gap["end"] == during[-1]

    [alone, _] = measured("expert", run.path, run.path, "stage=later")
    assert alone["relative performance"] == pytest.approx(1) and alone["expert"] == alone["run"]
    two = run.path.with_name("two")
    law = measured("power_law", two, run.path, "amount=stages.0.steps", "heldout=0")
    [other] = [row for row in law if row["eval set"] == "other"]
    scores = [_last(RunFolder(folder), "other") for folder in (two, run.path)]
    exponent = np.log(scores[1] / scores[0]) / np.log(8 / 4)
    assert other["exponent"] == pytest.approx(exponent) and other["points"] == 2
    [first, *_] = measured("power_law", run.path)
    # 2, 4, ... 16 steps: the eval stages after 8 and 16 repeat what was evaluated between steps
    assert first["held out"] == 16 and first["points"] + first["points at 0"] == 8


def _last(folder: RunFolder, eval_set: str) -> float:
    return [row for row in folder.evaluations() if row["eval_set"] == eval_set][-1]["accuracy"]


def test_the_list_and_a_measure_of_ones_own(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["measure"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in MEASURES)
    (tmp_path / "own.py").write_text(
        "def stages(sides, *, most: int = 9):\n"
        "    return [{'run': s.name, 'sets': min(most, len(s.evaluations()))} for s in sides]\n"
        "def number(sides):\n    return 3\n"
        "def undefined(sides):\n    return [{'x': float('nan'), 'y': (1.0, float('inf'))}]\n"
    )
    assert main(["measure", f"{tmp_path / 'own.py'}:stages", str(run.path), "most=1"]) == 0
    assert "│ 1    │" in capsys.readouterr().out
    assert main(["measure", f"{tmp_path / 'own.py'}:number", str(run.path)]) == 2
    assert "must return a list of rows, each a dict of column -> value, not int" in capsys.readouterr().err
    assert main(["measure", f"{tmp_path / 'own.py'}:undefined", str(run.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"x": None, "y": [1.0, None]}]


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["reconsider"], "needs a run: rlcore measure reconsider RUN"),
        (["reconsidered", "RUN"], "did you mean 'reconsider'"),
        (["reconsider", "RUN:base"], "its completions have no reward 'first'; there are short, liked"),
        (["capability", "RUN"], "name two or three runs, not 1"),
        (["expected_maximum", "RUN:base", "n=7"], "the maximum of 7 needs as many completions, not 6"),
        (["expected_maximum", "RUN:base", "m=7"], "has no parameter 'm'"),
        (["expert", "RUN", "stage=later"], "name a run and the expert's, not 1 runs"),
        (["stability_gap", "RUN", "stage=warmer"], "there is no stage 'warmer': there are warm, base"),
        (["stability_gap", "RUN", "stage=warm"], "no evaluation of 'eval_set' before stage 0"),
        (["power_law", "RUN", "RUN", "amount=stages.0.lr"], "its recipe has no number at 'stages.0.lr'"),
        (["power_law", "RUN:base", "amount=stages.0.steps"], "at least two different amounts"),
    ],
)
def test_bad_input_is_one_sentence(
    run: RunFolder, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture
) -> None:
    words = [word.replace("RUN", str(run.path)) if word.startswith("RUN") else word for word in arguments]
    assert main(["measure", *words]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1


def test_a_turn_without_an_environment_is_refused() -> None:
    with pytest.raises(RecipeError, match="turn of the reward length has no effect"):
        load("quickstart", ["stages.before.rewards=[{use: length, max_tokens: 4, turn: 1}]"])
