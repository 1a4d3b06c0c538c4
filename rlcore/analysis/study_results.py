"""`results.json`, the file in which a study keeps its values, and tables of them.

    {"format": 1,
     "recipe": "sec-arithmetic",
     "settings": {"overrides": [...], "recipe": {...}},    equal for all cells
     "interval": "95% t-interval of the mean over seeds",
     "seconds": 312.4,                                     of all work so far
     "cells": {"random": {
         "overrides": ["stages.rl.curriculum=uniform"],
         "runs": {"0": {"values": {"outside": 0.12},
                        "curves": {"reward": [[0, 0.1], [1, 0.2]]},
                        "seconds": 98.1,
                        "rlcore": "0.1.0",
                        "commit": "<hash>, <hash>-dirty or null"}},
         "summary": {"outside": {"values": [0.12], "mean": 0.12, "std": null, "interval": null}}}},
     "derived": {}}                                        computed from several cells

The file is replaced atomically after every run (one cell with one seed), so a study that is killed
loses at most one run. Several processes may add runs to it, each those of other seeds. A value is null
where a run has none; a mean over such values is null too.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rlcore.analysis.settings import as_json, first_difference
from rlcore.errors import RunError
from rlcore.measures.intervals import student_95
from rlcore.version import code_version

FORMAT = 1
INTERVAL = "95% t-interval of the mean over seeds"
LOCK_S = 60.0
Point = tuple[float, float]
Value = float | None


@dataclass(frozen=True, slots=True)
class SeedRun:
    """What one cell gave with one seed."""

    values: dict[str, Value]
    curves: dict[str, list[Point]]
    seconds: float
    rlcore: str
    commit: str | None


@dataclass(slots=True)
class Cell:
    """One variant of the recipe."""

    overrides: list[str]
    runs: dict[int, SeedRun] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Summary:
    """One measure of a cell over its seeds."""

    values: list[Value]
    mean: float | None
    std: float | None
    """Sample standard deviation; None for a single seed."""
    interval: tuple[float, float] | None
    """See `INTERVAL`; None for a single seed."""

    @property
    def half_width(self) -> float | None:
        return None if self.interval is None else (self.interval[1] - self.interval[0]) / 2

    def text(self, form: str = ".3f") -> str:
        """Mean and half width of the interval ("71.0% ± 3.9%"); the mean alone for one seed.

        Where some seeds have no value, those of the others ("60, 65 (2 of 3)").
        """
        if self.mean is None:
            shown = [format(value, form) for value in self.values if value is not None]
            return (
                f"{', '.join(shown)} ({len(shown)} of {len(self.values)})" if shown else "none"
            )
        if self.half_width is None:
            return format(self.mean, form)
        return f"{self.mean:{form}} ± {self.half_width:{form}}"


class StudyResults:
    """The values of a study, kept in a file."""

    def __init__(self, path: Path, recipe: str, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.recipe = recipe
        self.settings = as_json(settings)
        self.cells: dict[str, Cell] = {}
        self.derived: dict[str, Any] = {}
        self._added: set[tuple[str, int]] = set()
        self._seconds_before = 0.0
        self._started = time.perf_counter()
        self._code = code_version()

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        recipe: str,
        settings: Mapping[str, Any],
        stated: Mapping[str, Any] | None = None,
    ) -> StudyResults:
        """The results in a file, or new ones. Raises `RunError` if the file has other settings.

        stated: the settings without defaults; where they are given, a key that the file lacks is no
        other setting while it has its default.
        """
        if not path.is_file():
            return cls(path, recipe, settings)
        results = cls.read(path)
        own = as_json(settings if stated is None else stated)
        difference = first_difference(results.settings, as_json(settings), own)
        if difference:
            raise RunError(
                f"{path} is of a study with other settings ({difference}): "
                "undo that change, or choose another folder"
            )
        return results

    @classmethod
    def read(cls, path: Path) -> StudyResults:
        """The results in a file. Raises `RunError`."""
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise RunError(
                f"the results of the study cannot be read from {path}: {error}"
            ) from None
        if not isinstance(stored, dict) or stored.get("format") != FORMAT:
            raise RunError(f"{path} has no results of a study in format {FORMAT}: remove it")
        results = cls(path, stored["recipe"], stored["settings"])
        results._seconds_before = stored["seconds"]
        results.derived = stored["derived"]
        for name, cell in stored["cells"].items():
            runs = {int(seed): _seed_run(run) for seed, run in cell["runs"].items()}
            results.cells[name] = Cell(cell["overrides"], runs)
        return results

    def cell(self, name: str, overrides: Sequence[str]) -> Cell:
        """The cell of this name, added if there is none. Raises `RunError` for other overrides."""
        cell = self.cells.setdefault(name, Cell(list(overrides)))
        if cell.overrides != list(overrides):
            raise RunError(
                f"{self.path} has a cell {name!r} with other overrides ({cell.overrides}, not "
                f"{list(overrides)}): give the cell another name, or choose another folder"
            )
        return cell

    def add(
        self,
        cell: str,
        seed: int,
        values: Mapping[str, Value],
        *,
        seconds: float,
        overrides: Sequence[str] = (),
        curves: Mapping[str, Sequence[Point]] | None = None,
    ) -> None:
        """Record a finished run, and write the file."""
        self._added.add((cell, seed))
        self.cell(cell, overrides).runs[seed] = SeedRun(
            values=dict(values),
            curves={name: list(points) for name, points in (curves or {}).items()},
            seconds=round(seconds, 1),
            rlcore=self._code["rlcore"],
            commit=self._code.get("commit"),
        )
        self.save()

    def has(self, cell: str, seed: int, measures: Iterable[str]) -> bool:
        """Whether a run is finished and has a value of each of these measures."""
        if cell not in self.cells or seed not in self.cells[cell].runs:
            return False
        return set(measures) <= self.cells[cell].runs[seed].values.keys()

    @property
    def measures(self) -> list[str]:
        """Names of all values, in the order in which they first occur."""
        names: dict[str, None] = {}
        for cell in self.cells.values():
            for run in cell.runs.values():
                names |= dict.fromkeys(run.values)
        return list(names)

    @property
    def seconds(self) -> float:
        return self._seconds_before + time.perf_counter() - self._started

    def values(self, cell: str, measure: str) -> list[Value]:
        """By seed, in ascending order."""
        runs = self.cells[cell].runs
        return [runs[seed].values.get(measure) for seed in sorted(runs)]

    def curves(self, cell: str, name: str) -> list[list[Point]]:
        """By seed, in ascending order."""
        runs = self.cells[cell].runs
        return [runs[seed].curves[name] for seed in sorted(runs)]

    def summary(self, cell: str, measure: str) -> Summary:
        return summarise(self.values(cell, measure))

    def difference(self, cell: str, other: str, measure: str) -> Summary:
        """Of a cell from another one, in pairs of runs with the same seed; seeds that one of them lacks do not count.

        Runs of a seed have their start in common, so this interval is narrower than those of both cells tell.
        """
        ours, theirs = self.cells[cell].runs, self.cells[other].runs
        differences: list[Value] = []
        for seed in sorted(ours.keys() & theirs.keys()):
            one, two = ours[seed].values.get(measure), theirs[seed].values.get(measure)
            differences.append(None if one is None or two is None else one - two)
        return summarise(differences)

    def as_dict(self) -> dict[str, Any]:
        """The content of the file."""
        cells = {}
        for name, cell in self.cells.items():
            runs = {str(seed): asdict(cell.runs[seed]) for seed in sorted(cell.runs)}
            summary = {
                measure: asdict(self.summary(name, measure)) for measure in self.measures
            }
            cells[name] = {"overrides": cell.overrides, "runs": runs, "summary": summary}
        return {
            "format": FORMAT,
            "recipe": self.recipe,
            "settings": self.settings,
            "interval": INTERVAL,
            "seconds": round(self.seconds, 1),
            "cells": cells,
            "derived": self.derived,
        }

    def save(self) -> None:
        """Replace the file, with the runs that other processes have added to it; a kill leaves the old one or the new one."""
        draft = self.path.with_suffix(".draft")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_suffix(".lock"), timeout=LOCK_S):
                if self.path.is_file():
                    self._add_runs_of(StudyResults.read(self.path))
                text = json.dumps(self.as_dict(), indent=1, ensure_ascii=False, allow_nan=False)
                draft.write_text(text + "\n", encoding="utf-8")
                os.replace(draft, self.path)
        except Timeout:
            raise RunError(
                f"{self.path} was held by another process for {LOCK_S:.0f} s: end it, and start this study again"
            ) from None
        except OSError as error:
            raise RunError(
                f"{self.path} cannot be written: {error.strerror or error}"
            ) from None

    def _add_runs_of(self, stored: StudyResults) -> None:
        for name, cell in stored.cells.items():
            own = self.cell(name, cell.overrides)
            # a run that was only read here may have got further values meanwhile
            own.runs |= {
                seed: run for seed, run in cell.runs.items() if (name, seed) not in self._added
            }
        own_s = time.perf_counter() - self._started
        self._seconds_before = stored._seconds_before + own_s
        self._started = time.perf_counter()


def summarise(values: Sequence[Value]) -> Summary:
    """Mean, standard deviation and interval; None where a value is missing or there is only one."""
    numbers = [value for value in values if value is not None]
    if not numbers or len(numbers) < len(values):
        return Summary(list(values), None, None, None)
    mean = statistics.fmean(numbers)
    if len(numbers) == 1:
        return Summary(list(values), mean, None, None)
    std = statistics.stdev(numbers)
    half_width = student_95(len(numbers) - 1) * std / len(numbers) ** 0.5
    return Summary(list(values), mean, std, (mean - half_width, mean + half_width))


def markdown(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    table = [list(headers), *map(list, rows)]
    widths = [max(3, *map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        padded = [text.ljust(width) for text, width in zip(row, widths, strict=True)]
        lines.append(f"| {' | '.join(padded)} |")
    lines.insert(1, f"|{'|'.join('-' * (width + 2) for width in widths)}|")
    return "\n".join(lines)


def study_table(results: StudyResults, forms: Mapping[str, str] | None = None) -> str:
    """A Markdown table with a row per measure and a column per cell, and its origin below.

    forms: number format of a measure, where it is not ".3f".
    """
    rows = []
    for measure in results.measures:
        form = (forms or {}).get(measure, ".3f")
        texts = [results.summary(cell, measure).text(form) for cell in results.cells]
        rows.append([measure, *texts])
    return f"{markdown(['', *results.cells], rows)}\n\n{origin(results)}"


def origin(results: StudyResults) -> str:
    """Where a table's numbers come from, as one sentence."""
    runs = [run for cell in results.cells.values() for run in cell.runs.values()]
    seeds = sorted({len(cell.runs) for cell in results.cells.values()})
    counts = (
        " to ".join(str(count) for count in sorted({seeds[0], seeds[-1]})) if seeds else "0"
    )
    commits = sorted({run.commit or f"rlcore {run.rlcore}" for run in runs})
    return (
        f"Mean ± half width of the {INTERVAL} ({counts} each); recipe {results.recipe}, "
        f"{results.seconds:.0f} s, commit {', '.join(commits) or 'none'}."
    )


def _seed_run(stored: dict[str, Any]) -> SeedRun:
    curves = {}
    for name, points in stored["curves"].items():
        curves[name] = [(x, y) for x, y in points]
    return SeedRun(**{**stored, "curves": curves})
