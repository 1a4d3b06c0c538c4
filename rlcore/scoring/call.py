"""Calling a reward in its form, and turning what it returns into a `Verdict`."""

from __future__ import annotations

import asyncio
import inspect
import math
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from rlcore.scoring.forms import OFFERED, Form, GroupView, RewardSpec, form_of
from rlcore.types import Message, Verdict

_NOT_COLUMNS = ("prompt", "completion")
"""Columns of TRL's datasets that its trainer does not pass on."""


class GroupCrash(Exception):
    """A batch function raised: it is unknown which completion caused it."""


@dataclass(frozen=True)
class Reward:
    """A loaded reward, ready to be called."""

    spec: RewardSpec
    function: Callable[..., Any]
    params: Mapping[str, Any]
    """Keyword arguments of every call; empty for a class, which was constructed with them."""

    @cached_property
    def form(self) -> Form:
        return form_of(self.function)

    @cached_property
    def signature(self) -> inspect.Signature:
        return inspect.signature(self.function)

    @cached_property
    def needs(self) -> tuple[str, ...]:
        """What it asks for and neither the engine nor the recipe gives: columns that each of its tasks must have."""
        offered = {*OFFERED[self.form], *self.params}
        if self.spec.against:
            offered.add("reference")
        return tuple(name for name in self._required if name not in offered)

    @cached_property
    def _required(self) -> tuple[str, ...]:
        """Names of the parameters without a default."""
        return tuple(
            p.name
            for p in self.signature.parameters.values()
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.default is p.empty
        )

    @property
    def is_async(self) -> bool:
        """Whether calls can run concurrently."""
        method = getattr(self.function, "__call__", None)  # noqa: B004
        return inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(method)

    def one(self, view: GroupView, i: int) -> Verdict:
        """Score completion i alone; an exception becomes `crashed`."""
        try:
            if self.form == "batch":
                return self.group(view.only([i]))[0]
            result = _result(self._call(self._offered(view, i)))
            return as_verdict(result, self.spec.name)
        except GroupCrash as crash:
            return _crashed(str(crash))
        # Plugins raise anything: SystemExit, and the TimeoutException of math-verify, are no
        # subclasses of Exception.
        except BaseException as error:
            return self._crash(error)

    def group(self, view: GroupView, deadline_s: float | None = None) -> list[Verdict]:
        """Score all completions at once: one call of a batch function, or concurrent async calls.

        deadline_s: bound on each of the concurrent calls. Raises `GroupCrash` if a batch function
        raises.
        """
        if self.form != "batch":
            return _result(self._concurrently(view, deadline_s))
        metrics: dict[str, Any] = {}
        try:
            values = _result(self._call(self._offered_to_batch(view, metrics)))
            problem = self._wrong_length(values, len(view))
            if problem:
                return [_crashed(problem)] * len(view)
            verdicts = [as_verdict(value, self.spec.name) for value in values]
            metrics = numbers(metrics, self.spec.name)
        except BaseException as error:
            raise GroupCrash(describe_error(error, self.function)) from error
        if metrics:
            verdicts = [
                replace(verdict, parts={**verdict.parts, **metrics}) for verdict in verdicts
            ]
        return verdicts

    async def _concurrently(self, view: GroupView, deadline_s: float | None) -> list[Verdict]:
        calls = [self._in_time(view, i, deadline_s) for i in range(len(view))]
        return await asyncio.gather(*calls)

    async def _in_time(self, view: GroupView, i: int, deadline_s: float | None) -> Verdict:
        clock = asyncio.timeout(deadline_s)
        try:
            async with clock:
                result = await self._call(self._offered(view, i))
                return as_verdict(result, self.spec.name)
        except BaseException as error:
            if clock.expired():
                reason = f"no reply within {deadline_s:g} s"
                return Verdict(value=None, status="timed-out", reason=reason)
            return self._crash(error)

    def _crash(self, error: BaseException) -> Verdict:
        reason = describe_error(error, self.function)
        if self.form == "verifiers" and isinstance(error, AttributeError | TypeError):
            reason += (
                "; `completion` is a list of chat messages here (verifiers' form): "
                "mark the function or class with @reward to get its text"
            )
        return _crashed(reason)

    def _offered(self, view: GroupView, i: int) -> dict[str, Any]:
        """The arguments that one call for completion i may ask for (short form and verifiers')."""
        offered: dict[str, Any] = {
            "completion_ids": view.completion_ids[i],
            "finished": view.finished[i],
            "messages": view.messages[i],
        }
        if self.form == "short":
            offered["completion"] = view.completions[i]
            offered["answer"] = view.answer
            offered["prompt"] = view.prompt
            return {**view.columns, **self.params, **offered}
        prompt = view.prompt
        if isinstance(prompt, str):
            prompt = [{"role": "user", "content": prompt}]
        offered["prompt"] = prompt
        offered["completion"] = _said(view, i)
        offered["answer"] = "" if view.answer is None else view.answer
        offered["info"] = view.columns.get("info", {})
        offered["task"] = view.columns.get("task", "")
        state = {**view.columns, **offered}
        return {**view.columns, **self.params, **offered, "state": state}

    def _offered_to_batch(self, view: GroupView, metrics: dict[str, float]) -> dict[str, Any]:
        """The arguments that a batch function may ask for; what it logs goes to `metrics`."""
        n = len(view)
        columns = {
            name: [value] * n
            for name, value in view.columns.items()
            if name not in _NOT_COLUMNS
        }
        completions: list[Any] = view.completions
        if not isinstance(view.prompt, str):
            completions = [_said(view, i) for i in range(n)]
        return {
            **columns,
            **self.params,
            "prompts": [view.prompt] * n,
            "completions": completions,
            "completion_ids": view.completion_ids,
            "answer": [view.answer] * n,
            "finished": view.finished,
            "messages": view.messages,
            "log_metric": metrics.__setitem__,
            "log_extra": lambda column, values: None,
        }

    def _wrong_length(self, values: Any, n: int) -> str:
        """Why the result of a batch function is no list of n values, "" if it is one."""
        # Only what has an order that the function chose: a set would pair values at random.
        is_sequence = isinstance(values, list | tuple) or hasattr(values, "tolist")
        if is_sequence and len(values) == n:
            return ""
        is_list = isinstance(values, list | tuple)
        got = f"{len(values)} values" if is_list else f"a {type(values).__name__}"
        return (
            f"reward {self.spec.name!r} must return a list with one value per completion: "
            f"expected {n}, got {got}"
        )

    def _call(self, offered: dict[str, Any]) -> Any:
        parameters = self.signature.parameters.values()
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            offered = {p.name: offered[p.name] for p in parameters if p.name in offered}
        for name in self._required:
            if name not in offered:
                raise TypeError(absent(self.spec.name, name))
        return self.function(**offered)


def absent(reward: str, name: str) -> str:
    """What is said of a reward whose parameter `name` nothing gives."""
    return (
        f"reward {reward!r} asks for {name!r}, which is neither a column of "
        f"the task nor a parameter in the recipe{_INSTEAD.get(name, '')}"
    )


_INSTEAD = {
    "environments": ": TRL hands over the environments themselves, which run in other processes here; give the class a method "
    "get_reward, and the stage the reward `environment`"
}
"""Argument that TRL offers and this engine does not -> what to do."""


def as_verdict(value: Any, name: str) -> Verdict:
    """What a reward returned for one completion, as a verdict. Raises TypeError for no number."""
    if isinstance(value, Verdict):
        return replace(value, parts=numbers(value.parts, name))
    if value is None:
        return Verdict(value=None, status="unscorable", reason=f"reward {name!r} gave None")
    if not hasattr(value, "__float__"):
        raise TypeError(
            f"reward {name!r} gave a {type(value).__name__}; "
            "it must return a number, a bool, None or a Verdict"
        )
    number = float(value)
    if not math.isfinite(number):
        return Verdict(value=None, status="unscorable", reason=f"reward {name!r} gave {number}")
    return Verdict(value=number)


def numbers(parts: Mapping[Any, Any], name: str) -> dict[str, float | None]:
    """Parts of a verdict as plain numbers. Raises TypeError for one that is none."""
    values: dict[str, float | None] = {}
    for part, value in parts.items():
        if value is not None and not hasattr(value, "__float__"):
            raise TypeError(
                f"reward {name!r} gave a {type(value).__name__} as its part {str(part)!r}; "
                "a part must be a number, a bool or None"
            )
        values[str(part)] = None if value is None else float(value)
    return values


def describe_error(error: BaseException, function: Callable[..., Any]) -> str:
    """`TypeName: message (file:line)`, with the innermost line in the reward's own file."""
    frames = traceback.extract_tb(error.__traceback__)
    code = getattr(inspect.unwrap(function), "__code__", None)
    in_file = [frame for frame in frames if code and frame.filename == code.co_filename]
    text = error_text(error)
    if frames:
        last = (in_file or frames)[-1]
        text += f" ({Path(last.filename).name}:{last.lineno})"
    return text


def error_text(error: BaseException) -> str:
    """`TypeName: message`, also for an exception that cannot say what it is."""
    name = type(error).__name__
    try:
        message = " ".join(str(error).split())[:300]
    except BaseException:
        return name
    return f"{name}: {message}" if message else name


def _crashed(reason: str) -> Verdict:
    return Verdict(value=None, status="crashed", reason=reason)


def _said(view: GroupView, i: int) -> list[Message]:
    """What follows the prompt, as chat messages."""
    return view.messages[i][view.prompt_messages :]


def _result(value: Any) -> Any:
    """The value itself, or its result if it is awaitable."""
    return _loop().run(_awaited(value)) if inspect.isawaitable(value) else value


@cache
def _loop() -> asyncio.Runner:
    """One event loop for all calls: a client that a plugin keeps between calls is bound to it."""
    return asyncio.Runner()


async def _awaited(value: Any) -> Any:
    return await value
