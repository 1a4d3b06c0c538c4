"""What a reward is, how one is found, and how what it returns becomes a `Verdict`.

A reward is written in one of three forms. What `answer` means differs, and each is a contract:

    form        recognised by            called            `answer` is       `gold` is
    batch       neither of the below     once a group      the gold column   -
    short       the @reward mark         once an answer    the model's text  the gold answer
    verifiers   `completion` or `state`  once an answer    the gold answer   -

Batch is TRL's form, `f(prompts, completions, **columns) -> list[float | None]`: it is offered `prompts`, `completions`,
`completion_ids`, `answer`, `finished` and every task column, each as a list with one entry an answer; what it gives to
`log_metric(name, value)` becomes a part of the verdicts, `log_extra` is accepted and dropped.
Short is ours, `@reward f(answer, gold, **columns) -> float | bool | None | Verdict`: it is offered `answer`, `gold`, `prompt`,
`completion_ids`, `finished` and every task column. Verifiers is that of the packages verifiers and prime-rl,
`async f(prompt, completion, answer, state, **kwargs) -> float`: `prompt` and `completion` are always chat messages, `info`
and `task` are columns, and `state` is a dict of all of these.

A function without `**` receives only what it names; recipe parameters are passed as further keyword arguments. Any form may
be `async`: the answers of a group are then scored side by side. Any may be a class, made once a worker with the recipe's
parameters, before the first call's clock starts, and then called; its `memory_gb` replaces the worker's memory bound.
"""

from __future__ import annotations

import asyncio
import difflib
import importlib.metadata
import inspect
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from rlcore.errors import RecipeError, RewardError
from rlcore.plugin import check_params, find, signature
from rlcore.types import Message, Verdict

ENTRY_POINTS = "rlcore.rewards"
Form = Literal["batch", "short", "verifiers"]
OFFERED: Mapping[Form, tuple[str, ...]] = {
    "batch": (
        "prompts",
        "completions",
        "completion_ids",
        "answer",
        "finished",
        "log_metric",
        "log_extra",
    ),
    "short": ("answer", "gold", "prompt", "completion_ids", "finished"),
    "verifiers": (
        "prompt",
        "completion",
        "answer",
        "info",
        "task",
        "state",
        "completion_ids",
        "finished",
    ),
}
"""What the engine itself passes to a reward, columns and parameters aside."""
_NOT_COLUMNS = ("prompt", "completion")

Function = TypeVar("Function", bound=Callable[..., Any])


def reward(function: Function) -> Function:
    """Mark a function, or a class whose objects are called, as a reward in the short form: one answer in, one score out."""
    function.short_form = True  # type: ignore[attr-defined]
    return function


@dataclass(frozen=True)
class RewardSpec:
    """A reward as a recipe names it."""

    use: str
    """An entry point (`math`), `package.module:function`, `file.py:function`, or `file.py` alone for the function of its name."""
    weight: float = 1.0
    params: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    """How its values are logged; the function's name (or the entry point's) unless given."""
    optional: bool = False
    """Where it gives None it does not apply and is left out of the sum, as in TRL; otherwise the answer has no reward."""
    against: str = ""
    """A column with a reference answer: the value is then what the answer scores less what the reference does (PIT)."""

    def __post_init__(self) -> None:
        if not self.name:
            last = self.use.rpartition(":")[2]
            object.__setattr__(self, "name", Path(last).stem if last.endswith(".py") else last)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """What a reward is shown of one group: the task, and of each of the G rollouts only what it may look at."""

    prompt: str | list[Message]
    gold: Any
    columns: Mapping[str, Any]
    texts: list[str]  # [G]
    completion_ids: list[list[int]]  # [G][L]
    finished: list[bool]  # [G]

    def only(self, indices: Sequence[int]) -> Answers:
        """The same task with some of its answers."""
        return replace(
            self,
            texts=[self.texts[i] for i in indices],
            completion_ids=[self.completion_ids[i] for i in indices],
            finished=[self.finished[i] for i in indices],
        )


class GroupCrash(Exception):
    """A batch function raised: nobody knows which answer did it."""


@dataclass(frozen=True)
class Reward:
    """A loaded reward, ready to be called."""

    spec: RewardSpec
    function: Callable[..., Any]
    params: Mapping[str, Any]
    """Keyword arguments of every call; of a class they went into its making."""

    @cached_property
    def form(self) -> Form:
        return form_of(self.function)

    @cached_property
    def signature(self) -> inspect.Signature:
        return inspect.signature(self.function)

    @property
    def is_async(self) -> bool:
        """Whether calls can run side by side."""
        return any(
            map(
                inspect.iscoroutinefunction,
                (self.function, getattr(self.function, "__call__", None)),  # noqa: B004
            )
        )

    def one(self, answers: Answers, i: int) -> Verdict:
        """Score answer i alone; an exception becomes `crashed`."""
        try:
            if self.form == "batch":
                return self.group(answers.only([i]))[0]
            return as_verdict(_result(self._call(self._offered(answers, i))), self.spec.name)
        except GroupCrash as crash:
            return Verdict(value=None, status="crashed", reason=str(crash))
        except BaseException as error:  # plugins raise what they like, SystemExit and math-verify's TimeoutException included
            return Verdict(
                value=None, status="crashed", reason=describe_error(error, self.function)
            )

    def group(self, answers: Answers, deadline_s: float | None = None) -> list[Verdict]:
        """Score all answers: with one call of a batch function, or calls of an async one side by side, each in deadline_s.

        Raises `GroupCrash` if a batch function raises.
        """
        if self.form != "batch":
            return _result(self._side_by_side(answers, deadline_s))
        n = len(answers.texts)
        metrics: dict[str, float] = {}
        offered = {
            **{
                name: [value] * n
                for name, value in answers.columns.items()
                if name not in _NOT_COLUMNS
            },
            **self.params,
            "prompts": [answers.prompt] * n,
            "completions": answers.texts
            if isinstance(answers.prompt, str)
            else [_said(text) for text in answers.texts],
            "completion_ids": answers.completion_ids,
            "answer": [answers.gold] * n,
            "finished": answers.finished,
            "log_metric": metrics.__setitem__,
            "log_extra": lambda column, values: None,
        }
        try:
            values = _result(self._call(offered))
            if (
                isinstance(values, str | Mapping)
                or not hasattr(values, "__len__")
                or len(values) != n
            ):
                got = (
                    f"{len(values)} values"
                    if isinstance(values, list | tuple)
                    else f"a {type(values).__name__}"
                )
                reason = f"reward {self.spec.name!r} must return a list with one value an answer: {n} were asked for, got {got}"
                return [Verdict(value=None, status="crashed", reason=reason)] * n
            verdicts = [as_verdict(value, self.spec.name) for value in values]
            return (
                [replace(verdict, parts={**verdict.parts, **metrics}) for verdict in verdicts]
                if metrics
                else verdicts
            )
        except BaseException as error:
            raise GroupCrash(describe_error(error, self.function)) from error

    async def _side_by_side(self, answers: Answers, deadline_s: float | None) -> list[Verdict]:
        return await asyncio.gather(
            *[self._in_time(answers, i, deadline_s) for i in range(len(answers.texts))]
        )

    async def _in_time(self, answers: Answers, i: int, deadline_s: float | None) -> Verdict:
        clock = asyncio.timeout(deadline_s)
        try:
            async with clock:
                return as_verdict(await self._call(self._offered(answers, i)), self.spec.name)
        except BaseException as error:
            if clock.expired():
                return Verdict(
                    value=None, status="timed-out", reason=f"no answer within {deadline_s:g} s"
                )
            return Verdict(
                value=None, status="crashed", reason=describe_error(error, self.function)
            )

    def _offered(self, answers: Answers, i: int) -> dict[str, Any]:
        """What one call for answer i may ask for, in the short form or verifiers'."""
        offered = {"completion_ids": answers.completion_ids[i], "finished": answers.finished[i]}
        if self.form == "short":
            offered |= {"answer": answers.texts[i], "gold": answers.gold, "prompt": answers.prompt}
            return {**answers.columns, **self.params, **offered}
        asked = answers.prompt
        offered |= {
            "prompt": [{"role": "user", "content": asked}] if isinstance(asked, str) else asked,
            "completion": _said(answers.texts[i]),
            "answer": "" if answers.gold is None else answers.gold,
            "info": answers.columns.get("info", {}),
            "task": answers.columns.get("task", ""),
        }
        return {
            **answers.columns,
            **self.params,
            **offered,
            "state": {**answers.columns, **offered},
        }

    def _call(self, offered: dict[str, Any]) -> Any:
        parameters = self.signature.parameters.values()
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            offered = {p.name: offered[p.name] for p in parameters if p.name in offered}
        absent = [
            p.name
            for p in parameters
            if p.default is p.empty
            and p.name not in offered
            and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        ]
        if absent:
            hint = (
                "; one that scores a single answer needs the @reward mark"
                if absent[0] == "gold"
                else ""
            )
            asked = f"reward {self.spec.name!r} asks for {absent[0]!r}, which is no column of the task and no parameter"
            raise TypeError(asked + hint)
        return self.function(**offered)


def form_of(function: Callable[..., Any]) -> Form:
    """Which form a reward is written in; of a class, its objects'."""
    if getattr(function, "short_form", False):
        return "short"
    names = inspect.signature(
        function.__call__ if inspect.isclass(function) else function
    ).parameters.keys()
    single = names & {"completion", "state"} and not names & {
        "prompts",
        "completions",
        "completion_ids",
    }
    return "verifiers" if single else "batch"


def _said(text: str) -> list[Message]:
    return [{"role": "assistant", "content": text}]


def _result(value: Any) -> Any:
    """The value, or what it gives when awaited."""
    return _loop().run(_awaited(value)) if inspect.isawaitable(value) else value


@cache
def _loop() -> asyncio.Runner:
    """One event loop for all calls: a client that a plugin keeps between calls stays bound to it."""
    return asyncio.Runner()


async def _awaited(result: Any) -> Any:
    return await result


def as_verdict(value: Any, name: str) -> Verdict:
    """What a reward returned for one answer, as a verdict. Raises TypeError for what is no number."""
    if isinstance(value, Verdict):
        return value
    if value is None:
        return Verdict(value=None, status="unscorable", reason=f"reward {name!r} gave None")
    if not hasattr(value, "__float__"):
        raise TypeError(
            f"reward {name!r} gave a {type(value).__name__} where a number, a bool, None or a Verdict belongs"
        )
    number = float(value)
    if not math.isfinite(number):
        return Verdict(value=None, status="unscorable", reason=f"reward {name!r} gave {number}")
    return Verdict(value=number)


def describe_error(error: BaseException, function: Callable[..., Any]) -> str:
    """`TypeName: message (file:line)`; the line is the innermost one in the reward's own file."""
    frames = traceback.extract_tb(error.__traceback__)
    code = getattr(inspect.unwrap(function), "__code__", None)
    own = [frame for frame in frames if code and frame.filename == code.co_filename] or frames
    message = " ".join(str(error).split())[:300]
    where = f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
    return f"{type(error).__name__}{': ' if message else ''}{message}{where}"


def find_reward(spec: RewardSpec) -> Callable[..., Any]:
    """The function or class a spec names. Raises `RewardError` if it cannot be found or imported."""
    use = f"{spec.use}:{Path(spec.use).stem}" if spec.use.endswith(".py") else spec.use
    found = find(use, {} if ":" in use else registered_rewards(), what="reward", error=RewardError)
    if not callable(found):
        raise RewardError(f"reward {spec.use!r} is of type {type(found).__name__}, not a function")
    return found


def load_reward(spec: RewardSpec) -> Reward:
    """Find and import a reward, check its parameters, and make it where it is a class. Raises `RewardError`."""
    found = find_reward(spec)
    _check_params(spec, found)
    if not inspect.isclass(found):
        return Reward(spec=spec, function=found, params=spec.params)
    try:
        return Reward(spec=spec, function=found(**spec.params), params={})
    except BaseException as error:
        raise RewardError(
            f"cannot make reward {spec.use!r}: {describe_error(error, found)}"
        ) from error


def registered_rewards() -> dict[str, str]:
    """Entry points of installed packages: name to `module:function`."""
    return {
        point.name: point.value for point in importlib.metadata.entry_points(group=ENTRY_POINTS)
    }


def _check_params(spec: RewardSpec, found: Callable[..., Any]) -> None:
    """Raise `RewardError` for params it cannot take. What a function needs may be a column, what a class needs must be given."""
    parameters, made = signature(found).parameters.values(), inspect.isclass(found)
    given = () if made else OFFERED[form_of(found)]
    own = {
        p.name: p
        for p in parameters
        if p.name not in given and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }
    params = dict(spec.params)
    for name in spec.params:
        if name in given:
            raise RewardError(
                f"{name!r} cannot be a parameter of reward {spec.name!r}: the engine itself passes {name!r}"
            )
        if name not in own and any(p.kind is p.VAR_KEYWORD for p in parameters):
            if near := difflib.get_close_matches(
                name, own.keys() - params.keys(), n=1, cutoff=0.75
            ):
                raise RewardError(
                    f"reward {spec.name!r} has no parameter {name!r} and would take it for a column; did you mean {near[0]!r}?"
                )
            del params[name]
    try:
        check_params(
            params,
            own if made else {name: p.replace(default=None) for name, p in own.items()},
            owner=f"reward {spec.name!r}",
        )
    except RecipeError as error:
        raise RewardError(str(error)) from None
