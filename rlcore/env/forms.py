"""The forms in which an environment may be written, and how the engine talks to all of them alike.

    form        recognised by                            state
    function    the @environment mark, a generator       its local variables
    class       methods `reset` and `step`               the object, one per episode
    tools       `env.tools` without `env.use`            none, or that of the tools
    TRL         a class with `reset` and no `step`       the object; its public methods are tools
    adapter     the @adapter mark                        see `rlcore.env.adapters`

`Episode` is what a worker runs: `reset` and `step`, both async, with checked observations.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from rlcore.env.base import (
    Observation,
    checked,
    checked_first,
    finite,
    needed_by,
    task_arguments,
)
from rlcore.env.tools import Tool, ToolEnvironment, methods_of, name_of, schema_of
from rlcore.errors import RecipeError
from rlcore.plugin import Named, check_params, find, signature
from rlcore.types import Message

ENVIRONMENTS = {
    "agent": "rlcore.env.adapters.agent:agent",
    "calculator": "rlcore.environments.calculator:Calculator",
    "fact_search": "rlcore.environments.facts:FactSearch",
    "facts": "rlcore.environments.facts:Facts",
    "gem": "rlcore.env.adapters.gem:gem",
    "grid_world": "rlcore.environments.grid_world:GridWorld",
    "number_guessing": "rlcore.environments.number_guessing:NumberGuessing",
    "openenv": "rlcore.env.adapters.openenv:openenv",
    "reconsider": "rlcore.environments.reconsider:Reconsider",
    "textarena": "rlcore.env.adapters.textarena:textarena",
    "verifiers": "rlcore.env.adapters.verifiers:verifiers",
}
"""Name in a recipe -> where it is."""
TOOLS = {
    "calculator": "rlcore.env.toolbox.calculator:calculator",
    "finish": "rlcore.env.toolbox.finish:finish",
    "python": "rlcore.env.toolbox.python:Python",
    "search": "rlcore.environments.search:Search",
}
"""Name in a recipe's `env.tools` -> a tool."""


KEYS = (
    "use",
    "tools",
    "max_turns",
    "deadline_s",
    "workers",
    "memory_gb",
    "max_reply",
    "python",
    "tool_format",
    "history",
)
"""Keys of the section beside the parameters of the environment: what a misspelt key may have meant."""


@dataclass(frozen=True)
class EnvironmentSpec:
    """An environment as a recipe names it."""

    use: str = ""
    """A built-in name, `package.module:object` or `file.py:object`; "" where there are only tools."""
    tools: Sequence[Named] = ()
    """Names, or {use: name, parameter: value} for a tool that is a class."""
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.use.rpartition(":")[2] or "tools"


@dataclass(frozen=True)
class Loaded:
    """An environment that is imported: what its prompts show, and how an episode is begun."""

    name: str
    make: Callable[[], Any]
    """A fresh environment object."""
    schemas: Sequence[Mapping[str, Any]] = ()
    """JSON schemas of its tools, for the chat template."""
    asks: Sequence[str] = ()
    """Columns of the task, or parameters, without which no episode can begin."""
    overlaid: Sequence[str] = ()
    """Parameters of the recipe that would take the place of a column of the same name."""
    rewards: bool = True
    """Whether a turn can have a reward."""


Adapter = TypeVar("Adapter", bound=Callable[..., Loaded])


def adapter(function: Adapter) -> Adapter:
    """Mark a function that returns a `Loaded`; its parameters are those of the recipe."""
    function.is_adapter = True  # type: ignore[attr-defined]
    return function


def load_environment(spec: EnvironmentSpec) -> Loaded:
    """Import an environment and check its parameters. Raises `RecipeError`."""
    if not spec.use and not spec.tools:
        raise RecipeError("env names neither `use` nor `tools`")
    tools = [_tool_maker(named) for named in spec.tools]
    if not spec.use:
        if spec.params:
            raise RecipeError(f"env has parameters ({', '.join(spec.params)}) but no `use`")
        return _of_tools(tools)
    part = find(spec.use, ENVIRONMENTS, what="environment")
    if getattr(part, "is_adapter", False):
        owner = f"environment {spec.use!r}"
        loaded: Loaded = part(**_params(owner, part, spec.params))
    elif getattr(part, "is_environment", False):
        loaded = _of_function(spec, part)
    elif inspect.isclass(part) and hasattr(part, "reset"):
        if not hasattr(part, "step"):
            return _of_trl_class(spec, part, tools)
        make = _checked_maker(f"environment {spec.use!r}", part, spec.params)
        schemas = getattr(part, "schemas", ())
        loaded = Loaded(spec.name, make, schemas, asks=needed_by(part.reset))
    else:
        raise RecipeError(
            f"environment {spec.use!r} is none: mark a generator function with @environment, or name a class with "
            "`reset` and `step`, or one with `reset` and methods that are tools"
        )
    if tools:
        raise RecipeError(
            f"env.tools has no effect with the environment {spec.use!r}, which replies to every completion itself"
        )
    return loaded


ToolMaker = Callable[[], Tool]
"""Gives the tool of one episode."""


def _tool_maker(named: Named) -> ToolMaker:
    """A class among the tools is constructed once per episode: its object is called, and keeps state between calls."""
    params = {"use": named} if isinstance(named, str) else dict(named)
    use = params.pop("use", None)
    tool = find(use, TOOLS, what="tool")
    if not callable(tool):
        raise RecipeError(
            f"tool {use!r} is of type {type(tool).__name__}, not a function or class"
        )
    owner = f"tool {use!r}"
    if inspect.isclass(tool):
        return _checked_maker(owner, tool, params)
    if params:
        raise RecipeError(
            f"{owner} is a function and takes no parameter in the recipe, not {', '.join(params)}"
        )
    return lambda: tool


def _of_tools(makers: Sequence[ToolMaker]) -> Loaded:
    schemas = [schema_of(make()) for make in makers]
    names = [name_of(schema) for schema in schemas]
    _refuse_equal(names)

    def make() -> ToolEnvironment:
        tools = [make() for make in makers]
        return ToolEnvironment(dict(zip(names, tools, strict=True)))

    return Loaded("tools", make, schemas, rewards=False)


def _of_trl_class(spec: EnvironmentSpec, part: type, makers: Sequence[ToolMaker]) -> Loaded:
    construct = _checked_maker(f"environment {spec.use!r}", part, spec.params)
    methods = methods_of(construct())
    if not methods and not makers:
        raise RecipeError(
            f"environment {spec.use!r} has neither a method `step` nor another public method, which would be a tool"
        )
    schemas = [schema_of(tool) for tool in [*methods.values(), *(make() for make in makers)]]
    names = [name_of(schema) for schema in schemas]
    _refuse_equal(names)

    def make() -> ToolEnvironment:
        instance = construct()
        tools = [*methods_of(instance).values(), *(make() for make in makers)]
        return ToolEnvironment(dict(zip(names, tools, strict=True)), before=instance)

    rewards = hasattr(part, "get_reward")
    return Loaded(spec.name, make, schemas, asks=needed_by(part.reset), rewards=rewards)


def _refuse_equal(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(f"two tools are called {name!r}: rename one of them")


def _of_function(spec: EnvironmentSpec, part: Callable[..., Any]) -> Loaded:
    if not inspect.isgeneratorfunction(part):
        raise RecipeError(
            f"environment {spec.use!r} is marked @environment but is no generator function: it must `yield` its replies"
        )
    # What `**columns` takes are columns of the task: a recipe's parameter must be named.
    named = {
        name: parameter.replace(default=None)
        for name, parameter in signature(part).parameters.items()
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }
    check_params(spec.params, named, owner=f"environment {spec.use!r}", also=KEYS)
    asks = [name for name in needed_by(part) if name not in spec.params]
    make = partial(_FromFunction, part, spec.params)
    return Loaded(spec.name, make, asks=asks, overlaid=list(spec.params))


def _params(owner: str, part: Callable[..., Any], params: Mapping[str, Any]) -> dict[str, Any]:
    parameters = {
        name: parameter
        for name, parameter in signature(part).parameters.items()
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }
    check_params(params, parameters, owner=owner, also=KEYS)
    return dict(params)


def _checked_maker(owner: str, part: type, params: Mapping[str, Any]) -> Callable[[], Any]:
    checked_params = _params(owner, part, params)
    return lambda: part(**checked_params)


class _FromFunction:
    """An episode of a generator function."""

    def __init__(self, function: Callable[..., Any], params: Mapping[str, Any]) -> None:
        self._function, self._params = function, params
        self._running: Generator[Any, str, Any] | None = None

    def reset(self, **task: Any) -> Any:
        self._running = self._function(
            **task_arguments(self._function, {**task, **self._params})
        )
        return self._next(lambda running: next(running))

    def step(self, message: Message) -> Any:
        return self._next(lambda running: running.send(message["content"]))

    def _next(self, go_on: Callable[[Generator[Any, str, Any]], Any]) -> Any:
        assert self._running is not None
        try:
            answer = go_on(self._running)
        except StopIteration as end:
            return _last(end.value, self._function.__name__)
        if isinstance(answer, tuple) and len(answer) == 2:
            return Observation(answer[0], reward=answer[1])
        return answer


def _last(value: Any, name: str) -> Observation:
    """What a generator function returned: the reward of the last turn, or a last observation."""
    if isinstance(value, Observation):
        return Observation(
            reward=value.reward, done=True, text=value.text, metrics=value.metrics
        )
    reward = finite(value, f"what environment {name!r} returned, the reward of the last turn,")
    return Observation(done=True, reward=reward)


class Episode:
    """One rollout's side of an environment."""

    def __init__(self, loaded: Loaded) -> None:
        self._name = loaded.name
        self._environment = loaded.make()

    async def reset(self, task: Mapping[str, Any]) -> Observation:
        """task: `prompt`, `answer`, `seed` and the columns."""
        reset = self._environment.reset
        arguments = (
            task
            if isinstance(self._environment, ToolEnvironment | _FromFunction)
            else task_arguments(reset, task)
        )
        return checked_first(await _awaited(reset(**arguments)), self._name)

    async def step(self, message: Message) -> Observation:
        return checked(await _awaited(self._environment.step(message)), self._name)

    def close(self) -> None:
        """Let the environment free what it holds."""
        close_of(self._environment)()

    async def wait_closed(self) -> None:
        """After `close`: wait until nothing of it runs any more."""
        wait = getattr(self._environment, "wait_closed", None)
        if wait is not None:
            await wait()


def is_concurrent(environment: Any) -> bool:
    """Whether it waits for something else than its process, so that several episodes may be under way."""
    if isinstance(environment, ToolEnvironment):
        return environment.is_async
    return inspect.iscoroutinefunction(environment.step)


def close_of(environment: Any) -> Callable[[], object]:
    """The environment's method `close`, which it need not have."""
    close = getattr(environment, "close", None)
    return close if callable(close) else lambda: None


async def _awaited(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value
