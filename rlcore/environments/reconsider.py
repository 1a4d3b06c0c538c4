"""Ask again: the policy answers, is asked to think again, and answers a second time (Confidence v.s. Critique, Yang et al. 2024).

    prompt "2+2="   completion "5"   reply "Are you sure? ..."   completion "4"

Rewards judge the last answer, and with `turn: 1` the first one.
"""

from __future__ import annotations

from rlcore.env.base import Observation
from rlcore.types import Message

ASK = "Are you sure? Think again, and then give your final answer in the same form."


class Reconsider:
    """The environment. It gives no reward of its own.

    ask: what it says after an answer. times: how often.
    """

    def __init__(self, *, ask: str = ASK, times: int = 1) -> None:
        self._ask = ask
        self._left = times

    def reset(self) -> Observation:
        return Observation()

    def step(self, message: Message) -> Observation:
        self._left -= 1
        return Observation(done=True) if self._left < 0 else Observation(self._ask)
