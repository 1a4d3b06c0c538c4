"""RLP small: thoughts learn to tell the next digit where it follows from the text, and gain nothing
where it is random.

    python recipes/papers/rlp/reproduce.py [--quick] [--seeds 3] [--folder F] [--json | --table]

A model imitates thoughts that on average do not help; RL rewards what a thought tells about the
next digit. README.md has the numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rlcore.analysis.study import CellRun, study_main

PARTS = {"gain": "", "loss with a thought": "/thought", "loss without": "/plain"}


def information(stage: str, part: str) -> Callable[[CellRun], float]:
    """The information gain, or one of its two losses, in one evaluation; in nats."""

    def measure(run: CellRun) -> float:
        value = run.evals[stage][f"reward/information_gain{PARTS[part]}"]
        return value if part == "gain" else -value

    return measure


MEASURES: dict[str, Callable[[CellRun], float]] = {}
for kind in ("rule", "chance"):
    for part in PARTS:
        for when in ("before", "after"):
            MEASURES[f"{kind}, {when}: {part}"] = information(f"{kind}_{when}", part)

if __name__ == "__main__":
    study_main(str(__doc__), Path(__file__).with_name("rlp.yaml"), {"rlp": ()}, MEASURES)
