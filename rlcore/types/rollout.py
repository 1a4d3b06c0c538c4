"""What the policy writes: turns and rollouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, NamedTuple

from rlcore.errors import RecipeError
from rlcore.types.request import Finish
from rlcore.types.task import Message, check_lengths

Role = Literal["prompt", "completion", "observation"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """Consecutive tokens of a rollout with one author.

    The first turn is the prompt. Completions are written by the policy; observations (replies of an environment) are not.
    A further prompt begins a further sequence: it replaces everything before it.
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Episode:
    """What the environment of a rollout said, turn by turn; T is the number of completions."""

    messages: list[Message]
    """The whole conversation, for reward functions and readers."""
    prompt_messages: int
    """How many of them are the prompt."""
    rewards: list[float]  # [T]
    states: list[
        str | None
    ]  # [T], what each completion started from; None where the environment does not say
    ending: str
    """Why it ended: done, max_turns, length, aborted, timed-out or crashed."""
    reason: str = ""
    """Of a failure."""
    seed: int = 0
    """That the environment was given, equal for all rollouts of a group."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What the environment counted, summed over turns."""

    @property
    def failed(self) -> bool:
        """Whether the environment was lost, so that nobody knows what the rollout is worth."""
        return self.ending in ("timed-out", "crashed")


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
    episode: Episode | None = None
    """What its environment said; None without one."""

    def __post_init__(self) -> None:
        roles = [turn.role for turn in self.turns]
        if roles[:1] != ["prompt"] or "completion" not in roles:
            raise ValueError(
                f"rollout {self.id!r} must be a prompt followed by completions and observations, not {roles}"
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
        prompts: Sequence[int] = (0,),
        episode: Episode | None = None,
    ) -> Rollout:
        """Cut a flat sequence into turns: a completion is a run of tokens whose mask is True.

        token_ids, mask, logprobs, versions and support: [T]; without `versions` every token has `version`. `finish` is that of the
        last completion. prompts: where a prompt begins, one for each of the rollout's sequences.
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
        spans = _cut(mask, prompts)
        turns = [Turn(role="prompt", token_ids=[])] if mask and mask[0] else []
        for start, end in spans:
            tokens = list(token_ids[start:end])
            if not mask[start:end] or not mask[start]:
                is_prompt = not turns or start in prompts
                turns.append(
                    Turn(role="prompt" if is_prompt else "observation", token_ids=tokens)
                )
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
        return cls(id=id, task_id=task_id, turns=tuple(turns), text=text, episode=episode)

    @cached_property
    def sequences(self) -> list[Rollout]:
        """What a model reads, and is trained on, as one text each: itself, unless a turn replaced the prompt.

        Only those in which the policy wrote something.
        """
        starts = [i for i, turn in enumerate(self.turns) if turn.role == "prompt"]
        if len(starts) == 1:
            return [self]
        parts = [
            self.turns[start:end]
            for start, end in zip(starts, [*starts[1:], len(self.turns)], strict=True)
        ]
        return [
            replace(self, turns=part)
            for part in parts
            if any(turn.role == "completion" for turn in part)
        ]

    @property
    def prompt_starts(self) -> list[int]:
        """Where each prompt begins in the flat sequence: [0] unless there are several sequences."""
        starts, start = [], 0
        for turn in self.turns:
            if turn.role == "prompt":
                starts.append(start)
            start += len(turn.token_ids)
        return starts

    @cached_property
    def token_ids(self) -> list[int]:
        """All tokens, [T]; of several sequences one after the other."""
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

    def require_one_sequence(self, what: str) -> None:
        """Raise `RecipeError` for a rollout of several sequences. what: as in `require_single_turn`."""
        if len(self.sequences) > 1:
            raise RecipeError(
                f"{what} supports only rollouts that are one sequence, and rollout {self.id!r} has {len(self.sequences)}: "
                "its environment restarts the conversation, or env.history is template"
            )

    @property
    def finish(self) -> Finish:
        """How the last completion ended; aborted also if the environment did not reply to it before the deadline."""
        if self.episode is not None and self.episode.ending == "aborted":
            return "aborted"
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


def _cut(mask: Sequence[bool], prompts: Sequence[int]) -> list[Span]:
    """Where the author changes, or a prompt begins."""
    edges = [i for i in range(1, len(mask)) if mask[i] != mask[i - 1] or i in prompts]
    return [
        Span(start, end) for start, end in zip([0, *edges], [*edges, len(mask)], strict=True)
    ]
