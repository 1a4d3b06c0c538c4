"""What a person sees of a sweep: a table with what it cost, and a picture."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlcore.analysis.study_results import StudyResults, markdown, origin
from rlcore.analysis.sweep.early import rank_correlation
from rlcore.run.plots import panels_svg

FAILED = "failed"
"""In `derived` of the results: trial -> why it has no value."""
STOPPED = "stopped"
"""Trial -> why it was stopped early."""
EARLY = "early"
"""Trial -> its signs, whether it was stopped or not (`early.EarlyStop`)."""
RUNG = "-rung"
"""Between the name of a trial and the number of the rung it was promoted to."""


def valued(results: StudyResults) -> dict[str, float]:
    """Mean value of each trial that has one, in order."""
    left_out = results.derived[FAILED].keys() | results.derived[STOPPED].keys()
    means = {
        cell: results.summary(cell, "value").mean
        for cell in results.cells
        if cell not in left_out
    }
    return {cell: mean for cell, mean in means.items() if mean is not None}


def best_first(results: StudyResults, cells: Sequence[str]) -> list[str]:
    """Those of the cells that have a value, the best first."""
    values = valued(results)
    with_value = [cell for cell in cells if cell in values]
    return sorted(with_value, key=lambda c: values[c], reverse=results.settings["maximise"])


def rung_of(cell: str) -> int:
    """0: not promoted."""
    return int(cell.partition(RUNG)[2] or 0)


def sweep_table(results: StudyResults) -> str:
    """Trials from the best to the worst, those of the last rung first, then those without a value, as Markdown."""
    ordered = sorted(best_first(results, list(results.cells)), key=rung_of, reverse=True)
    without = {
        cell: f"{word}: {why}"
        for word in (STOPPED, FAILED)
        for cell, why in results.derived[word].items()
    }
    keys = [key for key, _, _ in results.settings["space"]]
    fidelity = results.settings.get("fidelity")
    if fidelity:
        keys.append(fidelity["key"])
    rows = []
    for trial in [*ordered, *without]:
        parameters = _parameters(results.cells[trial].overrides)
        text = without.get(trial) or results.summary(trial, "value").text(".4g")
        rows.append([trial, *(_short(parameters[key]) for key in keys), text])
    table = markdown(["trial", *keys, results.settings["metric"]], rows)
    return "\n\n".join([table, *_costs(results), *_correlations(results), origin(results)])


def _costs(results: StudyResults) -> list[str]:
    """Trials and seconds of each rung, as a sentence."""
    if not results.settings.get("fidelity"):
        return []
    parts = []
    for rung in sorted({rung_of(cell) for cell in results.cells}):
        cells = [cell for cell in results.cells if rung_of(cell) == rung]
        seconds = sum(
            run.seconds for cell in cells for run in results.cells[cell].runs.values()
        )
        parts.append(f"rung {rung}: {len(cells)} trials, {seconds:.0f} s")
    return ["; ".join(parts) + "."]


def _correlations(results: StudyResults) -> list[str]:
    """How well the signs of the first steps order the trials that went on, as a sentence."""
    values = valued(results)
    early = results.derived[EARLY]
    cells = [cell for cell in values if cell in early and rung_of(cell) == 0]
    parts = []
    for name in early[cells[0]] if cells else ():
        finite = [cell for cell in cells if early[cell][name] is not None]
        found = rank_correlation(
            [early[cell][name] for cell in finite], [values[cell] for cell in finite]
        )
        shown = "none" if found is None else f"{found:.2f}"
        parts.append(f"{name} {shown}")
    if not parts:
        return []
    return [
        f"Rank correlation of the first steps with the value, over {len(cells)} trials: {', '.join(parts)}."
    ]


def _parameters(overrides: Sequence[str]) -> Mapping[str, Any]:
    pairs = (text.partition("=") for text in overrides)
    return {key: json.loads(value) for key, _, value in pairs}


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def draw(results: StudyResults, folder: Path) -> None:
    """`sweep.svg`: the value of each trial, and the best one up to it; promoted ones as lines of their own."""
    values = valued(results)
    rungs: dict[int, list[float]] = {}
    for cell, value in values.items():
        rungs.setdefault(rung_of(cell), []).append(value)
    first = rungs.pop(0, [])
    best = list(itertools.accumulate(first, max if results.settings["maximise"] else min))
    lines = {"trial": list(enumerate(first)), "best so far": list(enumerate(best))}
    lines |= {f"rung {rung}": list(enumerate(of_rung)) for rung, of_rung in rungs.items()}
    picture = panels_svg({results.settings["metric"]: lines}, x="trial", y="value")
    (folder / "sweep.svg").write_text(picture, encoding="utf-8")
