"""Environments that reply what is none, in their first observation or after a completion, and tools that cannot be called."""

from __future__ import annotations

import numpy as np

from rlcore.env import Observation, environment

FIRST = {
    "done": Observation(done=True, reward=1.0),
    "reward": Observation("go", reward=5.0),
    "no number": Observation("go", reward=None),
    "assistant": {"role": "assistant", "content": "hi"},
}
LATER = {
    "done text": Observation("x", done="no"),
    "restart text": Observation([{"role": "user", "content": "x"}], restart="yes"),
    "reward text": Observation("x", reward="1"),
    "reward None": Observation("x", reward=None),
    "metric text": Observation("x", metrics={"a": "b"}),
    "metrics None": Observation("x", metrics=None),
    "state": Observation("x", state={"a": 1}),
    "text": Observation("x", text=3),
    "assistant": {"role": "assistant", "content": "hi"},
    "numpy": Observation("x", reward=np.float32(0.5), done=np.bool_(True), metrics={"n": np.int64(3)}),
}


class Odd:
    def reset(self, first: str = "", later: str = "") -> object:
        self.later = later
        return FIRST.get(first, "go")

    def step(self, message: dict) -> object:
        return LATER[self.later]


@environment
def never_replies(**columns):
    return 1.0
    yield


@environment
def rewards_at_once(**columns):
    yield "go", 0.5


@environment
def returns_text(**columns):
    yield "go"
    return "good"


class NoReward:
    """In TRL's form."""

    def reset(self) -> None: ...

    def look(self) -> str:
        """Look."""
        return "x"

    def get_reward(self) -> None: ...
