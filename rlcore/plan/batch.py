"""How long the texts of a stage are, and what of them is in one micro-batch."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from rlcore.errors import RlcoreError
from rlcore.learner.pack import LEAST
from rlcore.plan.trace import Tree
from rlcore.recipe.build import TaskSets
from rlcore.recipe.schema import Recipe
from rlcore.rollout.demonstration import encode_demonstration
from rlcore.rollout.prompt import PromptEncoder
from rlcore.run.folder import read_rows
from rlcore.types import Task

_TASKS_READ = 64
"""Tasks of a set whose length in tokens is counted."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of a prompt and of a completion, on average, and how that is known."""

    prompt: int
    completion: int
    source: str


@dataclass(frozen=True)
class MicroBatch:
    """What one forward and backward of a rank reads."""

    tree: Tree
    count: int
    """Micro-batches of an update on each rank."""


def micro_batch(stage: Any, lengths: Lengths, *, ranks: int) -> MicroBatch:
    """The micro-batches of one update. stage: one with `optim`, of a built-in kind."""
    limit = stage.optim.micro_batch_tokens
    if hasattr(stage, "groups_per_step"):
        groups = -(-stage.groups_per_step // (ranks * stage.minibatches))
        size = stage.group_size
        layout = stage.optim.layout
        shared = layout != "packed" and size > 1 and lengths.prompt >= LEAST[layout]
    else:
        groups = -(-stage.batch_size // ranks)
        size, shared = 1, False
    tree = Tree(
        prompts=groups,
        completions=size,
        prompt_tokens=lengths.prompt,
        completion_tokens=lengths.completion,
        shared=shared,
    )
    count = max(1, -(-tree.tokens // limit))
    if count <= groups:
        return MicroBatch(replace(tree, prompts=-(-groups // count)), count)
    # a group is cut, and its prompt is read once in each of its parts
    room = max(lengths.completion, limit - (lengths.prompt if shared else 0))
    each = lengths.completion if shared else lengths.prompt + lengths.completion
    parts = -(-size // max(1, room // each))
    cut = replace(tree, prompts=1, completions=-(-size // parts))
    return MicroBatch(cut, groups * parts)


def stage_lengths(
    recipe: Recipe, stage: Any, encoder: Callable[[], PromptEncoder], run: Path | None
) -> Lengths:
    """From a run's metrics where a folder is named, else prompts of the task set and the longest completion allowed."""
    longest = recipe.engine.max_length
    allowed = getattr(getattr(stage, "sampling", None), "max_tokens", None)
    if run is not None and allowed is not None:
        measured = measured_lengths(run)
        if measured is not None:
            return measured
    prompts: list[int] = []
    demonstrations: list[int] = []
    for name in getattr(stage, "task_sets", ()):
        try:
            of_set = _token_counts(recipe, name, encoder(), stage.imitates)
        except RlcoreError:
            # the recipe is planned on a machine without its data or tokenizer
            continue
        prompts += of_set[0]
        demonstrations += of_set[1]
    if allowed is None:
        if prompts and demonstrations:
            means = (statistics.fmean(prompts), statistics.fmean(demonstrations))
            return Lengths(*map(round, means), "demonstrations")
        return Lengths(longest // 2, longest - longest // 2, "engine.max_length, halved")
    if prompts:
        prompt = round(statistics.fmean(prompts))
        return Lengths(prompt, min(allowed, longest - prompt), "prompts and max_tokens")
    return Lengths(longest - allowed, allowed, "engine.max_length and max_tokens")


def measured_lengths(run: Path) -> Lengths | None:
    """Mean lengths of the last rl steps of a run."""
    rows = [row for row in read_rows(run / "metrics.jsonl") if "tokens/prompt" in row][
        -_TASKS_READ:
    ]
    if not rows:
        return None
    completion = statistics.fmean(row["completions/length/mean"] for row in rows)
    prompt = statistics.fmean(
        row["tokens/prompt"] * row["completions/length/mean"] / max(1, row["tokens/completion"])
        for row in rows
    )
    return Lengths(round(prompt), round(completion), f"{len(rows)} steps of {run}")


def wasted_groups(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Mean fraction of groups with equal rewards over metrics rows; None where none says it."""
    shares = [row["reward/frac_zero_std"] for row in rows if "reward/frac_zero_std" in row]
    return statistics.fmean(shares) if shares else None


def _token_counts(
    recipe: Recipe, name: str, encoder: PromptEncoder, imitates: bool
) -> tuple[list[int], list[int]]:
    tasks: list[Task] = list(islice(TaskSets(recipe.tasks, recipe.stages)[name], _TASKS_READ))
    prompts = [len(encoder.encode(task)) for task in tasks]
    if not imitates:
        return prompts, []
    return prompts, [len(encode_demonstration(encoder, task)[0]) for task in tasks]
