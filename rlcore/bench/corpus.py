"""Preparing a corpus of any size: how fast, and whether memory stays where it was."""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path
from typing import Any

from rlcore.bench.measure import resident
from rlcore.tasks.corpus.prepare import Cleaning, Funnel, prepare
from rlcore.tasks.corpus.read import Source
from rlcore.tasks.corpus.segment import segmenter

LETTERS = "abcdefghiklmnoprstuvwy"


def bench_corpus(
    *, megabytes: int = 100, unit: str = "paragraph", seed: int = 0
) -> dict[str, Any]:
    """Prepare synthetic text of `megabytes`; peak memory of the process after the first tenth of it and at the end, in MB."""
    peaks: list[tuple[int, float]] = []

    def note(funnel: Funnel) -> None:
        peaks.append((funnel.characters_read, _peak_mb()))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "synthetic.jsonl"
        _write(path, megabytes, random.Random(seed))
        before = _peak_mb()
        made = prepare(
            Source(str(path)),
            Cleaning(),
            segmenter(unit),
            label=unit,
            folder=Path(folder) / "out",
            progress=note,
        )
    early = next(peak for read, peak in peaks if read >= made.funnel.characters_read / 10)
    return {
        "megabytes": round(made.funnel.characters_read / 1e6),
        "documents": made.funnel.documents,
        "kept": made.funnel.kept,
        "seconds": round(made.seconds, 1),
        "documents_per_second": round(made.funnel.documents / made.seconds, 1),
        "peak_mb_before": before,
        "peak_mb_after_a_tenth": early,
        "peak_mb": peaks[-1][1],
    }


def _write(path: Path, megabytes: int, rng: random.Random) -> None:
    """Documents of about 7,000 characters in words that are made up, a tenth of them copies of the one before."""
    words = ["".join(rng.choices(LETTERS, k=rng.randint(3, 9))) for _ in range(20_000)]
    written, text = 0, ""
    with open(path, "w", encoding="utf-8") as file:
        while written < megabytes * 1_000_000:
            if not text or rng.random() > 0.1:
                text = "\n\n".join(
                    ". ".join(" ".join(rng.choices(words, k=12)) for _ in range(10)) + "."
                    for _ in range(8)
                )
            written += file.write(json.dumps({"text": text}) + "\n")


def _peak_mb() -> float:
    """Largest memory the process has had; from /proc, since getrusage's number begins with that of the parent process."""
    return round(resident("VmHWM") / 1024 / 1e3, 1)
