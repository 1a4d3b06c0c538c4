"""RLP small: thoughts learn to tell the next digit where it follows from the text, and gain nothing where it is drawn by chance.

    python recipes/papers/rlp/reproduce.py [--quick] [--json] [--seeds 3] [--folder runs/papers/rlp]

A model imitates thoughts of which none helps on average; RL is paid what a thought tells of the next digit. Numbers: README.md.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rlcore.analysis.study import CellRun, study_main

PARTS = {"gain": "", "loss with a thought": "/thought", "loss without": "/plain"}


def measure(stage: str, part: str) -> Callable[[CellRun], float]:
    """Nats: the gain, or a loss, of one evaluation."""

    def read(run: CellRun) -> float:
        value = run.evals[stage][f"reward/information_gain{PARTS[part]}"]
        return value if part == "gain" else -value

    return read


MEASURES = {
    f"{kind}, {when}: {part}": measure(f"{kind}_{when}", part)
    for kind in ("rule", "chance")
    for part in PARTS
    for when in ("before", "after")
}

if __name__ == "__main__":
    study_main(str(__doc__), Path(__file__).with_name("rlp.yaml"), {"rlp": ()}, MEASURES)
