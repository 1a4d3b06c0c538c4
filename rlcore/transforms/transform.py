"""What a transform is, and how a stage applies those that its recipe names.

A transform is one function. The name of its first parameter says what it changes:

    task      before it is encoded: `(task, draw, **parameters) -> Task or None`
    sample    the tokens: `(sample, draw, **parameters) -> Sample or None`

None leaves the demonstration out of the step. Parameters are keys of the recipe. All chance comes
from `draw.rng`, so that a resumed run draws what the whole run drew, and each epoch draws anew.
Transforms run one after the other, those of tasks first. They serve training alone: evaluations read
the tasks as they are.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from rlcore.errors import RecipeError, TaskError
from rlcore.plugin import Named, build_later, call, signature
from rlcore.types import Sample, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TRANSFORMS = {
    "masked_thought": "rlcore.transforms.masked_thought:masked_thought",
    "own_tokens": "rlcore.transforms.drafts:own_tokens",
    "correction": "rlcore.transforms.drafts:correction",
    "metadata": "rlcore.transforms.texts:metadata",
    "thought": "rlcore.transforms.texts:thought",
    "conditional": "rlcore.transforms.scores:conditional",
    "filter": "rlcore.transforms.scores:filter",
    "easy_first": "rlcore.transforms.scores:easy_first",
    "score": "rlcore.transforms.scores:score",
}
"""Name in a recipe -> where it is."""


Share = Annotated[float, Field(ge=0, le=1)]
"""A parameter from 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One demonstration in one step, as a transform meets it."""

    task: Task
    step: int
    """Of the stage, from 0."""
    steps: int
    """Of the stage."""
    seed: str
    """Depends on the run's seed, the stage, the step and the number in the batch."""
    tokenizer: PreTrainedTokenizerBase
    start: int = 0
    """Where the completion begins in the sample: tokens before it are the prompt and what transforms put there."""

    @cached_property
    def rng(self) -> random.Random:
        """All chance of the transform."""
        return random.Random(self.seed)

    @property
    def progress(self) -> float:
        """Fraction of the stage's steps that are done."""
        return self.step / self.steps

    def ramped(self, final: float, ramp: float) -> float:
        """A number that rises in a line from 0 to `final` over the fraction `ramp` of the steps; 0: it does not rise."""
        return final if ramp == 0 else final * min(1.0, self.progress / ramp)

    def column(self, name: str) -> Any:
        """What the task's row has in the column. Raises `TaskError` where it has none, or nothing in it."""
        value = self.task.columns.get(name)
        if value is None:
            raise TaskError(
                f"task {self.task.id!r} has nothing in the column {name!r}, which a transform of its stage reads"
            )
        return value

    def number(self, name: str) -> float:
        """`column`, as a number. Raises `TaskError`."""
        value = self.column(name)
        if isinstance(value, str) or value != value:
            raise TaskError(
                f"the column {name!r} of task {self.task.id!r} holds {value!r}, where a transform needs a number"
            )
        return float(value)

    def ids(self, text: str) -> list[int]:
        """Tokens of the text alone."""
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def token(self, text: str) -> int:
        """The one token that is `text`. Raises `TaskError` where the tokenizer has none."""
        ids = self.ids(text)
        if len(ids) != 1:
            raise TaskError(
                f"{text!r} is {len(ids)} tokens of this tokenizer, where a transform needs one"
            )
        return ids[0]


class Transforms:
    """The transforms of a stage, in their order."""

    def __init__(self, named: Named | Sequence[Named] | None) -> None:
        """named: as the recipe writes them. Raises `RecipeError`."""
        listed = [named] if isinstance(named, str | Mapping) else list(named or ())
        parts = [build_later(one, TRANSFORMS, what="transform", given=2) for one in listed]
        self._of_tasks = [part for part in parts if _changes(part) == "task"]
        self._of_samples = [part for part in parts if _changes(part) == "sample"]

    def __bool__(self) -> bool:
        return bool(self._of_tasks or self._of_samples)

    @property
    def sets_advantages(self) -> bool:
        """Whether one of them says so, by an attribute of its function."""
        return any(getattr(part.func, "sets_advantages", False) for part in self._of_samples)

    def apply(
        self,
        draw: Draw,
        encode: Callable[[Task], Sample],
        widen: Callable[[Sample], Sample] | None = None,
    ) -> Sample | None:
        """The sample of the draw's task; None where a transform leaves it out.

        encode: gives the sample of a task, whose first trained token begins the completion.
        widen: what is trained beside the completion, before tokens are changed.
        Raises the transform's own `RlcoreError`, and `RecipeError` for any other exception.
        """
        for number, part in enumerate(self._of_tasks):
            task: Task | None = _checked(part, draw.task, _numbered(draw, number), Task)
            if task is None:
                return None
            draw = replace(draw, task=task)
        sample = encode(draw.task)
        draw = replace(draw, start=sample.mask.index(True))
        if widen is not None:
            sample = widen(sample)
        for number, part in enumerate(self._of_samples, start=len(self._of_tasks)):
            changed = _checked(part, sample, _numbered(draw, number), Sample)
            if changed is None:
                return None
            # A transform that changes the length does so in front of the completion.
            added = len(changed.token_ids) - len(sample.token_ids)
            draw = replace(draw, start=draw.start + added)
            sample = changed
        return sample


def insert(sample: Sample, position: int, ids: Sequence[int]) -> Sample:
    """The sample with tokens that are read and not trained, in front of `position`."""
    count = len(ids)

    def longer(values: list[Any], new: Sequence[Any]) -> list[Any]:
        return [*values[:position], *new, *values[position:]]

    inputs = sample.input_ids
    return replace(
        sample,
        token_ids=longer(sample.token_ids, ids),
        mask=longer(sample.mask, [False] * count),
        advantages=longer(sample.advantages, [0.0] * count),
        input_ids=None if inputs is None else longer(inputs, ids),
    )


def _changes(part: partial[Any]) -> str:
    first = next(iter(signature(part.func).parameters), "")
    if first not in ("task", "sample"):
        raise RecipeError(
            f"the first parameter of the transform {part.func.__name__} is {first!r}: call it `task` or `sample`, "
            "which says what it changes"
        )
    return first


def _numbered(draw: Draw, number: int) -> Draw:
    """A draw with chance of its own for each transform."""
    return replace(draw, seed=f"{draw.seed}/{number}")


def _checked(part: partial[Any], value: Any, draw: Draw, kind: type) -> Any:
    name = part.func.__name__
    result = call(f"transform {name}", part, value, draw)
    if result is not None and not isinstance(result, kind):
        raise RecipeError(
            f"transform {name} must give a {kind.__name__} or None, not a {type(result).__name__}"
        )
    return result
