"""What the learner and the curriculum are given: samples with one advantage per token, reports and outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rlcore.types.task import check_lengths

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherScores:
    """What a teacher says of a sample's n trained tokens, at the sample's temperature."""

    logprobs: list[float]
    """[n] of the tokens themselves, less those of the teacher's base where it has one."""
    top_ids: Tensor | None = field(default=None, compare=False)
    """[n, K] int64, its K most probable tokens at each position; None where nobody asked for them."""
    top_logprobs: Tensor | None = field(default=None, compare=False)
    """[n, K] their log-probabilities."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One sequence to learn from. Credit is decided here: the learner sees one advantage per token and no algorithm."""

    id: str
    token_ids: list[int]  # [T]
    mask: list[bool]  # [T], True where the token is trained
    advantages: list[float]  # [T], read where mask is True
    logprobs: list[float] | None = None
    """[T] of the policy that wrote the tokens, as the engine recorded them; None if nobody did."""
    weight: float = 1.0
    part: int = 0
    """Which of the rollout's sequences this is, where it has several; their weights add up to that of one."""
    version: int | None = None
    """Oldest policy version that wrote a token; None for text no policy of this run wrote."""
    temperature: float = 1.0
    """At which the tokens were sampled; the learner computes log-probabilities at the same one."""
    old_logprobs: list[float] | None = None
    """[T] of the policy that the ratio is taken to; None: the engine's `logprobs`, or the policy itself if it wrote them.
    `rlcore.learner.updates` sets it."""
    support: list[list[int] | None] | None = None
    """[T] token ids that truncated sampling (top-k, top-p, min-p) kept at each token, None where it kept all of them; None
    if nothing was truncated. Log-probabilities are those among the kept ones."""
    teacher: TeacherScores | None = None
    """Of the trained tokens, where the stage has a teacher."""
    stream: str = "policy"
    """Which terms of the objective read it; each stream has its own global counts."""
    marked: list[bool] | None = None
    """[T] tokens that the objective's selection marked, for terms that read it; None: nothing was marked."""
    input_ids: list[int] | None = None
    """[T] tokens that the model reads in place of `token_ids`, which stay what it predicts; None: the same tokens."""

    def __post_init__(self) -> None:
        check_lengths(
            "sample",
            self.id,
            token_ids=self.token_ids,
            mask=self.mask,
            advantages=self.advantages,
            logprobs=self.logprobs,
            old_logprobs=self.old_logprobs,
            support=self.support,
            marked=self.marked,
            input_ids=self.input_ids,
        )
        if not self.token_ids or self.mask[0]:
            raise ValueError(
                f"sample {self.id!r} must start with a token that is not trained: nothing predicts the first token"
            )

    @property
    def context_ids(self) -> list[int]:
        """[T] what the model reads."""
        return self.token_ids if self.input_ids is None else self.input_ids


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """What one update did, or all updates of a step together; all means are over the tokens of all ranks.

    None: there was nothing to measure it on."""

    loss: float | None
    losses: Mapping[str, float]
    """Loss of each term by name."""
    grad_norm: float | None
    lr: float
    """Of the last update."""
    entropy: float | None
    kl: float | None
    """Engine to trainer: k3 estimate of KL(engine || trainer) on the trained tokens, before any mask.

    None where no trained token has a recorded log-probability of its engine."""
    ratio_max: float | None
    """Largest trainer/engine probability ratio of a trained token, before any mask. None as for `kl`."""
    clip_frac: float | None
    """Fraction of trained tokens whose gradient a mask removed or reduced; None for an objective without masks."""
    tokens: int
    """Trained tokens; over several updates their sum, so that a second epoch counts them again."""
    sequences: int
    updates: int = 0
    """Optimiser updates that were applied."""
    abs_advantage: float | None = None
    """Mean |advantage| of the trained tokens."""
    old_kl: float | None = None
    """Old to current policy: k3 estimate of KL(old || current), on tokens whose ratio is not 1 by construction. None without any."""
    old_ratio_max: float | None = None
    """Largest current/old probability ratio, the one that is clipped, of a trained token. None as for `old_kl`."""
    recorded_tokens: int = 0
    """Trained tokens with a log-probability recorded by the engine."""
    off_policy_tokens: int = 0
    """Trained tokens whose ratio is taken to recorded or recomputed log-probabilities."""
    model_tokens: int = 0
    """Tokens read in forward and backward passes; with a shared layout a common beginning counts once."""
    forward_only_tokens: int = 0
    """Tokens read in forward passes alone: of the reference model, and to recompute old log-probabilities."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a curriculum learns of one finished group; small, so that ranks can exchange it."""

    index: int
    """Position of the task in its task set."""
    category: str
    rewards: tuple[float, ...]
    """Values of the scored rollouts only."""
    abs_advantage: float
    """Mean over the scored rollouts of the mean |advantage| of their trained tokens."""
    accepted: bool = True
    """By the filter; True without one."""
    scores: tuple[float, ...] = ()
    """First reward of the scored rollouts, which decides what passed; empty: `rewards` do."""
    loss: float | None = None
    """Of a demonstration, before the step's update: mean negative log-likelihood, nats per trained token. None where none was measured."""
