"""What the stages that learn from pairs have in common: where pairs come from, and their rows.

The rows are written to `pairs/<stage>.jsonl` in TRL's preference format with the exact tokens
beside the texts: `prompt chosen rejected prompt_ids chosen_ids rejected_ids margin`. Training
reads the tokens, so that a rejected step is not closed by an end-of-sequence token and nothing
is tokenised anew.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import Field, PositiveInt, model_validator

from rlcore.credit.pairs import BUILDER_CONTEXT, PAIRS, Pair
from rlcore.errors import RecipeError, RunError
from rlcore.plugin import Named, build_later, call
from rlcore.run.folder import read_rows
from rlcore.run.stored import read_stored, stored_files
from rlcore.stages.base import DataStage
from rlcore.stages.given_pairs import given_rows
from rlcore.stages.source_check import check_several

if TYPE_CHECKING:
    from rlcore.recipe.check import Checking
    from rlcore.run.session import Run
    from rlcore.types import Group

_STEPPED = (
    "they need wrong completions beside correct ones, and step values: give the stage that samples "
    "the key steps, for example steps: {use: monte_carlo}"
)
_NEEDED = {
    "answers": "they need wrong completions beside correct ones",
    "best_worst": "they need completions of one task with different rewards",
    "short": "they need a correct completion and longer ones of the same task",
    "first_pit": _STEPPED,
    "shared_prefix": _STEPPED,
    "given": "its files have no rows",
}
"""What pairs of a kind are made of, for a stage that gets none."""

GIVEN = "given"
"""Pairs that are ready in the files of `data`."""


class PairKeys(DataStage):
    """Keys of a stage that learns from pairs."""

    files = "pairs"

    pairs: str | dict[str, Any] = Field(
        "answers",
        description="how pairs are made of stored rollouts: answers, best_worst, short, first_pit, "
        "shared_prefix, delta, rise, "
        "file.py:function, or {use: name, parameter: value}; given: ready pairs; "
        "docs/preferences.md",
    )
    per_task: PositiveInt | None = Field(
        None, description="maximum number of pairs of a task that are made of stored rollouts"
    )

    steps: PositiveInt = Field(description="optimiser steps")
    batch_size: PositiveInt = Field(64, description="pairs in a step, over all processes")
    micro_batch: PositiveInt | None = Field(
        None, description="pairs in one forward; default: those of a process's step"
    )

    @model_validator(mode="before")
    @classmethod
    def _parameters_of_pairs(cls, value: Any) -> Any:
        for key in ("min_gap", "bradley_terry"):
            if isinstance(value, Mapping) and key in value and key not in cls.model_fields:
                raise ValueError(
                    f"the key {key!r} is now a parameter of pairs: "
                    f"pairs: {{use: {value.get('pairs', 'answers')}, {key}: {value[key]}}}"
                )
        return value

    @model_validator(mode="after")
    def _per_task_has_an_effect(self) -> PairKeys:
        if self.pairs == GIVEN and self.per_task is not None:
            raise ValueError("per_task has no effect on pairs that are given: leave it out")
        return self

    @property
    def takes_labels(self) -> bool:
        """Whether single completions with a label serve as well as pairs."""
        return False

    @model_validator(mode="after")
    def _whole_batches(self) -> PairKeys:
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
                f"stage {self.label}: batch_size is {self.batch_size}, which {processes} "
                f"processes "
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
        if self.pairs != GIVEN:
            with context.at("pairs"):
                builder = self._builder(dict.fromkeys(BUILDER_CONTEXT))
                check_several(context, self.data, builder.func)
        return facts

    def _builder(self, offered: Mapping[str, Any]) -> partial[Iterable[Pair]]:
        """The builder of pairs, to be called with a group. Raises `RecipeError`."""
        return build_later(self.pairs, PAIRS, what="pair builder", given=1, **offered)

    def make_pairs(self, group: Group, offered: Mapping[str, Any]) -> list[Pair]:
        """The pairs of one task, at most `per_task`."""
        owner = f"pair builder {self.pairs!r}"
        pairs = call(owner, lambda: list(self._builder(offered)(group)))
        if not all(isinstance(pair, Pair) for pair in pairs):
            raise RecipeError(f"{owner} must give rlcore.credit.pairs.Pair, not {pairs[:1]!r}")
        return pairs[: self.per_task]


def pair_rows(
    run: Run, stage: PairKeys, *, seed: int, may_be_empty: bool = False
) -> list[dict[str, Any]]:
    """The rows of a stage's pairs, the same on every rank, and on the main rank written to the
    run folder.

    Raises `RunError` if there are none, unless the list `may_be_empty`.
    """
    path = run.stored(stage.data)
    if stage.pairs == GIVEN:
        rows = [
            made
            for file in stored_files(path)
            for row in read_rows(file)
            for made in given_rows(run.encoder, row)
        ]
    else:
        rows = list(_made_rows(run, stage, seed))
    if not rows and may_be_empty:
        return []
    if not rows:
        name = pair_name(stage.pairs)
        why = _NEEDED.get(name, "the builder returned none for any task")
        raise RunError(
            f"stage {stage.label}: {stage.data} gives no pairs of kind {name!r}: {why}"
        )
    if not stage.takes_labels and any("label" in row for row in rows):
        raise RunError(
            f"stage {stage.label}: {stage.data} holds completions with a label, which are no pairs: "
            "they are for stage prefer with method: kto"
        )
    rows = _fitting(run, stage, rows)
    if run.accelerator.is_main_process:
        run.folder.write_pairs(stage.label, rows)
    run.tracker.say(f"{stage.label}: {len(rows):,} pairs ({pair_name(stage.pairs)})")
    return rows


def pair_name(pairs: Named) -> str:
    """The builder's name, as a recipe writes it."""
    return pairs if isinstance(pairs, str) else str(pairs.get("use"))


def _made_rows(run: Run, stage: PairKeys, seed: int) -> Iterator[dict[str, Any]]:
    offered = {
        "encode": run.encoder.ids,
        "decode": run.encoder.decode,
        "groups_of": lambda data: {
            one.group.task.id: one.group for one in read_stored(run.stored(data))
        },
    }
    for one in read_stored(run.stored(stage.data)):
        draw = random.Random(f"{seed}/{one.group.task.id}")
        for pair in stage.make_pairs(one.group, {**offered, "draw": draw}):
            yield _row(run, one.group, pair)


def _row(run: Run, group: Group, pair: Pair) -> dict[str, Any]:
    """A row of the preference data set; chat prompts stay messages, as TRL writes them."""
    prompt: Any = group.task.prompt
    chosen: Any = run.encoder.decode(pair.chosen_ids)
    rejected: Any = run.encoder.decode(pair.rejected_ids)
    if not isinstance(prompt, str) or run.encoder.format == "chat":
        prompt = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        chosen = [{"role": "assistant", "content": chosen}]
        rejected = [{"role": "assistant", "content": rejected}]
    row = {
        "task": pair.task_id,
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
        "prompt_ids": pair.prompt_ids,
        "chosen_ids": pair.chosen_ids,
        "rejected_ids": pair.rejected_ids,
    }
    return row if pair.margin is None else {**row, "margin": pair.margin}


def _fitting(run: Run, stage: PairKeys, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that the model can read. Raises `RunError` if none is left."""
    longest = run.policy.max_length
    kept = [row for row in rows if _length(row) <= longest]
    if not kept:
        raise RunError(
            f"stage {stage.label}: all {len(rows):,} pairs have more than {longest} tokens, "
            f"the most that the model reads"
        )
    if len(kept) < len(rows):
        run.tracker.say(
            f"{stage.label}: {len(rows) - len(kept):,} pairs left out, longer than the model's "
            f"{longest} tokens"
        )
    return kept


def _length(row: Mapping[str, Any]) -> int:
    sides = [row[key] for key in ("chosen_ids", "rejected_ids", "completion_ids") if key in row]
    return len(row["prompt_ids"]) + max(map(len, sides))
