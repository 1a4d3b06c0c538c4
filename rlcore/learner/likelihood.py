"""The policy's own log-probability of a completion, as a reward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rlcore.learner.policy import Policy
from rlcore.types import Group


class OwnLikelihood(NamedTuple):
    """Of one rollout, in nats."""

    value: float | None
    """None for a completion without tokens, where it is divided by their number."""


class Likelihood:
    """log pi(y | x), the sum over what the policy wrote, at temperature 1: the self-reward of Sharpening
    (arXiv 2412.01951).

    The learner's own forward, so the engine's arithmetic and the temperature of the sampling have no part
    in it. In a `sample` stage pi is the policy that writes. As a reward of an `rl` stage it follows the
    policy. It prefers short completions and, by itself, whatever the policy says most often.
    per_token: divided by the number of tokens.
    """

    def __init__(
        self,
        policy: Policy | None,
        *,
        micro_batch_tokens: int = 8192,
        per_token: bool = False,
    ) -> None:
        """policy: None where a recipe is only checked."""
        self._policy = policy
        self._max_tokens = micro_batch_tokens
        self._per_token = per_token

    def __call__(self, groups: Sequence[Group]) -> list[list[OwnLikelihood]]:
        """Of each group's rollouts, in their order."""
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        for rollout in rollouts:
            rollout.require_single_turn("the reward likelihood")
        read = self._policy.read(
            [rollout.token_ids for rollout in rollouts],
            starts=[len(rollout.prompt_ids) for rollout in rollouts],
            layout="shared",
            max_tokens=self._max_tokens,
        )
        scores = iter(self._score(logprobs) for logprobs, _ in read)
        return [[next(scores) for _ in group.rollouts] for group in groups]

    def _score(self, logprobs: Sequence[float]) -> OwnLikelihood:
        total = sum(logprobs)
        if not self._per_token:
            return OwnLikelihood(total)
        return OwnLikelihood(total / len(logprobs) if logprobs else None)
