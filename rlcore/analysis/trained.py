"""A checkpoint of a run, and what the run folder says of how it was trained and evaluated.

Everything is read as plain values: no Python file that the recipe names is run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlcore.get_model import KNOWN_MODELS
from rlcore.measures.intervals import wilson
from rlcore.recipe.yaml_text import read_yaml
from rlcore.run.checkpoint import read_cursor
from rlcore.run.folder import RunFolder, read_rows

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""owner/name, as the hub spells models and data sets."""
DOES_NOT_TRAIN = ("eval", "sample")


@dataclass(frozen=True)
class Trained:
    """A checkpoint of a run, and what the run folder says of it."""

    folder: RunFolder
    checkpoint: Path
    recipe: dict[str, Any]

    @classmethod
    def of(cls, folder: RunFolder, checkpoint: Path) -> Trained:
        text = folder.recipe.read_text(encoding="utf-8")
        return cls(folder, checkpoint, read_yaml(text, str(folder.recipe)))

    @property
    def step(self) -> int:
        """Steps of the run that the checkpoint has behind it."""
        return read_cursor(self.checkpoint).step

    @property
    def peft(self) -> dict[str, Any]:
        """Settings of the adapter; empty where the whole model was trained."""
        return self.recipe.get("model", {}).get("peft") or {}

    @property
    def base(self) -> str:
        """Hub name of the model that the run began with; else the name of its folder; empty for a model from scratch."""
        paths = self.recipe.get("model", {}).get("path") or []
        paths = [paths] if isinstance(paths, str) else paths
        names = [hub_name(path) for path in paths]
        return next(filter(None, names), Path(paths[0]).name if paths else "")

    def stages(self) -> list[tuple[dict[str, Any], int | None]]:
        """The training stages that made these weights, each with the steps that it did; None: all."""
        cursor = read_cursor(self.checkpoint)
        stages = []
        for number, stage in enumerate(self.recipe.get("stages", [])[: cursor.stage + 1]):
            is_open = number == cursor.stage
            if stage.get("kind") in DOES_NOT_TRAIN or (is_open and not cursor.stage_step):
                continue
            stages.append((stage, cursor.stage_step if is_open else None))
        return stages

    def evaluations(self) -> list[tuple[dict[str, Any], bool]]:
        """Rows of eval.jsonl: the first of each eval set, and those of these weights, which have True beside them."""
        step = self.step
        rows = [row for row in read_rows(self.folder.evals) if row["step"] <= step]
        first: dict[str, int] = {}
        for row in rows:
            first.setdefault(row["eval_set"], row["step"])
        chosen = []
        for row in rows:
            is_of_these = row["step"] == step
            if is_of_these or row["step"] == first[row["eval_set"]]:
                chosen.append((row, is_of_these))
        return chosen

    def evaluated_weights(self, row: Mapping[str, Any]) -> str:
        """Whether an evaluation measured the policy or its averaged weights (ema)."""
        stages = self.recipe.get("stages", [])
        index = row.get("stage_index", 0)
        return stages[index].get("weights", "policy") if index < len(stages) else "policy"


def hub_name(path: Any) -> str:
    """The hub's name of a model or data set, also of one that `rlcore models get` brought; empty for a file or folder."""
    path = str(path)
    for name, known in KNOWN_MODELS.items():
        if path == name or path.endswith(f".cache/rlcore/models/{name}"):
            return known.hub
    return path if HUB_NAME.fullmatch(path) and not Path(path).exists() else ""


def interval_of(row: Mapping[str, Any]) -> tuple[float, float] | None:
    """95% interval of an evaluation's accuracy: the row's own, else Wilson's over its tasks."""
    own = row.get("intervals", {}).get("accuracy")
    if own is not None:
        low, high = own
        return low, high
    return wilson(row["accuracy"], row["tasks"])
