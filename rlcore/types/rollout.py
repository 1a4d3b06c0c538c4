"""What the policy writes: turns, rollouts and groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, NamedTuple

from rlcore.errors import RecipeError
from rlcore.types.request import Finish
from rlcore.types.task import Task, Verdict, check_lengths

Role = Literal["prompt", "completion", "observation"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """Consecutive tokens of a rollout with one author.

    The first turn is the prompt. Completions are written by the policy; observations (replies of an environment) are not.
    """

    role: Role
    token_ids: list[int]  # [L]
    logprobs: list[float] | None = None
    """[L] as the engine recorded them; completions only."""
    versions: list[int] | None = None
    """[L] version of the weights that wrote each token; completions only."""
    temperature: float = 1.0
    """At which a completion was sampled."""
    finish: Finish | None = None
    """How a completion ended; None for other turns."""
    support: list[list[int] | None] | None = None
    """[L] token ids that truncated sampling kept, None where it kept all; None if nothing was truncated. Completions only."""

    def __post_init__(self) -> None:
        check_lengths(
            self.role,
            "turn",
            token_ids=self.token_ids,
            logprobs=self.logprobs,
            versions=self.versions,
            support=self.support,
        )
        written = (
            self.logprobs is not None,
            self.versions is not None,
            self.finish is not None,
        )
        if not all(written) and (self.role == "completion" or any(written)):
            raise ValueError(
                f"a turn of role {self.role!r} has logprobs, versions and finish if and only if it is a completion"
            )


class Span(NamedTuple):
    """Positions `start` (included) to `end` (excluded)."""

    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One attempt at a task: its turns, and the flat sequence that follows from them.

    Example, prompt "2+2=", completion "4" and end token, one token a character: `turns=(Turn(role="prompt",
    token_ids=[5, 9, 5, 11]), Turn(role="completion", token_ids=[7, 1], logprobs=[-0.2, -0.1], versions=[3, 3],
    finish="stop"))`. Then `token_ids == [5, 9, 5, 11, 7, 1]` and `mask == [0, 0, 0, 0, 1, 1]` (as bools).
    """

    id: str
    task_id: str
    turns: tuple[Turn, ...]
    text: str
    """The last completion as reward functions see it: without end and message tokens, with a tag that the template opened."""

    def __post_init__(self) -> None:
        roles = [turn.role for turn in self.turns]
        if roles[:1] != ["prompt"] or "prompt" in roles[1:] or "completion" not in roles:
            raise ValueError(
                f"rollout {self.id!r} must be one prompt followed by completions and observations, not {roles}"
            )

    @classmethod
    def from_tokens(
        cls,
        *,
        id: str,
        task_id: str,
        token_ids: Sequence[int],
        mask: Sequence[bool],
        logprobs: Sequence[float],
        text: str = "",
        finish: Finish = "stop",
        version: int = 0,
        versions: Sequence[int] | None = None,
        temperature: float = 1.0,
        support: Sequence[list[int] | None] | None = None,
    ) -> Rollout:
        """Cut a flat sequence into turns: a completion is a run of tokens whose mask is True.

        token_ids, mask, logprobs, versions and support: [T]; without `versions` every token has `version`. `finish` is that of the
        last completion.
        """
        versions = [version] * len(mask) if versions is None else versions
        check_lengths(
            "rollout",
            id,
            token_ids=token_ids,
            mask=mask,
            logprobs=logprobs,
            versions=versions,
            support=support,
        )
        edges = [i for i in range(1, len(mask)) if mask[i] != mask[i - 1]]
        starts, ends = [0, *edges], [*edges, len(mask)]
        turns = [Turn(role="prompt", token_ids=[])] if mask and mask[0] else []
        for start, end in zip(starts, ends, strict=True):
            tokens = list(token_ids[start:end])
            if not mask[start:end] or not mask[start]:
                turns.append(Turn(role="observation" if turns else "prompt", token_ids=tokens))
                continue
            turns.append(
                Turn(
                    role="completion",
                    token_ids=tokens,
                    logprobs=list(logprobs[start:end]),
                    versions=list(versions[start:end]),
                    temperature=temperature,
                    finish="stop",
                    support=None if support is None else list(support[start:end]),
                )
            )
        if all(turn.role != "completion" for turn in turns):
            turns.append(
                Turn(role="completion", token_ids=[], logprobs=[], versions=[], finish=finish)
            )
        last = max(i for i, turn in enumerate(turns) if turn.role == "completion")
        turns[last] = replace(turns[last], finish=finish, temperature=temperature)
        return cls(id=id, task_id=task_id, turns=tuple(turns), text=text)

    @cached_property
    def token_ids(self) -> list[int]:
        """All tokens, [T]."""
        return [token for turn in self.turns for token in turn.token_ids]

    @cached_property
    def mask(self) -> list[bool]:
        """[T], True where the policy wrote the token."""
        return [turn.role == "completion" for turn in self.turns for _ in turn.token_ids]

    @cached_property
    def logprobs(self) -> list[float]:
        """[T], as the engine recorded them; 0 where the mask is False."""
        return [
            value
            for turn in self.turns
            for value in (turn.logprobs or [0.0] * len(turn.token_ids))
        ]

    @cached_property
    def versions(self) -> list[int | None]:
        """[T], version of the weights that wrote the token; None where the mask is False."""
        return [
            value
            for turn in self.turns
            for value in (turn.versions or [None] * len(turn.token_ids))
        ]

    @cached_property
    def support(self) -> list[list[int] | None] | None:
        """[T] token ids that truncated sampling kept, None where it kept all; None if nothing was truncated."""
        if all(turn.support is None for turn in self.turns):
            return None
        support: list[list[int] | None] = []
        for turn in self.turns:
            support += turn.support or [None] * len(turn.token_ids)
        return support

    @cached_property
    def completions(self) -> list[Span]:
        """Where each completion lies in the flat sequence."""
        spans, start = [], 0
        for turn in self.turns:
            end = start + len(turn.token_ids)
            if turn.role == "completion":
                spans.append(Span(start, end))
            start = end
        return spans

    @property
    def prompt_ids(self) -> list[int]:
        """Tokens of the prompt."""
        return self.turns[0].token_ids

    @property
    def policy_ids(self) -> list[int]:
        """All tokens that the policy wrote, of all completions one after the other."""
        return [token for token, wrote in zip(self.token_ids, self.mask, strict=True) if wrote]

    @property
    def completion_ids(self) -> list[int]:
        """Tokens of the only completion, [L]. Raises `RecipeError` for a multi-turn rollout."""
        self.require_single_turn("reading the completion of a rollout as one text")
        return self.turns[1].token_ids

    @property
    def single_turn(self) -> bool:
        """Whether it is a prompt and one completion."""
        return len(self.turns) == 2

    def require_single_turn(self, what: str) -> None:
        """Raise `RecipeError` for a multi-turn rollout. what: the part that cannot use it, as the subject of a sentence."""
        if not self.single_turn:
            raise RecipeError(
                f"{what} supports only single-turn rollouts, and rollout {self.id!r} has {len(self.turns)} turns"
            )

    @property
    def finish(self) -> Finish:
        """How the last completion ended."""
        return next(turn.finish for turn in reversed(self.turns) if turn.finish is not None)

    @property
    def temperature(self) -> float:
        """At which the completions were sampled."""
        return next(turn.temperature for turn in self.turns if turn.role == "completion")

    @property
    def version_min(self) -> int | None:
        """Oldest version that wrote a token; None where no token was written."""
        return min((version for version in self.versions if version is not None), default=None)

    @property
    def version_max(self) -> int | None:
        """Newest version that wrote a token; None where no token was written."""
        return max((version for version in self.versions if version is not None), default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepValues:
    """Values along one completion of L steps.

    Example: a completion of three steps whose second spoils it, in a task solved half of the time:
    `StepValues(rollout_id="sum/3#0", spans=[Span(0, 4), Span(4, 9), Span(9, 12)], values=[0.5, 0.6, 0.0, 0.0])`.
    """

    rollout_id: str
    spans: list[Span]  # [L]
    values: list[float | None]
    """[L + 1]: Q_0 is that of the prompt, Q_i of the completion's first i steps, Q_L the completion's own reward. None: not estimated."""

    def __post_init__(self) -> None:
        if len(self.values) != len(self.spans) + 1:
            raise ValueError(
                f"step values of {self.rollout_id!r} are misaligned: {len(self.spans)} spans need {len(self.spans) + 1} values, "
                f"not {len(self.values)}"
            )
        if self.values[0] is None or self.values[-1] is None:
            raise ValueError(
                f"step values of {self.rollout_id!r} must know the first (prompt) and the last (reward)"
            )

    @property
    def filled(self) -> list[float]:
        """All values [L + 1]; those not estimated lie on the line between their neighbours that were."""
        known = [(i, value) for i, value in enumerate(self.values) if value is not None]
        filled = [known[0][1]]
        for (i, left), (j, right) in zip(known, known[1:], strict=False):
            filled += [left + (right - left) * (k - i) / (j - i) for k in range(i + 1, j)] + [
                right
            ]
        return filled

    @property
    def advantages(self) -> list[float]:
        """A_i = Q_i - Q_(i-1) of each step, [L]; they add up to reward - Q_0, also where values were filled in."""
        filled = self.filled
        return [after - before for before, after in zip(filled, filled[1:], strict=False)]

    def pit(self, *, least_spread: float = 1e-9) -> int | None:
        """Position in `spans` of the first pit: the first step whose value is the lowest of the completion's estimated ones.

        None where the values of prompt and steps differ by less than `least_spread`: nothing tells the steps apart then.
        """
        known = [value for value in self.values if value is not None]
        if max(known) - min(known) < least_spread:
            return None
        after = [(value, i) for i, value in enumerate(self.values[1:]) if value is not None]
        return min(after)[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """All rollouts of one task with their verdicts."""

    task: Task
    rollouts: list[Rollout]  # [G]
    verdicts: list[Verdict]  # [G]
    step_values: Mapping[str, StepValues] = field(default_factory=dict)
    """Values of the reasoning steps by rollout id, where they were estimated."""
    continuations: tuple[tuple[Prefix, Group], ...] = ()
    """What was sampled to estimate them: each prefix with the group of completions that continue it."""

    def __post_init__(self) -> None:
        check_lengths("group", self.task.id, rollouts=self.rollouts, verdicts=self.verdicts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prefix:
    """The first `length` tokens of a rollout's completion, to be continued `n` times: a `Group` of whole completions comes of it."""

    task: Task
    rollout: Rollout
    length: int
    """Completion tokens kept; 0 starts the completion anew."""
    n: int
    max_tokens: int
    """Longest continuation."""

    @property
    def id(self) -> str:
        return f"{self.rollout.id}@{self.length}"
