"""The values that travel along the arrow, in the order in which they are made.

    Task -> Request -> Completion -> Rollout -> Verdict -> Group -> Sample -> (tensors) -> StepReport -> Outcome

Every value is frozen and checks its own lengths, so a misalignment is reported where it is made, with the id and both
lengths. Reward, credit and advantage are three words for three things: a *reward* function gives a `Verdict`, *credit*
turns the verdicts of a group into one *advantage* per token.

Shape letters: [T] all tokens of a sequence, [L] tokens of one answer, [G] rollouts of a group.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Message = dict[str, str]
"""One chat message, `{"role": "user", "content": "2+2=?"}`."""

Finish = Literal["stop", "length", "aborted"]
Status = Literal["ok", "wrong-format", "unscorable", "timed-out", "crashed"]

SCORED: frozenset[str] = frozenset({"ok", "wrong-format"})
"""Statuses whose verdict carries a value; the others leave the loss and the group statistics."""


def _same_length(owner: str, id: str, **fields: Sequence[Any] | None) -> None:
    lengths = {name: len(values) for name, values in fields.items() if values is not None}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} has {n}" for name, n in lengths.items())
        raise ValueError(f"{owner} {id!r} is misaligned: {listed}; all must be equal")


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One problem. Example: `Task(id="add/3", prompt="2+3+4=?", answer="9", category="3-terms", demonstration="2+3=5;5+4=9")`."""

    id: str
    prompt: str | list[Message]
    answer: Any = None
    """What a verifier needs; None where nothing is verified."""
    category: str = "all"
    """Curriculum category."""
    demonstration: str | None = None
    """A worked answer to imitate, for SFT."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Other columns of the row, handed to reward functions by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How tokens are drawn. Engine logprobs are those of the distribution these settings define."""

    max_tokens: int
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 is off."""
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    """Always write max_tokens tokens: fixed work for benchmarks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One answer to be written. `prefix_ids` is a start of the answer that is already fixed (per-step Monte-Carlo, partial
    rollouts); the completion continues it. `n` answers to a prompt are n requests that differ in id and seed."""

    id: str
    prompt_ids: list[int]
    prefix_ids: list[int] = field(default_factory=list)
    sampling: Sampling
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """What the engine wrote for one request: tokens after prompt and prefix, the end-of-sequence token included."""

    request_id: str
    token_ids: list[int]  # [L]
    logprobs: list[
        float
    ]  # [L], log-probability of each token under the distribution it was drawn from
    finish: Finish
    version_min: int
    version_max: int

    def __post_init__(self) -> None:
        _same_length(
            "completion", self.request_id, token_ids=self.token_ids, logprobs=self.logprobs
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """One attempt at a task, prompt and answer in one sequence.

    Example: prompt "2+2=" answered with "4" and end-of-sequence, in one token a character:
    `token_ids=[5, 9, 5, 11, 7, 1], mask=[0, 0, 0, 0, 1, 1] (as bools), logprobs=[0., 0., 0., 0., -0.2, -0.1]`.
    """

    id: str
    task_id: str
    token_ids: list[int]  # [T]
    mask: list[bool]  # [T], True where the policy wrote the token
    logprobs: list[float]  # [T], the engine's; 0 where mask is False
    text: str
    """The answer as reward functions see it: special tokens removed."""
    finish: Finish
    version_min: int
    version_max: int

    def __post_init__(self) -> None:
        _same_length(
            "rollout", self.id, token_ids=self.token_ids, mask=self.mask, logprobs=self.logprobs
        )

    @property
    def answer_ids(self) -> list[int]:
        """Tokens the policy wrote, [L]."""
        return [token for token, wrote in zip(self.token_ids, self.mask, strict=True) if wrote]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the rewards said of one rollout. A failed score has no value: it is never read as 0."""

    value: float | None
    status: Status = "ok"
    parts: Mapping[str, float | None] = field(default_factory=dict)
    reason: str = ""

    def __post_init__(self) -> None:
        if (self.value is not None) != (self.status in SCORED):
            raise ValueError(
                f"a verdict with status {self.status!r} and value {self.value!r} contradicts itself: "
                f"only {sorted(SCORED)} carry a value"
            )
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(
                f"a verdict's value must be finite, got {self.value!r}; use status 'unscorable' instead"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """All rollouts of one task with their verdicts."""

    task: Task
    rollouts: list[Rollout]  # [G]
    verdicts: list[Verdict]  # [G]

    def __post_init__(self) -> None:
        _same_length("group", self.task.id, rollouts=self.rollouts, verdicts=self.verdicts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prefix:
    """The first `length` tokens of a rollout's answer, to be continued `n` times: a `Group` of whole answers comes of it."""

    task: Task
    rollout: Rollout
    length: int
    """Answer tokens kept; 0 starts the answer anew."""
    n: int
    max_tokens: int
    """Longest continuation."""

    @property
    def id(self) -> str:
        return f"{self.rollout.id}@{self.length}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One sequence to learn from. Credit is decided here: the learner sees one advantage per token and no algorithm."""

    id: str
    token_ids: list[int]  # [T]
    mask: list[bool]  # [T], True where the token is trained
    advantages: list[float]  # [T], read where mask is True
    logprobs: list[float] | None = (
        None  # [T], of the policy that wrote the tokens; None if nobody recorded them
    )
    weight: float = 1.0
    version: int | None = None
    """Oldest policy version that wrote a token; None for text no policy of this run wrote."""
    stream: str = "policy"
    """Which terms of the objective read it; each stream has its own global counts."""

    def __post_init__(self) -> None:
        _same_length(
            "sample",
            self.id,
            token_ids=self.token_ids,
            mask=self.mask,
            advantages=self.advantages,
            logprobs=self.logprobs,
        )
        if not self.token_ids or self.mask[0]:
            raise ValueError(
                f"sample {self.id!r} must start with a token that is not trained: nothing predicts the first token"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """What one optimiser step did; all means are over the global batch. None: there was nothing to measure it on."""

    loss: float | None
    losses: Mapping[str, float]
    """Loss of each term by name."""
    grad_norm: float | None
    lr: float
    entropy: float | None
    kl: float | None
    """Engine to trainer: k3 estimate of KL(engine || trainer) on the trained tokens, before any mask.

    None where no trained token has a recorded log-probability of its engine."""
    ratio_max: float | None
    """Largest trainer/engine probability ratio of a trained token, before any mask. None as for `kl`."""
    clip_frac: float | None
    """Share of trained tokens whose gradient a mask removed or reduced; None for an objective without masks."""
    tokens: int
    sequences: int


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
