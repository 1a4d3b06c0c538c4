"""Environments of GEM (`pip install gem-llm`).

    env: {use: gem, env: "game:GuessTheNumber-v0-easy", python: /opt/gem/bin/python}

What the environment shows at the start follows the task's own prompt, so a task may be empty. The rewards are those of its turns.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from rlcore.env.adapters.draws import Draws
from rlcore.env.adapters.library import imported
from rlcore.env.base import Observation
from rlcore.env.forms import Loaded, adapter
from rlcore.errors import RecipeError, first_line
from rlcore.types import Message


@adapter
def gem(*, env: str, params: Mapping[str, Any] | None = None) -> Loaded:
    """An environment of GEM that reads and writes text.

    env: its id, as for `gem.make`. params: further arguments of `gem.make`.
    """
    library = imported("gem", package="gem-llm")
    make = partial(library.make, env, **(params or {}))
    try:
        make()
    except Exception as error:
        raise RecipeError(f"gem cannot make {env!r}: {first_line(error)}") from error
    return Loaded(env, partial(_Game, make))


class _Game:
    """An episode."""

    def __init__(self, make: Any) -> None:
        self._make = make

    def reset(self, seed: int) -> Observation:
        self._draws = Draws(seed)
        with self._draws.used():
            self._environment = self._make()
            shown, info = self._environment.reset(seed=self._draws.seed)
        return Observation(_text(shown, info))

    def step(self, message: Message) -> Observation:
        with self._draws.used():
            shown, reward, terminated, truncated, info = self._environment.step(
                message["content"]
            )
        done = bool(terminated or truncated)
        return Observation(_text(shown, info), reward=float(reward), done=done)


def _text(shown: Any, info: Mapping[str, Any]) -> str:
    """What is shown, with what gem's own wrappers write behind it."""
    if not isinstance(shown, str):
        raise TypeError(
            f"the environment shows a {type(shown).__name__}; the policy reads text only"
        )
    suffix = info.get("suffix")
    return f"{shown}\n{suffix}" if suffix else shown
