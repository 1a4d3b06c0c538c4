"""Problems of eight skills with the columns `ease` and `hardness`: 1 / loss and loss under an ordinary model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rlcore.plugin import import_file
from rlcore.types import Task

SKILLS = import_file(Path(__file__).resolve().parent.parent / "dataenvgym/skills.py")
LEAST = 1e-4
"""Loss below which a problem counts as equally easy."""


def problems(size: int, scores: str | None) -> Sequence[Task]:
    """`size` training problems of each skill.

    scores: file with the loss of each problem by its id; None: all are alike.
    """
    tasks = SKILLS.equally(size, split="train", seed=0)
    losses = {} if scores is None else json.loads(Path(scores).read_text(encoding="utf-8"))
    scored = []
    for task in tasks:
        loss = max(LEAST, losses.get(task.id, 1.0))
        scored.append(replace(task, columns={"ease": 1 / loss, "hardness": loss}))
    return scored
