"""What is kept of a rollout's conversation with its environment while it is going on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from rlcore.env.base import Observation
from rlcore.types import Episode, Finish, Message


@dataclass(kw_only=True, slots=True)
class Talk:
    messages: list[Message] = field(default_factory=list)
    """The conversation so far, the prompt first."""
    prompt_messages: int = 0
    rewards: list[float] = field(default_factory=list)
    """Of the completions that the environment has replied to."""
    states: list[str | None] = field(default_factory=list)
    """What each completion started from."""
    metrics: Counter[str] = field(default_factory=Counter)
    text: str | None = None
    """What reward functions see, where the environment says so."""
    ending: str = ""
    """As in `Episode`; "" while it goes on."""
    reason: str = ""
    seed: int = 0
    """Of the environment."""
    is_waiting: bool = True
    """For the environment."""

    @classmethod
    def until(cls, episode: Episode, turns: int) -> Talk:
        """An episode as it stood when its completion number `turns` (from 1) was written."""
        first = episode.prompt_messages
        said = [
            i for i, m in enumerate(episode.messages) if i >= first and m["role"] == "assistant"
        ]
        return cls(
            messages=episode.messages[: said[turns - 1] + 1],
            prompt_messages=first,
            rewards=episode.rewards[: turns - 1],
            states=episode.states[:turns],
            seed=episode.seed,
        )

    @property
    def said(self) -> list[Message]:
        """The policy's completions."""
        after = self.messages[self.prompt_messages :]
        return [message for message in after if message["role"] == "assistant"]

    def hear(self, observation: Observation) -> None:
        """Keep what was said of the last completion."""
        self.is_waiting = False
        self.rewards.append(observation.reward)
        self.metrics.update(observation.metrics)
        if observation.text is not None:
            self.text = observation.text
        if observation.done:
            self.ending = "done"

    def end(self, ending: str, reason: str = "") -> None:
        self.is_waiting = False
        self.ending, self.reason = ending, reason

    def episode(self, finish: Finish | None) -> Episode:
        """finish: of the last completion."""
        unanswered = len(self.states) - len(self.rewards)
        ending = self.ending or ("aborted" if finish == "aborted" else "length")
        return Episode(
            messages=list(self.messages),
            prompt_messages=self.prompt_messages,
            rewards=self.rewards + [0.0] * unanswered,
            states=list(self.states),
            ending=ending,
            reason=self.reason,
            seed=self.seed,
            metrics=dict(self.metrics),
        )
