"""Values of the steps of an answer by continuing its prefixes: how often does it still come out right from here?

    Q_i = E[reward of the answer, its first i steps kept, the rest written anew]        A_i = Q_i - Q_(i-1)

Following arXiv 2406.14532 (per-step negatives) and arXiv 2410.01679 (VinePPO). A step leads to one state only, so the value of
that state is the step's, and one estimate a prefix suffices. The engine is handed in as a function: `Continue`.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rlcore.credit.search import SEARCHES
from rlcore.credit.split import Decode, Splitter, split_steps
from rlcore.errors import RecipeError
from rlcore.types import Group, Prefix, Rollout, StepValues, Task

Answers = Literal["negatives", "positives", "all"]
Continue = Callable[[Sequence[Prefix], float], list[Group]]
"""(prefixes, seconds left) -> the group of whole answers that continue each prefix; those not written in time are left out."""


@dataclass(kw_only=True, slots=True)
class Cost:
    """What the values of one step cost in one process; small, so that ranks can exchange it."""

    answers: int = 0
    """Answers whose steps were valued."""
    informative: int = 0
    """Of them, those with steps of different value."""
    prefixes: int = 0
    """Prefixes continued; equal ones count once."""
    left_out: int = 0
    """Prefixes that tokens or time did not suffice for."""
    tokens: int = 0
    """Written in continuations."""
    read: int = 0
    """Prompt and prefix tokens of all continuations; with prefix caching most are not computed again."""


@dataclass(kw_only=True, slots=True)
class _Track:
    """One answer that is being valued."""

    task: Task
    rollout: Rollout
    spans: list
    values: list[float | None]
    over: bool = False
    """Stop asking: an estimate failed, or there is no budget for the next."""

    def kept(self, step: int) -> int:
        """Answer tokens in the first `step` steps."""
        return self.spans[step - 1].end if step else 0


@dataclass(kw_only=True)
class StepEstimator:
    """What all that estimate step values have: whose they give, and what the last call found and cost."""

    answers: Answers | None = None
    passing: float = 0.5
    cost: Cost = field(default_factory=Cost)
    """Of the last call."""
    values: Mapping[str, StepValues] = field(default_factory=dict)
    """Of the last call."""
    continued: list[tuple[Prefix, Group]] = field(default_factory=list)
    """All continuations of the last call."""

    def asked_for(self, answers: Answers, reward: float) -> bool:
        """Whether an answer of this reward is one of `answers`. Raises `RecipeError` for a word that is none of them."""
        if answers not in ("negatives", "positives", "all"):
            raise RecipeError(
                f"step values are of 'negatives', 'positives' or 'all' answers, not {answers!r}"
            )
        return answers == "all" or (reward < self.passing) == (answers == "negatives")

    def found(self, values: Mapping[str, StepValues]) -> Mapping[str, StepValues]:
        """Keep what a call found, by rollout id, and count it."""
        self.values = values
        self.cost.answers = len(values)
        self.cost.informative = sum(one.pit() is not None for one in values.values())
        return values


@dataclass(kw_only=True)
class MonteCarlo(StepEstimator):
    """Estimates step values within a budget. Called with the groups of this process; returns values by rollout id.

    continue_: writes and scores continuations. split, decode: what a step is.
    rollouts: continuations of each prefix. Equal prefixes of a task's answers are continued once.
    answers: whose steps are valued, where neither the caller nor the recipe says otherwise; "negatives" are answers with a reward
    below `passing`, "positives" the others. share: of them in each group, rounded up. search: which of their prefixes
    (`credit.search`); dead: the value up to which a prefix counts as lost; prefixes: at most so many of one answer, the empty one
    aside, evenly spaced where the search names more at once.
    start: Q_0 is the mean reward of the answer's siblings (free), or of continuations of the empty prefix. Siblings too few for
    `best_of` are no estimate, and continuations take their place.
    best_of: values are those of the best of so many attempts, as in arXiv 2406.14532; needs that many rollouts.
    max_tokens: longest whole answer; max_new_tokens: longest continuation, cut ones being scored as they are. total_tokens: more
    than so many are never written in a call, counting each continuation with its longest. deadline_s: for all rounds together.
    """

    continue_: Continue
    split: Splitter
    decode: Decode
    max_tokens: int
    rollouts: int = 8
    share: float = 1.0
    search: Literal["all", "until_dead", "bisect", "backwards"] = "all"
    dead: float = 0.0
    prefixes: int | None = None
    start: Literal["siblings", "rollouts"] = "siblings"
    best_of: int | None = None
    max_new_tokens: int | None = None
    total_tokens: int | None = None
    deadline_s: float = 600.0

    def __call__(
        self, groups: Sequence[Group], *, answers: Answers = "negatives"
    ) -> Mapping[str, StepValues]:
        """Step values by rollout id. `answers`: the default of the scheme that asks; the recipe's, where set, wins."""
        self.cost, self.continued = Cost(), []
        tracks = [
            track for group in groups for track in self._tracks(group, self.answers or answers)
        ]
        self._estimate(tracks)
        found = {track.rollout.id: self._values(track) for track in tracks}
        return self.found({id: values for id, values in found.items() if values is not None})

    def _tracks(self, group: Group, answers: Answers) -> list[_Track]:
        scored = [
            (r, v.value)
            for r, v in zip(group.rollouts, group.verdicts, strict=True)
            if v.value is not None
        ]
        chosen = [
            (rollout, value)
            for rollout, value in scored
            if any(rollout.mask) and rollout.finish != "aborted" and self.asked_for(answers, value)
        ]
        chosen.sort(key=lambda pair: hashlib.blake2b(pair[0].id.encode()).digest())
        tracks = []
        for rollout, value in chosen[: math.ceil(self.share * len(chosen))]:
            spans = split_steps(rollout.completion_ids, self.decode, self.split)
            siblings = [other for sibling, other in scored if sibling is not rollout]
            first = self._value(siblings) if self.start == "siblings" else None
            values: list[float | None] = [first, *[None] * (len(spans) - 1), value]
            tracks.append(_Track(task=group.task, rollout=rollout, spans=spans, values=values))
        return tracks

    def _estimate(self, tracks: list[_Track]) -> None:
        """Rounds of continuations until every answer's search is done, or the budget is."""
        until, known = time.monotonic() + self.deadline_s, {}
        while wanted := self._wanted(tracks):
            new = {key: prefix for _, _, key, prefix in wanted if key not in known}
            left = until - time.monotonic()
            if new and left > 0:
                prefixes = list(new.values())
                for key, prefix, group in zip(
                    new, prefixes, self.continue_(prefixes, left), strict=True
                ):
                    known[key] = self._value(
                        [v.value for v in group.verdicts if v.value is not None]
                    )
                    self.continued.append((prefix, group))
                    self._count(prefix, group)
            for track, step, key, _ in wanted:
                track.values[step] = known.get(key)
                if track.values[step] is None:
                    track.over = True
                    self.cost.left_out += 1

    def _wanted(self, tracks: list[_Track]) -> list[tuple[_Track, int, tuple, Prefix]]:
        """(answer, step, key of equal prefixes, prefix) of the next round. An answer the tokens do not suffice for is over."""
        wanted, seen, reserved = [], set(), 0
        for track in tracks:
            if track.over:
                continue
            steps = [0] * (track.values[0] is None) + self._next(track)
            asked, needs = [], 0
            for step in steps:
                prefix = self._prefix(track, step)
                key = (track.task.id, *track.rollout.completion_ids[: prefix.length])
                asked.append((track, step, key, prefix))
                needs += 0 if key in seen else prefix.n * prefix.max_tokens
            if (
                self.total_tokens is not None
                and self.cost.tokens + reserved + needs > self.total_tokens
            ):
                track.over = True
                self.cost.left_out += len(steps)
                continue
            reserved += needs
            seen |= {key for _, _, key, _ in asked}
            wanted += asked
        return wanted

    def _next(self, track: _Track) -> list[int]:
        """The steps, from 1, after which the search continues the answer now."""
        named = [step for step in SEARCHES[self.search](track.values, self.dead) if step]
        if self.prefixes is None:
            return named
        left = min(
            len(named), self.prefixes - sum(value is not None for value in track.values[1:-1])
        )
        return [named[(2 * i + 1) * len(named) // (2 * left)] for i in range(left)]

    def _prefix(self, track: _Track, step: int) -> Prefix:
        length = track.kept(step)
        longest = min(self.max_tokens - length, self.max_new_tokens or self.max_tokens)
        return Prefix(
            task=track.task,
            rollout=track.rollout,
            length=length,
            n=self.rollouts,
            max_tokens=longest,
        )

    def _value(self, rewards: Sequence[float]) -> float | None:
        if not rewards or (self.best_of and len(rewards) < self.best_of):
            return None
        if not self.best_of:
            return sum(rewards) / len(rewards)
        return best_of(
            len(rewards), sum(reward >= self.passing for reward in rewards), self.best_of
        )

    def _values(self, track: _Track) -> StepValues | None:
        """None where nothing was learned of the steps, or not what the prompt was worth."""
        inner = track.values[1:-1]
        if track.values[0] is None or (inner and all(value is None for value in inner)):
            return None
        return StepValues(rollout_id=track.rollout.id, spans=track.spans, values=track.values)

    def _count(self, prefix: Prefix, group: Group) -> None:
        given = prefix.rollout.mask.index(True) + prefix.length
        self.cost.prefixes += 1
        self.cost.tokens += sum(len(rollout.token_ids) - given for rollout in group.rollouts)
        self.cost.read += prefix.n * given


def best_of(n: int, right: int, k: int) -> float:
    """Unbiased estimate, from `right` successes in n independent attempts, of the chance that one of k attempts succeeds.

    1 - C(n - right, k) / C(n, k): the share of k-subsets of the attempts that hold a success. It needs n >= k.
    """
    if n < k:
        raise ValueError(f"the best of {k} cannot be estimated from {n} attempts")
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)
