"""Scores of exams that were taken before, in the run folder: no exam is taken twice.

`exams/rank<N>.jsonl` has a row an exam: `key` (a hash of student, example and questions), `score`, and
for readers `task`, `questions` and `marks`. A resumed run reads the rows of all ranks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlcore.run.folder import keep_rows, read_rows


class ExamScores:
    """Scores by key; what is added is on disk before it is used."""

    def __init__(self, folder: Path | None, rank: int = 0) -> None:
        """folder: None keeps them in memory alone."""
        self._scores: dict[str, float | None] = {}
        self._file = None if folder is None else folder / f"rank{rank}.jsonl"
        if folder is None or self._file is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("*.jsonl")):
            for row in read_rows(path):
                self._scores[row["key"]] = row["score"]
        # a kill may cut the last line short, and rows that are added must not continue it
        keep_rows(self._file, lambda row: True)

    def __contains__(self, key: str) -> bool:
        return key in self._scores

    def __getitem__(self, key: str) -> float | None:
        return self._scores[key]

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        if self._file is not None and rows:
            with self._file.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        for row in rows:
            self._scores[row["key"]] = row["score"]
