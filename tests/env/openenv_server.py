"""An environment of OpenEnv and its server: the policy guesses a number. Run with the port."""

from __future__ import annotations

import random
import sys

import uvicorn
from openenv.core.env_server import Action, Environment, Observation, State, create_fastapi_app


class Guess(Action):
    text: str


class Hint(Observation):
    hint: str = ""


class Guessing(Environment):
    SUPPORTS_CONCURRENT_SESSIONS = True

    def reset(self, seed=None, episode_id=None, **kwargs):
        self.number = random.Random(seed).randint(1, 9)
        self.turn = 0
        return Hint(hint="a number from 1 to 9?")

    def step(self, action, timeout_s=None, **kwargs):
        self.turn += 1
        if int(action.text) == self.number:
            return Hint(hint="right", done=True, reward=1.0 / self.turn)
        return Hint(hint="higher" if int(action.text) < self.number else "lower", reward=0.0)

    @property
    def state(self):
        return State(step_count=self.turn)


if __name__ == "__main__":
    app = create_fastapi_app(Guessing, Guess, Hint, max_concurrent_envs=16)
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
