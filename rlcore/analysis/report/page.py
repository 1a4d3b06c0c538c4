"""One HTML page of the runs: styles, scripts, records and small sets of rollouts inside it, larger ones in files beside it."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rlcore.analysis.diagnose import diagnose, first_warnings
from rlcore.analysis.report.charts import sections
from rlcore.analysis.report.curves import evaluations, resumes, series, stages
from rlcore.analysis.report.facts import recipe_facts
from rlcore.analysis.report.rollouts import RunRollouts, Texts, as_script_json
from rlcore.run.disk import writing
from rlcore.run.folder import RunFolder, read_rows
from rlcore.terminal import visible

MOST_POINTS = 1000
"""Points of a curve, over all runs of the page."""
MOST_INSIDE = 1_500_000
"""Bytes of rollouts that the page itself holds; more are left in files beside it."""

SCRIPTS = (
    "uPlot.iife.min.js",
    "page.js",
    "charts.js",
    "table.js",
    "tokens.js",
    "rollouts.js",
    "viewer.js",
)
STYLES = ("uPlot.min.css", "page.css")


class Report:
    """The report of some runs, written by `write` and again by later calls while they go on."""

    def __init__(self, runs: Sequence[Path], page: Path) -> None:
        self._page = page
        self._beside = page.with_name(f"{page.stem}_files")
        self._folders = [RunFolder.of_run(run) for run in runs]
        self._names = _names(runs)
        self._rollouts = [
            RunRollouts(folder, self._beside / f"run{number}_", number, _texts(folder))
            for number, folder in enumerate(self._folders)
        ]

    def write(self) -> None:
        """Write the page. Raises `RunError`."""
        with writing(self._page.name, self._page.parent):
            self._page.parent.mkdir(parents=True, exist_ok=True)
            self._clear()
            data = self.data()
            chunks = sorted(self._beside.glob("run*_*.js"))
            inside = sum(path.stat().st_size for path in chunks)
            script = ""
            if inside <= MOST_INSIDE:
                script = "".join(path.read_text(encoding="utf-8") for path in chunks)
                self._clear()
            else:
                self._write_indices(data)
            # the chunks first, so that what is shown finds them
            script += f"RlcoreReport.show({as_script_json(data)})\n"
            self._page.write_text(page_with(script, ", ".join(self._names)), encoding="utf-8")

    def _clear(self) -> None:
        """Remove what an earlier report left beside the page, and nothing else."""
        for path in self._beside.glob("run*_*.js"):
            path.unlink()
        if self._beside.is_dir() and not any(self._beside.iterdir()):
            self._beside.rmdir()

    def write_live(self) -> None:
        """Write the page without records; it asks for them, which lie beside it, again and again."""
        self._page.write_text(
            page_with("RlcoreReport.live()", ", ".join(self._names)), encoding="utf-8"
        )
        self.write_records()

    def write_records(self) -> None:
        """Write the records beside the page, those of unfinished steps left out."""
        data = self.data(live=True)
        self._beside.mkdir(parents=True, exist_ok=True)
        draft = self._beside / ".records.js"
        draft.write_text(f"RlcoreReport.show({as_script_json(data)})\n", encoding="utf-8")
        draft.replace(self._beside / "records.js")

    def data(self, *, live: bool = False) -> dict[str, Any]:
        """Everything that the page shows, but for the chunks of rollouts."""
        max_points = max(100, MOST_POINTS // len(self._folders))
        runs = []
        for number, folder in enumerate(self._folders):
            rows = read_rows(folder.metrics)
            spans = stages(rows)
            rollouts = self._rollouts[number]
            rollouts.update(spans, until=_last_step(rows) if live else None)
            runs.append(
                {
                    "name": self._names[number],
                    "folder": visible(str(folder.path)),
                    "recipe": visible(folder.recipe.read_text(encoding="utf-8")),
                    "facts": recipe_facts(folder),
                    "stages": spans,
                    "resumes": resumes(folder),
                    "series": series(rows, max_points=max_points),
                    "evaluations": evaluations(folder),
                    "findings": [
                        _shown({**asdict(finding), "link": finding.link})
                        for finding in diagnose(rows)
                    ],
                    "warnings": [_shown(warning) for warning in first_warnings(rows)],
                    "rollouts": {
                        "count": len(rollouts.index),
                        "chunks": rollouts.chunks.sizes,
                        "prefix": f"{quote(self._beside.name)}/run{number}_",
                        "columns": rollouts.index.columns(),
                    },
                }
            )
        keys = {key for run in runs for key in run["series"]["columns"]}
        now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        return {"written": now, "runs": runs, "sections": sections(keys)}

    def _write_indices(self, data: dict[str, Any]) -> None:
        """Move the columns of the indices into files, which the page loads when it opens."""
        for number, run in enumerate(data["runs"]):
            columns = run["rollouts"].pop("columns")
            call = f"RlcoreReport.index({number},{as_script_json(columns)})\n"
            path = self._beside / f"run{number}_index.js"
            path.write_text(call, encoding="utf-8")


def page_with(script: str, title: str) -> str:
    """The page with a script that hands it its records."""
    text = _asset("page.html")
    styles = "\n".join(_asset(name) for name in STYLES)
    licence = _asset("uPlot.LICENSE")  # goes with every copy of the library
    scripts = f"<!--\nuPlot: {licence}-->\n"
    scripts += "\n".join(f"<script>\n{_asset(name)}\n</script>" for name in SCRIPTS)
    parts = {
        "TITLE": html.escape(title),
        "STYLES": styles,
        "SCRIPTS": scripts,
        "RECORDS": f"<script>\n{script}\n</script>",
    }
    before, *rest = text.split("{{")
    filled = [before]
    for piece in rest:
        name, _, after = piece.partition("}}")
        filled += [parts[name], after]
    return "".join(filled)


def _asset(name: str) -> str:
    return (files("rlcore.analysis.report") / "assets" / name).read_text(encoding="utf-8")


def _names(runs: Sequence[Path]) -> list[str]:
    """The folders' names, or their paths where two have the same."""
    names = [visible(run.resolve().name) for run in runs]
    if len(set(names)) < len(names):
        names = [visible(str(run)) for run in runs]
    return names


def _texts(folder: RunFolder) -> Texts | None:
    """The texts of tokens; None where the run's tokenizer cannot be loaded."""
    from rlcore.analysis.token_texts import TokenTexts, run_tokenizer

    tokenizer = run_tokenizer(folder)
    return TokenTexts(tokenizer) if tokenizer else None


def _shown(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: visible(value) if isinstance(value, str) else value
        for key, value in record.items()
    }


def _last_step(rows: Sequence[dict[str, Any]]) -> int:
    return rows[-1].get("step", 0) if rows else 0
