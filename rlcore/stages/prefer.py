"""Stage `prefer`: learn from pairs with TRL's DPOTrainer, on the policy the stage before left.

The pairs are made of stored rollouts (`rlcore.credit.pairs`) and written to `pairs/<stage>.jsonl` in TRL's preference format with
the exact tokens beside the texts: `prompt chosen rejected prompt_ids chosen_ids rejected_ids`. Training reads the tokens, so that
a rejected step is not closed by an end-of-sequence token and nothing is tokenised anew. TRL brings the loss and the loop;
optimiser, schedule, metrics and checkpoints are ours. A run killed in this stage starts the stage again.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from rlcore.credit.pairs import Pair, answer_pairs, first_pit_pairs, shared_prefix_pairs
from rlcore.errors import RecipeError, RunError
from rlcore.recipe.optim_sections import UpdateSection
from rlcore.run.seeds import derive
from rlcore.stages.base import DataStage
from rlcore.types import Task

if TYPE_CHECKING:
    from rlcore.recipe.check import Checking
    from rlcore.run.session import Run
    from rlcore.run.stored import Stored


class PreferStage(DataStage):
    headline = ("loss", "margin", "accuracy")
    files = "pairs"

    pairs: Literal["answers", "first_pit", "shared_prefix", "given"] = Field(
        "answers",
        description="correct against wrong completion; against a wrong one up to its first pit; two next steps; or ready pairs",
    )
    per_task: PositiveInt | None = Field(None, description="at most so many pairs of a task")
    min_gap: Annotated[float, Field(ge=0, le=1)] = Field(
        0.1,
        description="first_pit: least range of a completion's step values; shared_prefix: least difference of two steps'",
    )
    bradley_terry: bool = Field(
        False,
        description="shared_prefix: draw the winner with probability sigmoid(difference) instead of taking the better",
    )
    steps: PositiveInt = Field(description="optimiser steps")
    batch_size: PositiveInt = Field(64, description="pairs in a step, over all processes")
    micro_batch: PositiveInt | None = Field(
        None, description="pairs in one forward; default: those of a process's step"
    )
    beta: PositiveFloat = Field(
        0.1, description="how strongly the policy is held to the model the stage began with"
    )
    loss_type: str | dict[str, float] = Field(
        "sigmoid",
        description="a loss of TRL's DPOTrainer (ipo, hinge, sigmoid_norm, ...), or a mix: {sigmoid: 1.0, sft: 0.2}",
    )
    optim: UpdateSection = Field(default_factory=UpdateSection)

    @model_validator(mode="after")
    def _whole_batches(self) -> PreferStage:
        micro_batch = min(self.micro_batch or self.batch_size, self.batch_size)
        if self.batch_size % micro_batch:
            raise ValueError(
                f"micro_batch is {self.micro_batch}, which does not divide "
                f"batch_size ({self.batch_size})"
            )
        return self

    def micro_batches(self, processes: int) -> tuple[int, int]:
        """Pairs in one forward of a process, and forwards in a step.

        Raises `RecipeError` where a step's pairs cannot be divided exactly.
        """
        if self.batch_size % processes:
            raise RecipeError(
                f"stage {self.label}: batch_size is {self.batch_size}, which {processes} processes "
                f"cannot divide equally: use a multiple of {processes}"
            )
        pairs = self.batch_size // processes
        micro_batch = min(self.micro_batch or pairs, pairs)
        if pairs % micro_batch:
            raise RecipeError(
                f"stage {self.label}: micro_batch is {micro_batch}, which does not divide "
                f"the {pairs} pairs of a process's step"
            )
        return micro_batch, pairs // micro_batch

    def check(self, context: Checking) -> list[str]:
        facts = super().check(context)
        if importlib.util.find_spec("trl") is None:
            raise RecipeError(
                f"{context.place} needs the package trl, which is not installed: "
                "pip install 'rlcore[prefer]'"
            )
        total = self.steps * self.batch_size
        return [
            *facts,
            f"{self.label}: {self.steps} steps x {self.batch_size} pairs = {total:,}",
        ]

    def run(self, run: Run) -> None:
        run_prefer(run, self)


def run_prefer(run: Run, stage: PreferStage) -> None:
    from rlcore.run.folder import read_rows
    from rlcore.run.stored import read_stored, stored_files
    from rlcore.stages.prefer_trl import train_pairs  # TRL takes seconds to import

    name, seed = stage.label, derive(run.recipe.seed, "prefer", run.cursor.stage)
    path = run.stored(stage.data)
    if stage.pairs == "given":
        rows = [given_row(run, row) for file in stored_files(path) for row in read_rows(file)]
    else:
        rows = [
            pair_row(run, one, pair)
            for one in read_stored(path)
            for pair in make_pairs(one, stage, seed)
        ]
    if not rows:
        raise RunError(
            f"no pairs of kind {stage.pairs!r} can be made of {stage.data}: they need wrong completions beside correct ones"
            + ("" if stage.pairs == "answers" else ", with step values")
        )
    if run.accelerator.is_main_process:
        run.folder.write_pairs(name, rows)
    run.tracker.say(f"{name}: {len(rows):,} pairs ({stage.pairs})")
    run.forget_average()
    with run.tracker.stage(stage, done=0):
        train_pairs(
            run.policy,
            rows,
            stage,
            seed=seed,
            processes=run.accelerator.num_processes,
            log=run.log_step,
        )
    run.end_stage()


def make_pairs(one: Stored, stage: PreferStage, seed: int) -> list[Pair]:
    """The pairs of one task, at most `per_task`."""
    match stage.pairs:
        case "first_pit":
            found = list(first_pit_pairs(one.group, min_gap=stage.min_gap))
        case "shared_prefix":
            draw = random.Random(f"{seed}/{one.group.task.id}") if stage.bradley_terry else None
            found = list(shared_prefix_pairs(one.group, min_gap=stage.min_gap, draw=draw))
        case _:
            found = list(answer_pairs(one.group))
    return found[: stage.per_task]


def pair_row(run: Run, one: Stored, pair: Pair) -> dict[str, Any]:
    """A row of the preference data set; chat prompts stay messages, as TRL writes them."""
    prompt, chosen, rejected = (
        one.group.task.prompt,
        *map(run.encoder.decode, (pair.chosen_ids, pair.rejected_ids)),
    )
    if not isinstance(prompt, str) or run.encoder.format == "chat":
        prompt = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        chosen, rejected = (
            [{"role": "assistant", "content": text}] for text in (chosen, rejected)
        )
    ids = {
        "prompt_ids": pair.prompt_ids,
        "chosen_ids": pair.chosen_ids,
        "rejected_ids": pair.rejected_ids,
    }
    return {
        "task": pair.task_id,
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
        **ids,
    }


def given_row(run: Run, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of somebody's preference data set, with the tokens it lacks: completions are then taken to be whole."""
    if "prompt_ids" in row:
        return dict(row)
    try:
        task = Task(id="given", prompt=row["prompt"])
        sides = [
            row[side] if isinstance(row[side], str) else row[side][-1]["content"]
            for side in ("chosen", "rejected")
        ]
    except (KeyError, TypeError, IndexError):
        raise RunError(
            "a given pair has no prompt, chosen and rejected: write each pair as {prompt, chosen, rejected}"
        ) from None
    whole = [
        run.encoder.encode_demonstration(Task(id="given", prompt="", demonstration=side))
        for side in sides
    ]
    return {
        **row,
        "prompt_ids": run.encoder.encode(task),
        "chosen_ids": whole[0],
        "rejected_ids": whole[1],
    }
