"""The three forms of a reward function, and what a recipe says about one.

    form        recognised by                   called once per   `completion` is
    short       the @reward mark                completion        text
    verifiers   a parameter `completion`        completion        chat messages
                or `state`, without the mark
    batch       neither                         group             (`completions`, a list)

In all of them `answer` is the task's reference answer and columns of the task are passed by name.

Short is rlcore's own: `@reward f(completion, answer, **columns) -> float | bool | None | Verdict`.
It is offered `completion`, `answer`, `prompt`, `completion_ids`, `finished` and `messages`.

Batch is TRL's: `f(prompts, completions, **columns) -> list[float | None]`. It is offered
`prompts`, `completions`, `completion_ids`, `answer`, `finished` and `messages`; these and the columns are
lists with one entry per completion. `log_metric(name, value)` adds a part to the verdicts;
`log_extra` is accepted and ignored.

Verifiers is that of the packages verifiers and prime-rl:
`async f(prompt, completion, answer, state, **kwargs) -> float`. `prompt` and `completion` are
always chat messages, `info` and `task` are columns, and `state` is a dict of all of these.

With an environment, `completion` in the short form is the text of the last completion and
`messages` the whole conversation; as chat messages, `completion` is all that follows the prompt.

A function without `**` receives only the arguments that it names. Parameters from the recipe are
passed as further keyword arguments. Any form may be `async`: the completions of a group are then
scored concurrently. Any may be a class: it is constructed once per worker with the recipe's
parameters, before the deadline of the first call starts, and its objects are called. An attribute
`memory_gb` replaces the worker's memory limit. A short form that loads something and waits:

    @reward
    class Lookup:
        def __init__(self, *, path: str) -> None:
            self.table = json.loads(Path(path).read_text())

        async def __call__(self, completion, answer, **columns) -> float:
            return float(self.table.get(completion.strip()) == answer)

In a recipe that is `{use: "my_rewards.py:Lookup", path: table.json}`. Without the mark it would be
called in verifiers' form, with a list of chat messages as `completion`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from rlcore.types import Message, Task

Form = Literal["batch", "short", "verifiers"]
OFFERED: Mapping[Form, tuple[str, ...]] = {
    "batch": (
        "prompts",
        "completions",
        "completion_ids",
        "answer",
        "finished",
        "messages",
        "log_metric",
        "log_extra",
    ),
    "short": ("completion", "answer", "prompt", "completion_ids", "finished", "messages"),
    "verifiers": (
        "prompt",
        "completion",
        "answer",
        "info",
        "task",
        "state",
        "completion_ids",
        "finished",
        "messages",
    ),
}
"""What the engine itself passes to a reward, in addition to columns and parameters."""
_BATCH_NAMES = {"prompts", "completions", "completion_ids"}

ENVIRONMENT = "environment"
"""The reward that a recipe names to take what the environment gave: the sum of its turns' rewards."""

Function = TypeVar("Function", bound=Callable[..., Any])


def reward(function: Function) -> Function:
    """Mark a function, a class whose objects are called, or its `__call__`, as a reward in the short form."""
    function.short_form = True  # type: ignore[attr-defined]
    return function


def form_of(function: Callable[..., Any]) -> Form:
    """The form in which a reward is written; for a class, that of its objects."""
    method = getattr(function, "__call__", None)  # noqa: B004
    if getattr(function, "short_form", False) or getattr(method, "short_form", False):
        return "short"
    called = function.__call__ if inspect.isclass(function) else function
    names = inspect.signature(called).parameters.keys()
    if names & {"completion", "state"} and not names & _BATCH_NAMES:
        return "verifiers"
    return "batch"


@dataclass(frozen=True)
class RewardSpec:
    """A reward as a recipe names it."""

    use: str
    """An entry point (`math`), `package.module:function`, `file.py:function`, or `file.py`, which
    means the function with the file's name."""
    weight: float = 1.0
    params: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    """Name in the metrics; by default the name of the function or entry point."""
    optional: bool = False
    """Whether None means "does not apply" and leaves the reward out of the sum, as in TRL. For
    other rewards None leaves the completion without a value."""
    against: str = ""
    """A column with a reference completion, passed to the reward as `reference` (PIT)."""
    where: Mapping[str, Any] = field(default_factory=dict)
    """Columns and the value, or list of values, that a task must have for the reward to be asked;
    `category` is the task's. Empty: it is asked for every task."""
    turn: int | None = None
    """Which completion of a conversation is scored, 1 for the first; None is the last."""

    def __post_init__(self) -> None:
        if not self.name:
            last = self.use.rpartition(":")[2]
            name = Path(last).stem if last.endswith(".py") else last
            object.__setattr__(self, "name", name)

    def is_for(self, task: Task) -> bool:
        """Whether the task has the values of `where`."""
        own = {"category": task.category, **task.columns}
        return all(
            own.get(column) in (wanted if isinstance(wanted, list) else [wanted])
            for column, wanted in self.where.items()
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupView:
    """What a reward may see of a group: the task, and for each of its G rollouts the completion."""

    prompt: str | list[Message]
    answer: Any
    columns: Mapping[str, Any]
    completions: list[str]  # [G]
    completion_ids: list[list[int]]  # [G][L], all tokens that the policy wrote
    finished: list[bool]  # [G], whether the model ended the completion itself
    messages: list[
        list[Message]
    ]  # [G], the whole conversation; prompt and completion without an environment
    prompt_messages: int = 1
    """How many of them are the prompt."""

    def __len__(self) -> int:
        return len(self.completions)

    def only(self, indices: Sequence[int]) -> GroupView:
        """The same task with some of its completions."""
        return replace(
            self,
            completions=[self.completions[i] for i in indices],
            completion_ids=[self.completion_ids[i] for i in indices],
            finished=[self.finished[i] for i in indices],
            messages=[self.messages[i] for i in indices],
        )
