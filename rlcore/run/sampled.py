"""Task sets made of what a `sample` stage of the run wrote, or of stored rollouts of elsewhere."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rlcore.errors import RecipeError, RunError, TaskError
from rlcore.plugin import Named, build_later, call, did_you_mean
from rlcore.run.stored import Stored, read_stored
from rlcore.tasks.made import MAKER_CONTEXT, MAKERS
from rlcore.types import Group, Task

if TYPE_CHECKING:
    from rlcore.recipe.build import TaskSets
    from rlcore.run.session import Run


def sampled(
    data: str, *, sets: TaskSets, make: str | dict[str, Any] = "completions", seed: int = 0
) -> SampledTasks:
    """Tasks made of stored completions: those of a sample stage of this recipe, for the stages after it.

    data: a sample stage, or a file or folder of stored rollouts. make: what is made of the completions of each task: completions
    (each one a demonstration), latent_thoughts, file.py:function, or {use: name, parameter: value}. A made task has the columns of
    the task that was completed, where that is of this recipe. Raises `TaskError` for data that there is not.
    """
    maker = build_later(make, MAKERS, what="maker of tasks", given=1, **_nothing())
    source = sets.sources.get(data)
    if source is not None:
        return SampledTasks(
            data, sets[source], source=source, make=make, maker=maker, seed=seed
        )
    if not Path(data).exists():
        raise TaskError(
            f"data is {data!r}: neither a sample stage of the recipe nor a file or folder here{did_you_mean(data, sets.sources)}"
        )
    stored = [one.group.task for one in read_stored(Path(data))]
    return SampledTasks(data, stored, source=None, make=make, maker=maker, seed=seed)


class SampledTasks(Sequence[Task]):
    """Before the run reads the completions, the tasks that were completed stand in for those that are made of them."""

    deferred: ClassVar[bool] = True

    def __init__(
        self,
        data: str,
        completed: Sequence[Task],
        *,
        source: str | None,
        make: Named,
        maker: partial[Any],
        seed: int,
    ) -> None:
        """completed: tasks, of the set `source` of the recipe where it is not None."""
        self.data = data
        self._completed = completed
        self._source = source
        self._make = make
        self._columns = tuple(getattr(maker.func, "columns", ()))
        self._seed = seed

    def __len__(self) -> int:
        return len(self._completed)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._stand_in(task) for task in self._completed[index]]
        return self._stand_in(self._completed[index])

    def _stand_in(self, task: Task) -> Task:
        return replace(task, columns={**dict.fromkeys(self._columns), **task.columns})

    def __str__(self) -> str:
        use = self._make if isinstance(self._make, str) else self._make.get("use")
        return f"{use} of what {self.data} holds"

    def read(self, run: Run) -> list[Task]:
        """The tasks, in the order of those that were completed; equal in every process. Raises `RunError` for none."""
        stored = read_stored(run.stored(self.data))
        if self._source is not None:
            stored = _with_columns(stored, run.tasks(self._source))
        draw = random.Random()
        offered = {
            "draw": draw,
            "encode": run.encoder.ids,
            "decode": run.encoder.decode,
            "end": run.encoder.end_of_turn,
        }
        maker = build_later(self._make, MAKERS, what="maker of tasks", given=1, **offered)
        tasks = []
        for one in stored:
            # what is drawn for a task depends on no other one
            draw.seed(f"{self._seed}/{self.data}/{one.group.task.id}")
            tasks += self._made(maker, one.group)
        if not tasks:
            raise RunError(
                f"no task could be made of {self.data}: {self._make!r} gave none of its {len(stored):,} tasks; look at the rows, or sample more"
            )
        twice = [name for name, count in Counter(t.id for t in tasks).items() if count > 1]
        if twice:
            raise RunError(
                f"the maker of tasks {self._make!r} gave {len(twice):,} ids to several tasks, {twice[0]!r} among them: "
                "number those of one group, as in id=f'{group.task.id}#{number}'"
            )
        return tasks

    def _made(self, maker: partial[Any], group: Group) -> Iterator[Task]:
        owner = f"maker of tasks {self._make!r}"
        tasks = call(owner, lambda: maker(group))
        if isinstance(tasks, Task) or not isinstance(tasks, Iterable):
            raise RecipeError(
                f"{owner} must give a list of rlcore.Task, or yield them, not a {type(tasks).__name__}"
            )
        for made in call(owner, lambda: list(tasks)):
            if not isinstance(made, Task):
                raise RecipeError(f"{owner} must give rlcore.Task, not a {type(made).__name__}")
            yield made


def _with_columns(stored: Sequence[Stored], tasks: Sequence[Task]) -> list[Stored]:
    """The completions in the order of the tasks, with all that is known of these."""
    places = {task.id: (number, task) for number, task in enumerate(tasks)}
    known = [one for one in stored if one.group.task.id in places]
    known.sort(key=lambda one: places[one.group.task.id][0])
    full = []
    for one in known:
        _, task = places[one.group.task.id]
        full.append(replace(one, group=replace(one.group, task=task)))
    return full


def _nothing() -> dict[str, None]:
    """What stands for the context of a maker that is only checked."""
    return dict.fromkeys(MAKER_CONTEXT)
