"""RLP small: thoughts learn to tell the next digit where it follows from the text, and gain nothing
where it is random; beside it, next-token training on the same texts.

    python recipes/papers/rlp/reproduce.py [--quick] [--seeds 3] [--folder F] [--json | --table]

A model imitates thoughts that on average do not help; RL rewards what a thought tells about the
next digit. The controls read as many texts a step (32), or as many as RL has thoughts (512), at the
learning rate of RL and at ten times that. README.md has the numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rlcore.analysis.study import CellRun, study_main

PLAIN = (
    "stages.rl={{kind: sft, name: rl, tasks: texts, steps: 60, batch_size: {}, "
    "optim: {{lr: {}, betas: [0.9, 0.99], warmup_steps: 5}}}}"
)
CELLS = {
    "RLP": (),
    "next-token training, 32 texts a step": (PLAIN.format(32, "2e-4"),),
    "next-token training, 512 texts a step": (PLAIN.format(512, "2e-4"),),
    "next-token training, 32 texts, 2e-3": (PLAIN.format(32, "2e-3"),),
    "next-token training, 512 texts, 2e-3": (PLAIN.format(512, "2e-3"),),
}
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
    study_main(str(__doc__), Path(__file__).with_name("rlp.yaml"), CELLS, MEASURES)
