"""Runs side by side: keys of their recipes that differ, their evaluations, and the paired difference on each eval set."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlcore.errors import RunError
from rlcore.measures.paired import mcnemar_exact, paired_bootstrap
from rlcore.recipe.yaml_text import read_yaml
from rlcore.run.evaluation import PASS
from rlcore.run.folder import RunFolder, read_rows
from rlcore.run.same_recipe import flat

NOT_COMPARED = ("name", "run.folder")
"""Keys that say nothing about how a run was made."""


@dataclass(frozen=True)
class Side:
    """A run, or one eval stage of it."""

    folder: RunFolder
    stage: str = ""
    """"" takes the last evaluation of each eval set."""

    @property
    def name(self) -> str:
        return f"{self.folder.path}:{self.stage}" if self.stage else str(self.folder.path)

    def recipe(self) -> dict[str, Any]:
        """All keys of the recipe with dots between them."""
        text = self.folder.recipe.read_text(encoding="utf-8")
        return flat(read_yaml(text, str(self.folder.recipe)))

    def evaluations(self) -> dict[str, dict[str, Any]]:
        """Eval set -> its last evaluation."""
        rows = [row for row in self.folder.evaluations() if self.stage in ("", row["stage"])]
        return {row["eval_set"]: row for row in rows}


@dataclass(frozen=True)
class TaskResult:
    """What one evaluation has of one task."""

    scores: list[float]
    """First reward of each completion."""
    rows: list[dict[str, Any]]
    """The completions as they are kept."""

    @property
    def mean(self) -> float:
        return sum(self.scores) / len(self.scores)


@dataclass(frozen=True)
class Change:
    """A task whose mean score crossed 0.5 between two evaluations."""

    task: str
    before: TaskResult
    after: TaskResult

    @property
    def gained(self) -> bool:
        return self.after.mean > self.before.mean


@dataclass(frozen=True)
class Comparison:
    """Two evaluations of one eval set, over the tasks that both have."""

    eval_set: str
    before: str
    after: str
    """Names of the sides."""
    tasks: int
    unpaired: int
    """Tasks that only one of them has; they are left out."""
    difference: float
    """Mean over tasks of the second minus the first."""
    interval: tuple[float, float]
    """95%, paired bootstrap over tasks."""
    p_value: float | None
    """McNemar's exact test; None unless there is one completion a task that is right or wrong."""
    changes: list[Change]

    def as_json(self) -> dict[str, Any]:
        changed = {
            name: [
                {"task": c.task, "before": c.before.mean, "after": c.after.mean}
                for c in self.changes
                if c.gained == gained
            ]
            for name, gained in (("gained", True), ("lost", False))
        }
        keys = ("eval_set", "before", "after", "tasks", "unpaired", "difference", "p_value")
        own = {key: getattr(self, key) for key in keys}
        return {**own, "interval": list(self.interval), **changed}


@dataclass(frozen=True)
class Uncompared:
    """Two sides without a comparison of one eval set."""

    eval_set: str
    before: str
    after: str
    reason: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def side(text: str) -> Side:
    """RUN or RUN:STAGE. Raises `RunError` where there is no such run, or no such evaluation in it."""
    path, stage = Path(text), ""
    if not path.is_dir() and ":" in text:
        run, _, stage = text.rpartition(":")
        path = Path(run)
    chosen = Side(RunFolder.of_run(path), stage)
    stages = list(dict.fromkeys(row["stage"] for row in chosen.folder.evaluations()))
    if not stages:
        raise RunError(f"{path} has no evaluation yet: there is nothing to compare")
    if stage and stage not in stages:
        raise RunError(
            f"{path} has no evaluation called {stage!r}: there are {', '.join(stages)}"
        )
    return chosen


def recipe_differences(sides: Sequence[Side]) -> dict[str, list[Any]]:
    """Key -> its value in each run, of keys whose values differ; None where a recipe lacks the key."""
    recipes = [side.recipe() for side in sides]
    keys = dict.fromkeys(key for recipe in recipes for key in recipe)
    values = {key: [recipe.get(key) for recipe in recipes] for key in keys}
    return {
        key: column
        for key, column in values.items()
        if key not in NOT_COMPARED and any(value != column[0] for value in column)
    }


def results(sides: Sequence[Side]) -> Iterator[dict[str, Any]]:
    """One row for each evaluation that is compared, or for all of a run that stands alone.

    Run, eval set, accuracy with its interval, and what else was measured.
    """
    for one in sides:
        rows = one.evaluations().values()
        if len(sides) == 1 and not one.stage:
            rows = one.folder.evaluations()
        for row in rows:
            yield {"run": one.name, **row}


def compare(before: Side, after: Side) -> list[Comparison | Uncompared]:
    """The comparison of each eval set of either, or why there is none."""
    rows = before.evaluations(), after.evaluations()
    names = before.name, after.name
    compared: list[Comparison | Uncompared] = []
    for eval_set in dict.fromkeys([*rows[0], *rows[1]]):
        lacking = [name for name, own in zip(names, rows, strict=True) if eval_set not in own]
        if lacking:
            reason = f"{lacking[0]} has no evaluation of it"
            compared.append(Uncompared(eval_set, *names, reason))
            continue
        results = [
            task_results(side.folder, own[eval_set])
            for side, own in zip((before, after), rows, strict=True)
        ]
        empty = [name for name, own in zip(names, results, strict=True) if not own]
        if empty:
            reason = f"{empty[0]} kept no completions of it"
            compared.append(Uncompared(eval_set, *names, reason))
        elif not results[0].keys() & results[1].keys():
            compared.append(Uncompared(eval_set, *names, "they have no task in common"))
        else:
            pairs = zip(names, results, strict=True)
            compared.append(_compared(eval_set, *pairs))
    return compared


def _compared(
    eval_set: str,
    before: tuple[str, Mapping[Any, TaskResult]],
    after: tuple[str, Mapping[Any, TaskResult]],
) -> Comparison:
    first, second = before[1], after[1]
    keys = [key for key in first if key in second]
    means = [first[key].mean for key in keys], [second[key].mean for key in keys]
    all_scores = [task.scores for tasks in (first, second) for task in tasks.values()]
    single = all(len(scores) == 1 and scores[0] in (0, 1) for scores in all_scores)
    changes = [
        Change(key[0], first[key], second[key])
        for key in keys
        if (first[key].mean >= PASS) != (second[key].mean >= PASS)
    ]
    return Comparison(
        eval_set=eval_set,
        before=before[0],
        after=after[0],
        tasks=len(keys),
        unpaired=len(first.keys() ^ second.keys()),
        difference=sum(means[1]) / len(keys) - sum(means[0]) / len(keys),
        interval=paired_bootstrap(*means),
        p_value=mcnemar_exact(*means) if single else None,
        changes=changes,
    )


def task_results(
    folder: RunFolder, row: Mapping[str, Any]
) -> dict[tuple[str, str], TaskResult]:
    """(id, prompt) -> result of each task of an evaluation that has a score.

    The prompt belongs to it: an id may name another task in another recipe.
    """
    modes = ("sampled",) if "greedy/accuracy" in row else ("sampled", "greedy")
    tasks: dict[tuple[str, str], TaskResult] = {}
    for path in folder.evaluation_files(row):
        for kept in read_rows(path):
            if kept["mode"] in modes and kept["score"] is not None:
                key = (str(kept["task"]), json.dumps(kept["prompt"], sort_keys=True))
                task = tasks.setdefault(key, TaskResult([], []))
                task.scores.append(kept["score"])
                task.rows.append(kept)
    return tasks
