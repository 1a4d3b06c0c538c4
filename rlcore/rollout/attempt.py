"""One rollout being written: the requests it still needs, and the turns it has."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from rlcore.rollout.talk import Talk
from rlcore.types import Completion, Finish, Request, Role, Rollout, Sampling, Turn

TextOf = Callable[[list[int], list[int]], str]
"""(prompt ids, completion ids) -> the text that reward functions see."""


@dataclass(kw_only=True, slots=True)
class Attempt:
    """One rollout being written: its turns so far, and the completion that is being written.

    A completion may take several requests, called legs: each lies under one version of the weights. A leg continues prompt +
    tokens so far, so nothing is sampled twice and every token keeps its own version.
    """

    id: str
    seed: int
    prompt_ids: list[int]
    """What the present completion continues: all tokens of its sequence before it."""
    sampling: Sampling
    """Of the present completion; `max_tokens` is fitted to the model's length."""
    new_prompt_ids: int = 0
    """How many of the prompt's tokens no earlier request of this attempt had."""
    given: int = 0
    """Completion tokens that were fixed before the first leg (a prefix to be continued); not counted as written."""
    token_ids: list[int] = field(default_factory=list)  # [L], of the completion so far
    logprobs: list[float] = field(default_factory=list)  # [L]
    versions: list[int] = field(default_factory=list)  # [L]
    support: list[list[int] | None] | None = None
    """[L] tokens that truncated sampling kept; None if nothing was truncated."""
    leg: int = 0
    finish: Finish | None = None
    """Of the present completion."""
    turns: list[Turn] = field(default_factory=list)
    """Those before the present completion, where there are earlier ones."""
    is_closed: bool = False
    """Whether the present completion is among them: it is finished, and the environment is asked."""
    talk: Talk | None = None
    """What is kept of the conversation with an environment."""
    order: int = 0
    """Among the attempts of its generator: deterministic engines are given requests in this order."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more is written or asked."""
        return self.finish is not None and not (self.talk and self.talk.is_waiting)

    @property
    def request_id(self) -> str:
        """Id of the present leg's request."""
        return f"{self._turn_id}+{self.leg}" if self.leg else self._turn_id

    @property
    def _turn_id(self) -> str:
        return f"{self.id}/{self._turn}" if self._turn else self.id

    @property
    def _turn(self) -> int:
        """Completions that the environment has replied to."""
        return len(self.talk.rewards) if self.talk else 0

    def request(self) -> Request:
        """What asks the engine for the tokens that are still missing."""
        written = len(self.token_ids) - self.given
        return Request(
            id=self.request_id,
            prompt_ids=self.prompt_ids,
            prefix_ids=list(self.token_ids),
            sampling=replace(self.sampling, max_tokens=self.sampling.max_tokens - written),
            # A leg with the seed of the one before would draw that one's random numbers again.
            seed=self._turn_seed
            if not self.leg
            else request_seed(self._turn_seed, self.id, self.leg),
        )

    @property
    def _turn_seed(self) -> int:
        return request_seed(self.seed, self._turn_id, 0) if self._turn else self.seed

    def add(self, completion: Completion) -> None:
        """Append the tokens of a leg; unless it was stopped from outside, the attempt is finished with it."""
        if completion.support is not None:
            before = self.support or [None] * len(self.token_ids)
            self.support = before + completion.support
        self.token_ids += completion.token_ids
        self.logprobs += completion.logprobs
        self.versions += completion.versions
        full = len(self.token_ids) - self.given >= self.sampling.max_tokens
        if completion.finish in ("stop", "length"):
            self.finish = completion.finish
        elif full:
            self.finish = "length"
        else:
            self.leg += 1

    def begin(self, prompt_ids: list[int], *, room: int) -> None:
        """Set the prompt of the first completion. room: tokens that it may have at most."""
        self.prompt_ids, self.new_prompt_ids = prompt_ids, len(prompt_ids)
        self.sampling = replace(self.sampling, max_tokens=room)
        self.finish = None

    def take_turns(self, rollout: Rollout, length: int) -> None:
        """Begin as a rollout with an environment stood after its first `length` completion tokens, the end of a turn."""
        assert rollout.episode is not None
        turns, written, number = [], 0, 0
        for turn in rollout.turns:
            turns.append(turn)
            if turn.role == "completion":
                written, number = written + len(turn.token_ids), number + 1
                if written >= length:
                    break
        if written != length:
            raise ValueError(f"no turn of rollout {rollout.id!r} ends after {length} tokens")
        last = turns[-1]
        self.turns, self.is_closed, self.finish = turns, True, last.finish
        self.prompt_ids = [token for turn in turns[:-1] for token in turn.token_ids]
        self.token_ids = list(last.token_ids)
        self.logprobs = list(last.logprobs or ())
        self.versions = list(last.versions or ())
        self.talk = Talk.until(rollout.episode, number)

    def close_completion(self) -> None:
        """Put the completion that was written among the turns."""
        self.turns = self._all_turns()
        self.is_closed = True

    def _all_turns(self) -> list[Turn]:
        if self.is_closed:
            return self.turns
        before = self.turns or [Turn(role="prompt", token_ids=self.prompt_ids)]
        completion = Turn(
            role="completion",
            token_ids=self.token_ids,
            logprobs=self.logprobs,
            versions=self.versions,
            support=self.support,
            temperature=self.sampling.temperature,
            finish=self.finish,
        )
        return [*before, completion]

    def go_on(self, ids: list[int], *, restart: bool, room: int) -> None:
        """Begin the next completion, after a reply of these tokens, or after a whole prompt of them if `restart`.

        room: tokens that it may have at most.
        """
        role: Role = "prompt" if restart else "observation"
        self.turns.append(Turn(role=role, token_ids=ids))
        self.prompt_ids = ids if restart else [*self.prompt_ids, *self.token_ids, *ids]
        self.new_prompt_ids = len(ids)
        self.token_ids, self.logprobs, self.versions = [], [], []
        self.support, self.leg, self.finish = None, 0, None
        self.is_closed = False
        self.sampling = replace(self.sampling, max_tokens=room)

    def rollout(self, task_id: str, text_of: TextOf) -> Rollout:
        """The finished attempt, prefix included."""
        talk = self.talk
        text = text_of(self.prompt_ids, self.token_ids)
        if talk is not None and talk.text is not None:
            text = talk.text
        return Rollout(
            id=self.id,
            task_id=task_id,
            turns=tuple(self._all_turns()),
            text=text,
            episode=talk.episode(self.finish) if talk else None,
        )


def request_seed(seed: int, task_id: str, attempt: int) -> int:
    """Stable 63-bit seed of one attempt."""
    digest = hashlib.blake2b(f"{seed}\0{task_id}\0{attempt}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
