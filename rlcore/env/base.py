"""What an environment is.

An environment is one object for one rollout. It is given the task, sees each completion of the policy,
and replies to it until the episode is done:

    reset(task columns) -> Observation      what stands in the prompt beside the task's own
    step(message) -> Observation            the reply to a completion; `done`, and the turn's reward

Three ways to write one, told apart by how they look (`rlcore.env.forms`). As a generator function, whose
local variables are the state:

    @environment
    def number(answer: int, **columns):
        reply = "Guess a number from 1 to 99."          # stands in the prompt; None adds nothing
        for turn in range(8):
            said = yield reply
            guess = int(said) if said.isdecimal() else 0
            if guess == answer:
                return 1.0 - 0.1 * turn                 # the reward of the last turn
            reply = "higher" if guess < answer else "lower"
        return 0.0

As a class with `reset` and `step`, or as functions that the policy may call as tools. The reward of an
episode is the sum of the rewards of its turns.

Environments run in worker processes, which can be killed (`rlcore.env.pool`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from rlcore.errors import EnvError, brief
from rlcore.plugin import signature
from rlcore.types import Message

Reply = str | Message | Sequence[Message] | None
"""A text (one message of the user), one message, several, or nothing."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What an environment says after a completion, or at the start.

    Example: `Observation("lower", reward=-0.1, state="1..49")`.
    """

    reply: Reply = None
    """At the start, a text is appended to the last message of the prompt, and messages follow it. Later, a text becomes
    one message of the user. Read only while the episode goes on."""
    reward: float = 0.0
    """Of the completion that this replies to."""
    done: bool = False
    """Whether the episode is over."""
    state: str | None = None
    """What the next completion starts from, if equal states of different rollouts are comparable (GiGPO's anchor)."""
    restart: bool = False
    """Whether `reply` is a whole prompt that replaces everything before it: the rollout goes on as a further training
    sequence. For agents that rewrite their history, sub-agents and compacted contexts."""
    text: str | None = None
    """What reward functions see as the completion, where the last completion's own text is not it (a tool `finish(answer)`)."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Numbers of this turn; `env/<name>` in the metrics is the mean over rollouts of their sum."""


class Environment(Protocol):
    """One episode. Both methods may be `async`: episodes of a worker then run side by side.

    A class in a recipe is constructed once per episode with the recipe's parameters.
    """

    def reset(self, **task: Any) -> Observation | Reply:
        """Begin. It may ask for `prompt`, `answer`, `seed`, and the columns of the task, by name.

        Rollouts of one group have the same seed. Equal arguments must give equal episodes: a worker that dies
        takes others' episodes with it, which are then rebuilt by replaying their completions.
        """

    def step(self, message: Message) -> Observation | Reply:
        """Reply to a completion: `message["content"]` is its text, `message["tool_calls"]` the calls in it, if any."""


Function = TypeVar("Function", bound=Callable[..., Any])


def environment(function: Function) -> Function:
    """Mark a generator function as an environment."""
    function.is_environment = True  # type: ignore[attr-defined]
    return function


def checked(answer: Any, name: str) -> Observation:
    """What an environment returned, as an observation. Raises `TypeError` for what is none."""
    observation = answer if isinstance(answer, Observation) else Observation(answer)
    _check_reply(observation, name)
    for key in ("done", "restart"):
        value = getattr(observation, key)
        if value not in (False, True):
            raise TypeError(f"`{key}` of a turn is {brief(value)}; it must be True or False")
    for key in ("state", "text"):
        value = getattr(observation, key)
        if not (value is None or isinstance(value, str)):
            raise TypeError(f"`{key}` of a turn is {brief(value)}; it must be a text or None")
    if not isinstance(observation.metrics, Mapping):
        metrics = brief(observation.metrics)
        raise TypeError(f"`metrics` of a turn is {metrics}; it must be a dict of numbers")
    return observation


def checked_first(answer: Any, name: str) -> Observation:
    """The same for what an environment returned at the start. Raises `EnvError` if it is done or rewards: nothing was said yet."""
    observation = checked(answer, name)
    if observation.done:
        raise EnvError("the environment was done before the first completion")
    reward = finite(observation.reward, "the reward of the first observation")
    if reward:
        raise EnvError(
            f"the first observation has the reward {reward:g}, but there is no completion yet that it is for: "
            "give it with the reply to a completion"
        )
    return observation


def finite(value: Any, what: str) -> float:
    """A reward or a metric. Raises `TypeError` for what is no number, `ValueError` for one that is not finite."""
    problem = f"{what} is {brief(value)}; it must be a finite number"
    if isinstance(value, str) or not hasattr(value, "__float__"):
        raise TypeError(problem)
    try:
        number = float(value)
    except Exception as error:  # an array of several numbers
        raise TypeError(problem) from error
    if not math.isfinite(number):
        raise ValueError(problem)
    return number


def _check_reply(observation: Observation, name: str) -> None:
    """Raise `TypeError` if the reply is none."""
    reply = observation.reply
    is_messages = isinstance(reply, list | tuple) and all(map(_is_message, reply))
    if not (reply is None or isinstance(reply, str) or _is_message(reply) or is_messages):
        raise TypeError(
            f"environment {name!r} replied with a {type(reply).__name__}; "
            "a reply is a text, a message {'role': ..., 'content': ...}, a list of messages, or None"
        )
    if observation.restart and not is_messages:
        raise TypeError(f"environment {name!r} restarts without the messages of the new prompt")
    messages = [] if observation.restart else messages_of(reply)
    if messages and messages[-1]["role"] == "assistant":
        raise TypeError(
            f"environment {name!r} replied with a message of the role 'assistant', which is the policy's own; "
            "use 'user', 'tool' or 'system'"
        )


def _is_message(value: Any) -> bool:
    if not isinstance(value, Mapping) or not isinstance(value.get("role"), str):
        return False
    return isinstance(value.get("content"), str) or "tool_calls" in value


def messages_of(reply: Reply, role: str = "user") -> list[Message]:
    """A reply as messages; a text becomes one of `role`."""
    if reply is None:
        return []
    if isinstance(reply, str):
        return [{"role": role, "content": reply}]
    return [reply] if isinstance(reply, Mapping) else list(reply)  # type: ignore[list-item]


def needed_by(function: Callable[..., Any]) -> list[str]:
    """Names of the arguments without which it cannot be called."""
    return [
        name
        for name, parameter in signature(function).parameters.items()
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        and parameter.default is parameter.empty
        and name != "self"
    ]


def task_arguments(function: Callable[..., Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    """Of what the engine offers, what the function asks for. Raises `TypeError` if something it needs is missing."""
    parameters = signature(function).parameters
    for name in needed_by(function):
        if name not in offered:
            raise TypeError(missing(name, offered))
    if takes_any(parameters.values()):
        return dict(offered)
    return {name: offered[name] for name in parameters if name in offered}


def missing(name: str, offered: Iterable[str]) -> str:
    """The sentence for an argument that nothing gives."""
    return (
        f"the environment asks for {name!r}, which is neither a column of the task nor a parameter in the recipe; "
        f"there are: {', '.join(sorted(offered))}"
    )


def takes_any(parameters: Any) -> bool:
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
