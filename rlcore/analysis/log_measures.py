"""Measures of papers on what a run logs of its evaluations: over the stages, over steps, and over amounts of data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlcore.analysis.compare import Side
from rlcore.analysis.run_measures import Row, row_head
from rlcore.errors import RunError
from rlcore.measures.learning_curve import (
    curve_from_log,
    relative_performance,
    sample_efficiency,
)
from rlcore.measures.power_law import extrapolate, fit_power_law
from rlcore.measures.stability_gap import gap_from_log
from rlcore.measures.transfer import matrix
from rlcore.recipe.load import load


def transfer(sides: Sequence[Side], *, trained: Mapping[str, str] | None = None) -> list[Row]:
    """Accuracy of each eval set after each training stage, what was forgotten, and what earlier stages gave.

    trained: eval set -> name of the stage that trains it, for forward transfer and maintenance.
    """
    rows = []
    for side in sides:
        stages = load(str(side.folder.path)).stages
        measured = matrix(
            [(stage.label, stage.trains) for stage in stages], side.folder.evaluations()
        )
        for eval_set in dict.fromkeys(name for row in measured.accuracy for name in row):
            row = row_head(side, eval_set)
            labels = ["start", *measured.stages]
            for label, accuracy in zip(labels, measured.accuracy, strict=True):
                row[f"after {label}" if label != "start" else label] = accuracy.get(eval_set)
            row["forgetting"] = measured.forgetting(eval_set)
            if trained and eval_set in trained:
                place = _place(measured.stages, trained[eval_set])
                row["forward transfer"] = measured.forward_transfer(eval_set, place)
                row["maintenance"] = measured.maintenance(eval_set, place)
            rows.append(row)
    return rows


def expert(sides: Sequence[Side], *, stage: str) -> list[Row]:
    """The learning curves of a stage beside those of a run that trained nothing else: performance relative to the expert,
    sample efficiency.

    The second run is the expert's. stage: name of the stage in both; it needs an eval stage before it, and `eval_every` in it.
    """
    if len(sides) != 2:
        raise RunError(f"expert: name a run and the expert's, not {len(sides)} runs")
    curves = [_curves(side, stage) for side in sides]
    rows = []
    for eval_set, own in curves[0].items():
        if eval_set in curves[1]:
            other = curves[1][eval_set]
            rows.append(
                {
                    **row_head(sides[0], eval_set),
                    "expert": sides[1].name,
                    "relative performance": relative_performance(own, other),
                    "sample efficiency": sample_efficiency(own, other),
                }
            )
    return rows


def _curves(side: Side, stage: str) -> dict[str, list[tuple[int, float]]]:
    """Of each eval set that is evaluated in the stage."""
    index = _stage_index(side, stage)
    log = side.folder.evaluations()
    names = dict.fromkeys(row["eval_set"] for row in log if row.get("during") == stage)
    return {name: curve_from_log(log, name, stage_index=index) for name in names}


def stability_gap(sides: Sequence[Side], *, stage: str) -> list[Row]:
    """How far each eval set falls while a stage trains, and how many steps until it is back. stage: its name.

    It needs an eval stage before it, and `eval_every` in it.
    """
    rows = []
    for side in sides:
        index = _stage_index(side, stage)
        log = side.folder.evaluations()
        for eval_set in dict.fromkeys(row["eval_set"] for row in log if "during" in row):
            gap = gap_from_log(log, eval_set, stage_index=index)
            rows.append(
                {
                    **row_head(side, eval_set),
                    "start": gap.start,
                    "lowest": gap.lowest,
                    "depth": gap.depth,
                    "steps to lowest": gap.steps_to_lowest,
                    "steps to return": gap.steps_to_return,
                    "end": gap.end,
                }
            )
    return rows


def power_law(sides: Sequence[Side], *, amount: str = "step", heldout: int = 1) -> list[Row]:
    """Superficial alignment: accuracy against the amount of data as a power law, and how it extrapolates.

    amount: a key of the recipe, which differs between the runs, or `step`: the steps before each evaluation. heldout:
    largest amounts that are predicted from the others.
    """
    rows = []
    for eval_set in sides[0].evaluations():
        points = [point for side in sides for point in _points(side, eval_set, amount)]
        positive = [point for point in points if min(point) > 0]
        amounts = [amount for amount, _ in positive]
        scores = [score for _, score in positive]
        law = fit_power_law(amounts, scores)
        head = {
            "eval set": eval_set,
            "points": len(positive),
            "points at 0": len(points) - len(positive),
            "scale": law.scale,
            "exponent": law.exponent,
            "interval": law.exponent_interval,
        }
        beyond = extrapolate(amounts, scores, heldout=heldout) if heldout else []
        for point in beyond:
            rows.append(
                {
                    **head,
                    "held out": point.amount,
                    "predicted": point.predicted,
                    "measured": point.measured,
                    "relative error": point.relative_error,
                }
            )
        if not beyond:
            rows.append(head)
    return rows


def _points(side: Side, eval_set: str, amount: str) -> list[tuple[float, float]]:
    """(amount of data, accuracy) of a run: of all its evaluations, or with a key of the recipe of its last one."""
    if amount == "step":
        log = [row for row in side.folder.evaluations() if row["eval_set"] == eval_set]
        # An eval stage may repeat what was evaluated after the last step of a training stage.
        at_step = {row["step"]: row["accuracy"] for row in log}
        return list(at_step.items())
    value = side.recipe().get(amount)
    if not isinstance(value, int | float):
        raise RunError(
            f"{side.name}: its recipe has no number at {amount!r}; see its recipe.yaml"
        )
    row = side.evaluations().get(eval_set)
    return [] if row is None else [(value, row["accuracy"])]


def _stage_index(side: Side, stage: str) -> int:
    """Number of a stage among all of the run's recipe, from 0."""
    return _place([one.label for one in load(str(side.folder.path)).stages], stage) - 1


def _place(labels: Sequence[str], stage: str) -> int:
    """Number of a stage, from 1."""
    if stage not in labels:
        raise RunError(f"there is no stage {stage!r}: there are {', '.join(labels)}")
    return list(labels).index(stage) + 1
