"""Games for one player of TextArena (`pip install textarena`).

    env: {use: textarena, env: GuessTheNumber-v0, python: /opt/textarena/bin/python}

The game's own prompt follows the task's, so a task may be empty. The game is made without TextArena's wrappers, which show the whole
past again in each turn: here the conversation holds it. The reward is the game's, at its end.
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

RAW = "-raw"
"""Ending of the ids of games without wrappers."""


@adapter
def textarena(*, env: str, params: Mapping[str, Any] | None = None) -> Loaded:
    """A game of TextArena for one player.

    env: its id, as for `textarena.make`. params: further arguments of `textarena.make`.
    """
    library = imported("textarena", package="textarena")
    make = partial(library.make, env.removesuffix(RAW) + RAW, **(params or {}))
    try:
        make().reset(num_players=1, seed=0)
    except Exception as error:
        raise RecipeError(
            f"textarena cannot begin {env!r} with one player, and games for several are not supported: {first_line(error)}"
        ) from error
    return Loaded(env, partial(_Game, make))


class _Game:
    """An episode."""

    def __init__(self, make: Any) -> None:
        self._make = make

    def reset(self, seed: int) -> Observation:
        self._draws = Draws(seed)
        with self._draws.used():
            self._game = self._make()
            self._game.reset(num_players=1, seed=self._draws.seed)
            return Observation(self._shown())

    def step(self, message: Message) -> Observation:
        with self._draws.used():
            done, _ = self._game.step(action=message["content"])
            if not done:
                return Observation(self._shown())
            rewards, info = self._game.close()
        broken = float(bool(info[0].get("invalid_move")))
        return Observation(
            done=True, reward=float(rewards[0]), metrics={"invalid_move": broken}
        )

    def _shown(self) -> str:
        """What was said since the last turn, without the player's own words."""
        _, messages = self._game.get_observation()
        return "\n".join(text for player, text, _ in messages if player != 0)
