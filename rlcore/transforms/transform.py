"""What a transform is, and how a stage applies those that its recipe names.

A transform is one function. The name of its first parameter says what it changes:

    task      before it is encoded: `(task, draw, **parameters) -> Task or None`
    sample    the tokens: `(sample, draw, **parameters) -> Sample or None`

None leaves the demonstration out of the step. Parameters are keys of the recipe. A parameter `column` names a column that
the transform reads; one that reads others says so by an attribute of the function, `reads(**parameters) -> names`.
All chance comes from `draw.rng`, so that a resumed run draws what the whole run drew, and each epoch draws anew.
Transforms run one after the other, those of tasks first. They serve training alone: evaluations read
the tasks as they are.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from rlcore.errors import RecipeError, TaskError
from rlcore.plugin import Named, build_later, call, did_you_mean, signature
from rlcore.tokenizer import text_ids
from rlcore.types import Sample, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TRANSFORMS = {
    "masked_thought": "rlcore.transforms.masked_thought:masked_thought",
    "own_tokens": "rlcore.transforms.drafts:own_tokens",
    "correction": "rlcore.transforms.drafts:correction",
    "metadata": "rlcore.transforms.texts:metadata",
    "thought": "rlcore.transforms.texts:thought",
    "signals": "rlcore.transforms.texts:signals",
    "markers": "rlcore.transforms.markers:markers",
    "conditional": "rlcore.transforms.scores:conditional",
    "filter": "rlcore.transforms.scores:filter",
    "easy_first": "rlcore.transforms.scores:easy_first",
    "score": "rlcore.transforms.scores:score",
    "feedback": "rlcore.transforms.feedback:feedback",
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
        return text_ids(self.tokenizer, text)

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
    def changes_tasks(self) -> bool:
        """Whether one of them changes tasks."""
        return bool(self._of_tasks)

    @property
    def sets_advantages(self) -> bool:
        """Whether one of them says so, by an attribute of its function."""
        return any(getattr(part.func, "sets_advantages", False) for part in self._of_samples)

    def check_columns(self, known: Collection[str]) -> None:
        """Raise `RecipeError` for a column that a transform reads and the tasks lack. known: columns of the tasks."""
        for part in [*self._of_tasks, *self._of_samples]:
            for column in _columns_read(part):
                if column not in known:
                    raise RecipeError(
                        f"{part.func.__name__} reads the column {column!r}, which the tasks do not have"
                        f"{did_you_mean(column, known)}"
                    )
            if part in self._of_tasks and part.func.__module__.partition(".")[0] != "rlcore":
                return  # it may have added columns

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
        trained = sample.mask.index(True) if any(sample.mask) else len(sample.mask)
        draw = replace(draw, start=trained)
        if widen is not None:
            sample = widen(sample)
        for number, part in enumerate(self._of_samples, start=len(self._of_tasks)):
            changed = _checked(part, sample, _numbered(draw, number), Sample)
            if changed is None:
                return None
            draw = replace(draw, start=_start_of_completion(changed, sample, draw.start))
            sample = changed
        return sample


def insert(sample: Sample, position: int, ids: Sequence[int], *, instead: int = 0) -> Sample:
    """The sample with tokens that are read and not trained, in front of `position`.

    instead: so many tokens from `position` on are taken away for them.
    """
    count = len(ids)
    rest = position + instead

    def spliced(values: list[Any] | None, new: Sequence[Any]) -> Any:
        return None if values is None else [*values[:position], *new, *values[rest:]]

    return replace(
        sample,
        token_ids=spliced(sample.token_ids, ids),
        mask=spliced(sample.mask, [False] * count),
        advantages=spliced(sample.advantages, [0.0] * count),
        logprobs=spliced(sample.logprobs, [0.0] * count),
        old_logprobs=spliced(sample.old_logprobs, [0.0] * count),
        support=spliced(sample.support, [None] * count),
        input_ids=spliced(sample.input_ids, ids),
    )


def _start_of_completion(changed: Sample, before: Sample, start: int) -> int:
    """Where the completion, which began at `start`, begins in the changed sample."""
    completion = before.token_ids[start:]
    added = len(changed.token_ids) - len(before.token_ids)
    for moved in (added, *range(added)):
        place = start + moved
        if changed.token_ids[place : place + len(completion)] == completion:
            return place
    return start


def _changes(part: partial[Any]) -> str:
    first = next(iter(signature(part.func).parameters), "")
    if first not in ("task", "sample"):
        raise RecipeError(
            f"the first parameter of the transform {part.func.__name__} is {first!r}: call it `task` or `sample`, "
            "which says what it changes"
        )
    return first


def _columns_read(part: partial[Any]) -> Collection[str]:
    parameters = {}
    for parameter in signature(part.func).parameters.values():
        if parameter.default is not parameter.empty:
            parameters[parameter.name] = parameter.default
    parameters |= part.keywords
    reads = getattr(part.func, "reads", None)
    if reads is not None:
        return reads(**parameters)
    column = parameters.get("column")
    return [column] if isinstance(column, str) else []


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
