"""Measures of papers on the kept completions of evaluations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlcore.analysis.compare import Side, TaskResult, task_results
from rlcore.analysis.run_measures import Row, row_head
from rlcore.errors import RunError
from rlcore.measures.calibration import comparison_metrics
from rlcore.measures.capability import Ability, Counts, ability, by_difficulty
from rlcore.measures.expected_maximum import HARMFUL, harm_probability
from rlcore.measures.expected_maximum import expected_maximum as expected_of
from rlcore.measures.intervals import mean_interval
from rlcore.measures.reconsider import reconsidered
from rlcore.run.evaluation import PASS


def capability(sides: Sequence[Side], *, k: int | None = None) -> list[Row]:
    """RL vs. distillation: accuracy and capability (pass@k) by difficulty, before and after training. RUNS: base, before, after.

    base decides the bin of each task. Of two runs, every second completion of the first is base, the others before.
    k: default, the fewest completions of a task.
    """
    if len(sides) not in (2, 3):
        raise RunError(
            f"measure 'capability' compares base, before and after: name two or three runs, not {len(sides)}"
        )
    rows = []
    for eval_set in sides[-1].evaluations():
        tasks = [_tasks(side, eval_set) for side in sides]
        after = _counts(tasks[-1], slice(None))
        before = _counts(tasks[-2], slice(None) if len(sides) == 3 else slice(1, None, 2))
        base = _counts(tasks[0], slice(None) if len(sides) == 3 else slice(0, None, 2))
        shared = [task for task in base if task in before and task in after]
        if not shared:
            continue
        size = k or min(n for counts in (before, after) for n, _ in map(counts.get, shared))
        pairs = [
            (f"{part.low:g} to {part.high:g}", part.before, part.after)
            for part in by_difficulty(base, before, after, size)
        ]
        whole = [ability([counts[task] for task in shared], size) for counts in (before, after)]
        for label, *abilities in [*pairs, ("all", *whole)]:
            head = {"eval set": eval_set, "solved by base": label}
            rows.append(head | _of_abilities(*abilities, size))
    return rows


def _of_abilities(before: Ability, after: Ability, k: int) -> Row:
    return {
        "tasks": before.questions,
        "accuracy before": before.accuracy,
        "accuracy after": after.accuracy,
        f"pass@{k} before": before.capability,
        "interval before": before.capability_interval,
        f"pass@{k} after": after.capability,
        "interval after": after.capability_interval,
    }


def reconsider(sides: Sequence[Side], *, first: str = "first") -> list[Row]:
    """Confidence v.s. Critique: what asking again does to the answers. first: name of the reward of the first turn.

    The evaluation has the environment `reconsider`, and beside its reward the same one with `turn: 1`. An answer that was
    cut is not asked about, and is left out.
    """
    rows = []
    for side, eval_set, tasks in _evaluated(sides):
        before, after = [], []
        not_asked = 0
        for score, kept in _completions(tasks):
            part = _part(kept, first, side)
            turns = len((kept.get("episode") or {"rewards": [0]})["rewards"])
            if turns < 2:
                not_asked += 1
            elif part is not None:
                before.append(part >= PASS)
                after.append(score >= PASS)
        if not before:
            continue
        rates = reconsidered(before, after)
        rows.append(
            {
                **row_head(side, eval_set),
                "completions": len(before),
                "not asked": not_asked,
                "accuracy before": rates.accuracy_before,
                "accuracy after": rates.accuracy_after,
                "CL": rates.confidence,
                "CS": rates.critique,
                "RSS": rates.relative_score,
            }
        )
    return rows


def expected_maximum(
    sides: Sequence[Side], *, n: int | None = None, by: str = "", threshold: float = HARMFUL
) -> list[Row]:
    """RealToxicityPrompts: expected largest score of n completions, and the chance that one reaches the threshold, by category.

    by: name of the reward whose score it is; default, that of the accuracy. n: default, the fewest completions of a task.
    """
    rows = []
    for side, eval_set, tasks in _evaluated(sides):
        by_category: dict[str, list[list[float]]] = {}
        for result in tasks.values():
            scores = result.scores
            if by:
                parts = [_part(kept, by, side) for kept in result.rows]
                scores = [part for part in parts if part is not None]
            by_category.setdefault(str(result.rows[0]["category"]), []).append(scores)
        size = n or min(len(scores) for group in by_category.values() for scores in group)
        for category, group in sorted(by_category.items()):
            maxima = [expected_of(scores, size) for scores in group]
            chances = [harm_probability(scores, size, threshold) for scores in group]
            rows.append(
                {
                    **row_head(side, eval_set),
                    "category": category,
                    "tasks": len(group),
                    "n": size,
                    "expected maximum": sum(maxima) / len(group),
                    "interval": mean_interval([[value] for value in maxima]),
                    f"chance of {threshold:g}": sum(chances) / len(group),
                }
            )
    return rows


def calibration(sides: Sequence[Side], *, by: str = "reward_model") -> list[Row]:
    """How often a reward puts right completions above wrong ones of the same task, and whether its differences are log-odds.

    by: name of the reward. Under Bradley-Terry sigmoid(difference) is a probability: Brier score and calibration error are its.
    """
    rows = []
    for side, eval_set, tasks in _evaluated(sides):
        differences = []
        for result in tasks.values():
            pairs = list(zip(result.scores, result.rows, strict=True))
            parts = [(score >= PASS, _part(kept, by, side)) for score, kept in pairs]
            right = [part for is_right, part in parts if is_right and part is not None]
            wrong = [part for is_right, part in parts if not is_right and part is not None]
            differences += [better - worse for better in right for worse in wrong]
        if differences:
            measured = comparison_metrics(differences)
            measured.pop("bins")
            rows.append({**row_head(side, eval_set), **measured})
    return rows


def _evaluated(sides: Sequence[Side]) -> Iterator[tuple[Side, str, dict[Any, TaskResult]]]:
    """Each evaluation of each side with its tasks."""
    for side in sides:
        for eval_set in side.evaluations():
            tasks = _tasks(side, eval_set)
            if tasks:
                yield side, eval_set, tasks


def _tasks(side: Side, eval_set: str) -> dict[Any, TaskResult]:
    row = side.evaluations().get(eval_set)
    return {} if row is None else task_results(side.folder, row)


def _completions(tasks: Mapping[Any, TaskResult]) -> Iterator[tuple[float, Mapping[str, Any]]]:
    for result in tasks.values():
        yield from zip(result.scores, result.rows, strict=True)


def _counts(tasks: Mapping[Any, TaskResult], which: slice) -> Counts:
    """Task -> (completions, right ones), of some of the completions of each."""
    counts = {}
    for task, result in tasks.items():
        scores = result.scores[which]
        if scores:
            counts[task] = len(scores), sum(score >= PASS for score in scores)
    return counts


def _part(kept: Mapping[str, Any], name: str, side: Side) -> float | None:
    """What the reward `name` gave a completion; None where it failed. Raises `RunError` where there is no such reward."""
    if name not in kept["parts"]:
        raise RunError(
            f"{side.name}: its completions have no reward {name!r}; there are {', '.join(kept['parts'])}"
        )
    return kept["parts"][name]
