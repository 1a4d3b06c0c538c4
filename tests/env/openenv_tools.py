"""The same environment as TRL's users wrap it: a class whose public methods are tools."""

from __future__ import annotations

import os

from openenv.core import GenericEnvClient


class GuessTools:
    def __init__(self) -> None:
        self.client = GenericEnvClient(base_url=os.environ["OPENENV_URL"]).sync()
        self.reward = 0.0

    def reset(self, seed: int, **kwargs) -> str:
        self.client.connect()
        self.reward = 0.0
        return self.client.reset(seed=seed).observation["hint"]

    def guess(self, number: int) -> str:
        """Guess the number.

        Args:
            number: The guess.

        Returns:
            A hint.
        """
        result = self.client.step({"text": str(number)})
        self.reward = result.reward or 0.0
        return result.observation["hint"]

    def get_reward(self) -> float:
        return self.reward
