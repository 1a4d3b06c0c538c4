"""Every row of the run's task sets, encoded once before anything is computed: do its texts fit the model?

One bad row would otherwise end a run in the middle, whenever it happens to be drawn.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlcore.errors import TaskError
from rlcore.recipe.build_learner import encoder_without_model, local_tokenizer
from rlcore.rollout.demonstration import encode_demonstration
from rlcore.rollout.prompt import PromptEncoder
from rlcore.tasks.lazy import LazyTasks
from rlcore.types import Task

if TYPE_CHECKING:
    from rlcore.recipe.schema import Recipe
    from rlcore.run.session import Run


@dataclass(frozen=True)
class Needs:
    """What the stages that use a task set ask of each row."""

    completes: bool = False
    """Completions are generated: the prompt must leave room for one."""
    imitates: bool = False
    """The row's demonstration is learned from."""


def needs_of(recipe: Recipe) -> dict[str, Needs]:
    """By name of the task set. Sets that no stage reads are left out."""
    needs: dict[str, Needs] = {}
    for stage in recipe.stages:
        names = getattr(stage, "tasks", None) or []
        for name in [names] if isinstance(names, str) else names:
            before = needs.get(name, Needs())
            needs[name] = Needs(
                # With an environment the prompt is whole only when an episode begins.
                completes=before.completes
                or (hasattr(stage, "sampling") and getattr(stage, "env", None) is None),
                imitates=before.imitates or stage.imitates,
            )
    return needs


def _needs_of_made(tasks: Mapping[str, Sequence[Task]], recipe: Recipe) -> dict[str, Needs]:
    """`needs_of` those of the sets that are made already."""
    return {
        name: needs
        for name, needs in needs_of(recipe).items()
        if name in tasks and not getattr(tasks[name], "deferred", False)
    }


def usable_in(run: Run, tasks: Mapping[str, Sequence[Task]]) -> dict[str, Sequence[Task]]:
    """`usable_tasks` for the stages of a run; sets that are not made yet stay as they are. Collective."""
    return usable_tasks(
        tasks,
        _needs_of_made(tasks, run.recipe),
        run.encoder,
        max_length=run.max_length,
        max_imitated=run.policy.max_length,
        drop_long=run.recipe.prompt.too_long == "drop",
        share=run.my_share,
        gather=run.gather,
        say=run.tracker.say,
    )


def check_lengths(recipe: Recipe, tasks: Mapping[str, Sequence[Task]]) -> list[str]:
    """What a run would say of rows that are too long, before there is a model. Raises `TaskError` as it would.

    The limit is `engine.max_length`, or the positions of a model that the recipe itself describes where they are fewer.
    Nothing is looked at without a tokenizer on this machine, and one sentence says so.
    """
    tokenizer = local_tokenizer(recipe.model)
    if tokenizer is None:
        return ["prompts: not measured, the model's tokenizer is not on this machine"]
    positions = (recipe.model.config or {}).get("max_position_embeddings")
    facts: list[str] = []
    usable_tasks(
        tasks,
        _needs_of_made(tasks, recipe),
        encoder_without_model(recipe, tokenizer),
        max_length=min(recipe.engine.max_length, positions or recipe.engine.max_length),
        max_imitated=positions or sys.maxsize,
        drop_long=recipe.prompt.too_long == "drop",
        say=facts.append,
    )
    return facts


def usable_tasks(
    tasks: Mapping[str, Sequence[Task]],
    needs: Mapping[str, Needs],
    encoder: PromptEncoder,
    *,
    max_length: int,
    max_imitated: int,
    drop_long: bool,
    share: Callable[[Sequence[int]], Sequence[int]] = list,
    gather: Callable[[Sequence[Any]], list[Any]] = list,
    say: Callable[[str], None] = lambda sentence: None,
) -> dict[str, Sequence[Task]]:
    """The task sets without rows that are too long; every rank gets the same.

    max_length: tokens of prompt and completion together. max_imitated: of prompt and demonstration.
    drop_long: leave long rows out and `say` how many; else they are an error.
    share: a rank's part of the rows. gather: the findings of all ranks.
    Raises `TaskError` for a row that cannot be used otherwise, with its id.
    """
    usable = dict(tasks)
    for name, of_set in needs.items():
        rows = tasks[name]
        long: list[tuple[int, str]] = []
        for position in share(range(len(rows))):
            problem = _too_long(rows[position], of_set, encoder, max_length, max_imitated)
            if problem:
                long.append((position, problem))
        long = sorted(gather(long))
        if not long:
            continue
        count = f"{len(long):,} of {len(rows):,} rows"
        first = f"the first is {rows[long[0][0]].id}, {long[0][1]}"
        if not drop_long:
            raise TaskError(
                f"tasks.{name}: {count} are too long, {first}; leave them out with "
                "prompt.too_long=drop, or raise engine.max_length if the model reads more"
            )
        if len(long) == len(rows):
            raise TaskError(f"tasks.{name}: all {len(rows):,} rows are too long, {first}")
        say(f"tasks {name}: {count} are too long and left out; {first}")
        usable[name] = _without(rows, {position for position, _ in long})
    return usable


def _too_long(
    task: Task, needs: Needs, encoder: PromptEncoder, max_length: int, max_imitated: int
) -> str:
    """What is too long about a row; "" if nothing is."""
    if not (needs.completes or needs.imitates):
        return ""
    prompt = len(encoder.encode(task))
    if needs.completes and prompt >= max_length:
        return f"whose prompt has {prompt:,} tokens of {max_length:,} and leaves no room for a completion"
    if needs.imitates:
        whole = prompt + len(encode_demonstration(encoder, task)[0])
        if whole > max_imitated:
            return f"whose prompt and demonstration have {whole:,} tokens of {max_imitated:,}"
    return ""


def _without(tasks: Sequence[Task], positions: set[int]) -> Sequence[Task]:
    kept = [i for i in range(len(tasks)) if i not in positions]
    if not isinstance(tasks, LazyTasks):
        return [tasks[i] for i in kept]

    def column(name: str) -> Sequence[Any] | None:
        values = tasks.column(name)
        return None if values is None else [values[i] for i in kept]

    return LazyTasks(len(kept), lambda i: tasks[kept[i]], column=column)
