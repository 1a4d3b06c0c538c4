"""An entropy bonus whose coefficient moves to hold a target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rlcore.errors import RecipeError
from rlcore.objective.tokens import Tokens

if TYPE_CHECKING:
    from torch import Tensor


class EntropyControl:
    """Adaptive entropy (Skywork-OR1, arXiv 2505.22312) as the advantage of an entropy term.

    After each update with mean entropy e, in nats a token, c grows by `delta` if e <= `target` and
    falls by it otherwise, between `least` and `most`. The next update's coefficient is c if e <=
    `target`, else 0; it is 0 in the first update. c starts at `start`. TRL's `use_adaptive_entropy`
    is the same rule.
    """

    def __init__(
        self,
        target: float,
        *,
        delta: float = 0.005,
        start: float = 0.0,
        least: float = 0.0,
        most: float = 1.0,
    ) -> None:
        if target <= 0 or delta <= 0:
            raise RecipeError(
                f"adaptive entropy needs a target and a delta above 0, got {target:g} and {delta:g}"
            )
        if not 0 <= least <= start <= most:
            raise RecipeError(
                f"adaptive entropy needs 0 <= least <= start <= most, got least {least:g}, "
                f"start {start:g} and most {most:g}"
            )
        self.target = target
        self.delta = delta
        self.least = least
        self.most = most
        self.level = start
        """c"""
        self.is_low = False
        """Whether the entropy of the last update was at or below the target."""

    @property
    def coefficient(self) -> float:
        """What the bonus of the next update is multiplied with."""
        return self.level if self.is_low else 0.0

    def __call__(self, tokens: Tokens) -> Tensor:
        return tokens.logp.new_full(tokens.logp.shape, self.coefficient)

    def observe(self, entropy: float) -> None:
        """Take note of the mean entropy of an update, over the trained tokens of all processes."""
        self.is_low = entropy <= self.target
        step = self.delta if self.is_low else -self.delta
        self.level = min(max(self.level + step, self.least), self.most)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"level": self.level, "is_low": self.is_low}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.level = state["level"]
        self.is_low = state["is_low"]
