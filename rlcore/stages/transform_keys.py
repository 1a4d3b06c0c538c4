"""The key `transform` of stages that imitate: `sft` changes demonstrations, `offline` stored completions."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from pydantic import Field

from rlcore.errors import RecipeError, TaskError
from rlcore.objective.term import Objective
from rlcore.run.seeds import derive
from rlcore.stages.base import Stage
from rlcore.transforms.transform import Draw, Transforms
from rlcore.types import Sample, Task

if TYPE_CHECKING:
    from rlcore.run.session import Run


class TransformKey(Stage):
    transform: str | dict[str, Any] | list[str | dict[str, Any]] | None = Field(
        None,
        description="what is changed in an example, afresh in each step: masked_thought, metadata, ..., {use: name, "
        "parameter: value}, or a list of them; docs/imitation.md",
    )


def check_transforms(
    stage: TransformKey, objective: Objective, columns: Collection[str]
) -> Transforms:
    """The stage's transforms. columns: that its tasks have. Raises `RecipeError`."""
    transforms = Transforms(stage.transform)
    if transforms.sets_advantages and not objective.reads_advantages:
        raise RecipeError(
            f"score has no effect: the objective {stage.objective!r} reads no advantages; set objective to awr or "
            "unlikelihood, for example"
        )
    transforms.check_columns(columns)
    return transforms


def transformed(
    run: Run,
    stage: TransformKey,
    transforms: Transforms,
    task: Task,
    number: int,
    *,
    seed: int,
    encode: Callable[[Task], Sample],
    widen: Callable[[Sample], Sample] | None = None,
) -> Sample | None:
    """What the stage trains on of a task in its present step; None where a transform leaves it out.

    transforms: the stage's. number: of the example in the step, over all ranks. encode, widen: as `Transforms.apply` takes them.
    """
    step = run.cursor.stage_step
    draw = Draw(
        task=task,
        step=step,
        steps=stage.steps,
        seed=f"{derive(seed, 'transform')}/{step}/{number}",
        tokenizer=run.policy.tokenizer,
    )
    sample = transforms.apply(draw, encode, widen)
    if sample is None:
        return None
    vocabulary = run.policy.model.config.get_text_config().vocab_size
    strange = [
        id for id in (*sample.token_ids, *(sample.input_ids or ())) if not 0 <= id < vocabulary
    ]
    if strange:
        raise TaskError(
            f"stage {stage.label}: its transform puts the token {strange[0]} into the demonstration of task {task.id!r}, and the "
            f"model has the tokens 0 to {vocabulary - 1:,}"
        )
    if len(sample.token_ids) > run.policy.max_length:
        raise TaskError(
            f"stage {stage.label}: its transform makes the demonstration of task {task.id!r} {len(sample.token_ids):,} tokens "
            f"long, and the model reads {run.policy.max_length:,}: shorten the text, or leave the row out of the data"
        )
    return sample
