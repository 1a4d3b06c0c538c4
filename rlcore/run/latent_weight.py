"""The importance weight of a latent thought, as a reward: the E-step of BoLT (`rlcore.tasks.latent_thoughts`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from rlcore.errors import LearnerError
from rlcore.tasks.latent_thoughts import MARKS, Forms, log_mean_weight
from rlcore.tokenizer import text_ids
from rlcore.types import Group, Rollout

if TYPE_CHECKING:
    from rlcore.learner.policy import Policy


class ThoughtWeight(NamedTuple):
    """Of one thought, in nats."""

    value: float
    """log w = log p(z, x) - log q(z | x)."""
    joint: float
    """log p(z, x), of thought and text in the prior form."""
    sampled: float
    """log q(z | x), of the distribution that the thought was drawn from."""
    bound: float
    """log mean_k w_k over the thoughts of its text."""


class LatentWeight:
    """log w = log p(z, x) - log q(z | x) of a thought z about the text x of its prompt (BoLT, arXiv 2503.18866).

    log p(z, x) is the learner's own forward at temperature 1 over `<|prior|> z <|text|> x`, without the marks. log q(z | x) is what
    the engine recorded: at the temperature, top-p and so on that were used. A thought that was cut off counts as far as it goes.
    `bound` is log mean_k w_k, a lower bound of log p(x). marks: as the maker `latent_thoughts` has them.
    """

    def __init__(
        self,
        policy: Policy | None,
        *,
        micro_batch_tokens: int = 8192,
        marks: Sequence[str] = MARKS,
    ) -> None:
        """policy: None where a recipe is only checked."""
        self._policy = policy
        self._max_tokens = micro_batch_tokens
        self._marks = marks

    def __call__(self, groups: Sequence[Group]) -> list[list[ThoughtWeight]]:
        """Of each group's rollouts, in their order. Raises `LearnerError` or `TaskError`."""
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        joints = iter(self._joints(rollouts))
        return [
            self._of_group(group, [next(joints) for _ in group.rollouts]) for group in groups
        ]

    def _of_group(self, group: Group, joints: Sequence[float]) -> list[ThoughtWeight]:
        sampled = [_sampled(rollout) for rollout in group.rollouts]
        log_weights = [joint - own for joint, own in zip(joints, sampled, strict=True)]
        bound = log_mean_weight(log_weights)
        return [
            ThoughtWeight(value=value, joint=joint, sampled=own, bound=bound)
            for value, joint, own in zip(log_weights, joints, sampled, strict=True)
        ]

    def _joints(self, rollouts: Sequence[Rollout]) -> list[float]:
        """log p(z, x) of each rollout."""
        tokenizer = self._policy.tokenizer
        forms = Forms.of(
            self._marks,
            lambda text: text_ids(tokenizer, text),
            tokenizer.eos_token_id,
        )
        opening = tokenizer(self._marks[0]).input_ids
        read = self._policy.read(
            [[*opening, *forms.prior_form(rollout)] for rollout in rollouts],
            starts=[len(opening)] * len(rollouts),
            max_tokens=self._max_tokens,
        )
        joints = []
        for rollout, (logprobs, _) in zip(rollouts, read, strict=True):
            of_mark = logprobs[len(rollout.completion_ids)]
            joints.append(sum(logprobs) - of_mark)
        return joints


def _sampled(rollout: Rollout) -> float:
    """log q of what the policy wrote."""
    if rollout.temperature == 0:
        raise LearnerError(
            f"latent_weight: the thought {rollout.id!r} was written greedily, so nothing weighs it: set sampling.temperature above 0"
        )
    return sum(rollout.logprobs)
