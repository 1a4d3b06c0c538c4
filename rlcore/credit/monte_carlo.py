"""Values of the steps of a completion by continuing its prefixes: how often does it still come
out right from here?

    Q_i = E[reward of the completion, its first i steps kept, the rest sampled anew]
    A_i = Q_i - Q_(i-1)

Following arXiv 2406.14532 (per-step negatives) and arXiv 2410.01679 (VinePPO). A step leads to
one state only, so the value of that state is the step's, and one estimate a prefix suffices. The
engine is handed in as a function: `Continue`.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from rlcore.credit.estimator import (
    Completions,
    Cost,
    check_completions,
    is_wanted,
    require_single_turn,
    with_values,
)
from rlcore.credit.group import scored_rollouts
from rlcore.credit.search import SEARCHES
from rlcore.credit.split import Decode, Splitter, split_steps, turn_spans, whole
from rlcore.errors import RecipeError
from rlcore.types import Group, Prefix, Rollout, Span, StepValues, Task, Verdict

Continue = Callable[[Sequence[Prefix], float], list[Group]]
"""(prefixes, seconds left) -> a group for each prefix: the whole completions that continue it.

Completions that are not finished in time are left out of their group."""

Key = tuple[str | int, ...]
"""Task id and prefix tokens: prefixes with equal keys have one value."""


@dataclass(kw_only=True, slots=True)
class _Track:
    """One completion that is being valued."""

    group_index: int
    task: Task
    rollout: Rollout
    spans: list[Span]  # [L]
    values: list[float | None]  # [L + 1]
    over: bool = False
    """Stop asking: an estimate failed, or the budget does not suffice for the next."""

    def prefix_length(self, step: int) -> int:
        """Completion tokens in the first `step` steps."""
        return self.spans[step - 1].end if step else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Query:
    """The value of `track` after its first `step` steps is needed."""

    track: _Track
    step: int
    key: Key
    prefix: Prefix


@dataclass(frozen=True, kw_only=True, slots=True)
class _Continued:
    """A prefix, the index of the group that it belongs to, and the completions that continue it."""

    group_index: int
    prefix: Prefix
    group: Group


@dataclass(kw_only=True)
class MonteCarlo:
    """Estimator that continues prefixes, within a budget.

    continue_: samples and scores continuations.
    split, decode: what a step is.
    max_tokens: longest whole completion.
    processes: processes of the run, which have an equal part of `total_tokens` each.
    completions: which completions are valued, negatives, positives or all; default: what the scheme reads.
    passing: completions whose first reward is lower are negatives.
    rollouts: continuations of each prefix. Equal prefixes of a task's completions are continued once.
    share: fraction of those completions in each group, rounded up.
    search: which prefixes are continued: all, one by one up to the first dead one (until_dead), by bisection for it,
    or from the last one backwards.
    dead: value up to which a prefix counts as lost.
    prefixes: maximum number for one completion without the empty one, evenly spaced where the search names more at once.
    start: the value of the prompt is the mean reward of the completion's siblings (free), or of continuations of the
    empty prefix (rollouts). If there are fewer siblings than `best_of`, continuations take their place.
    best_of: values are those of the best of this many attempts, as in arXiv 2406.14532; needs as many rollouts.
    max_new_tokens: longest continuation; those that are cut are scored as they are.
    total_tokens: maximum number of tokens in a step, over all processes, counting each continuation with its longest length.
    deadline_s: seconds for all continuations of a step together.
    """

    continue_: Continue
    split: Splitter
    decode: Decode
    max_tokens: int
    processes: int = 1
    completions: Completions = "negatives"
    passing: float = 0.5
    rollouts: PositiveInt = 8
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    search: Literal["all", "until_dead", "bisect", "backwards"] = "all"
    dead: float = 0.0
    prefixes: PositiveInt | None = None
    start: Literal["siblings", "rollouts"] = "siblings"
    best_of: PositiveInt | None = None
    max_new_tokens: PositiveInt | None = None
    total_tokens: PositiveInt | None = None
    deadline_s: PositiveFloat = 600.0

    def __post_init__(self) -> None:
        check_completions(self.completions)
        if self.best_of is not None and self.rollouts < self.best_of:
            raise RecipeError(
                f"the best of {self.best_of} cannot be estimated from {self.rollouts} rollouts: "
                "raise rollouts"
            )
        if self.total_tokens is not None:
            self._total_tokens = self.total_tokens // self.processes

    def __call__(self, groups: Sequence[Group]) -> tuple[list[Group], Cost]:
        """The groups with step values and continuations, and their cost."""
        self._by_turn = self.split is whole
        require_single_turn(groups, with_environment=self._by_turn)
        cost = Cost()
        tracks = []
        for index, group in enumerate(groups):
            tracks += self._tracks(index, group)
        continued = self._estimate(tracks, cost)
        valued = []
        for index, group in enumerate(groups):
            values = [_values(track) for track in tracks if track.group_index == index]
            known = [steps for steps in values if steps is not None]
            pairs = [
                (item.prefix, item.group) for item in continued if item.group_index == index
            ]
            valued.append(with_values(group, known, cost, pairs))
        return valued, cost

    def _tracks(self, group_index: int, group: Group) -> list[_Track]:
        """The completions of a group to value: a fraction of those wanted, chosen by a hash of
        their ids.
        """
        scored = scored_rollouts(group)
        wanted = [
            (rollout, verdict)
            for rollout, verdict in scored
            if rollout.policy_ids
            and rollout.finish != "aborted"
            and is_wanted(verdict, self.completions, passing=self.passing)
        ]
        wanted.sort(key=lambda pair: hashlib.blake2b(pair[0].id.encode()).digest())
        tracks = []
        for rollout, verdict in wanted[: math.ceil(self.share * len(wanted))]:
            if self._by_turn:
                spans = [span for span in turn_spans(rollout) if span.end > span.start]
            else:
                spans = split_steps(rollout.completion_ids, self.decode, self.split)
            start = None
            if self.start == "siblings":
                start = self._value(
                    [other for sibling, other in scored if sibling is not rollout]
                )
            inner: list[float | None] = [None] * (len(spans) - 1)
            track = _Track(
                group_index=group_index,
                task=group.task,
                rollout=rollout,
                spans=spans,
                values=[start, *inner, verdict.value],
            )
            tracks.append(track)
        return tracks

    def _estimate(self, tracks: list[_Track], cost: Cost) -> list[_Continued]:
        """Rounds of continuations until the search of every completion, or the budget, is at its
        end.
        """
        until = time.monotonic() + self.deadline_s
        values: dict[Key, float | None] = {}
        continued: list[_Continued] = []
        while queries := self._next_queries(tracks, cost):
            left_s = until - time.monotonic()
            if left_s > 0:
                continued += self._continue(queries, values, left_s, cost)
            for query in queries:
                value = values.get(query.key)
                query.track.values[query.step] = value
                if value is None:
                    query.track.over = True
                    cost.left_out += 1
        return continued

    def _continue(
        self, queries: list[_Query], values: dict[Key, float | None], left_s: float, cost: Cost
    ) -> list[_Continued]:
        """Continue each prefix that has no entry in `values` yet, and enter its value there."""
        new = {query.key: query for query in queries if query.key not in values}
        if not new:
            return []
        groups = self.continue_([query.prefix for query in new.values()], left_s)
        continued = []
        for (key, query), group in zip(new.items(), groups, strict=True):
            values[key] = self._value([verdict for _, verdict in scored_rollouts(group)])
            cost.add_continued(query.prefix, group)
            continued.append(
                _Continued(
                    group_index=query.track.group_index, prefix=query.prefix, group=group
                )
            )
        return continued

    def _next_queries(self, tracks: list[_Track], cost: Cost) -> list[_Query]:
        """The queries of the next round.

        A completion that the tokens do not suffice for is over.
        """
        queries: list[_Query] = []
        asked: set[Key] = set()
        reserved = 0
        for track in tracks:
            if track.over:
                continue
            steps = self._next_steps(track)
            if track.values[0] is None:
                steps = [0, *steps]
            track_queries = [self._query(track, step) for step in steps]
            tokens = sum(
                query.prefix.n * query.prefix.max_tokens
                for query in track_queries
                if query.key not in asked
            )
            if (
                self.total_tokens is not None
                and cost.tokens + reserved + tokens > self._total_tokens
            ):
                track.over = True
                cost.left_out += len(steps)
                continue
            reserved += tokens
            asked |= {query.key for query in track_queries}
            queries += track_queries
        return queries

    def _next_steps(self, track: _Track) -> list[int]:
        """The steps, from 1, after which the search continues the completion now."""
        steps = [step for step in SEARCHES[self.search](track.values, self.dead) if step]
        if self.prefixes is None:
            return steps
        estimated = sum(value is not None for value in track.values[1:-1])
        n = min(len(steps), self.prefixes - estimated)
        return [steps[(2 * i + 1) * len(steps) // (2 * n)] for i in range(n)]

    def _query(self, track: _Track, step: int) -> _Query:
        length = track.prefix_length(step)
        longest = self.max_new_tokens or self.max_tokens
        if not self._by_turn:  # there, each completion may have as many
            longest = min(self.max_tokens - length, longest)
        prefix = Prefix(
            task=track.task,
            rollout=track.rollout,
            length=length,
            n=self.rollouts,
            max_tokens=longest,
        )
        key = (track.task.id, *track.rollout.policy_ids[:length])
        return _Query(track=track, step=step, key=key, prefix=prefix)

    def _value(self, verdicts: Sequence[Verdict]) -> float | None:
        """Of a state, from scored completions that pass through it; None where they are too few."""
        n = len(verdicts)
        if n == 0 or (self.best_of and n < self.best_of):
            return None
        if self.best_of:
            right = sum(verdict.passed(self.passing) for verdict in verdicts)
            return best_of(n, right, self.best_of)
        return sum(verdict.value for verdict in verdicts) / n


def _values(track: _Track) -> StepValues | None:
    """None where nothing was learned of the steps, or the value of the prompt is not known."""
    inner = track.values[1:-1]
    if track.values[0] is None or (inner and all(value is None for value in inner)):
        return None
    return StepValues(rollout_id=track.rollout.id, spans=track.spans, values=track.values)


def best_of(n: int, right: int, k: int) -> float:
    """Unbiased estimate, from `right` successes in n independent attempts, of the chance that one
    of k attempts succeeds.

    1 - C(n - right, k) / C(n, k): the fraction of k-subsets of the attempts that hold a success.
    It needs n >= k.
    """
    if n < k:
        raise ValueError(f"the best of {k} cannot be estimated from {n} attempts")
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)
