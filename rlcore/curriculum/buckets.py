"""Dataset decomposition: batches of one length each, all with the same number of tokens, short ones first."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from rlcore.curriculum.category_sampler import CategorySampler, normalised
from rlcore.errors import RecipeError
from rlcore.types import Task


class Buckets(CategorySampler):
    """Variable length training (arXiv 2405.13226): tasks of equal length are a bucket, and a batch is
    from one bucket.

    The stage's `batch_size` counts tasks of the longest bucket; of a bucket with 1/k of that length a
    batch has k times as many, so every batch has the same number of tokens. An epoch is cut into
    `cycles`, each with its part of every bucket. In a cycle the next batch is of a bucket with a chance
    in proportion to (batches of it that are left in the cycle) x `odds`^(number of longer buckets).

    by: the column of lengths in tokens, as the corpus form `pieces` writes it. odds: above 1 a cycle
    goes from short to long (2 are the paper's 32:16:8:4:2:1 for six buckets), 1 mixes all lengths,
    below 1 goes from long to short. cycles: in an epoch; 8 in the paper.
    """

    sizes_batches = True

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        by: str = "tokens",
        odds: float = 2.0,
        cycles: int = 8,
        seed: int,
    ) -> None:
        super().__init__(tasks, by=by, seed=seed)
        if odds <= 0 or cycles < 1:
            raise RecipeError(
                f"curriculum buckets needs odds above 0 and cycles of at least 1, got {odds} and {cycles}"
            )
        self._lengths = _lengths(self.categories.names, by)
        self._odds, self._cycles = odds, cycles
        self._cycle = -1
        """Number of the present cycle, over all epochs."""
        self._left = [0] * len(self._lengths)
        """Batches of each bucket that are left in the cycle, [buckets]."""

    def batch_of(self, bucket: int, n: int) -> int:
        """Tasks in a batch of this bucket, where one of the longest bucket has n."""
        return n * (max(self._lengths) // self._lengths[bucket])

    def shares(self) -> list[float]:
        """Chance of each bucket to be the next batch; none while the cycle has no batch left."""
        weights = []
        for number, left in enumerate(self._left):
            longer = sum(other > self._lengths[number] for other in self._lengths)
            weights.append(left * self._odds**longer)
        return normalised(weights) if any(weights) else weights

    def draw(self, n: int) -> list[int]:
        """Positions of the next batch: as many tokens as n tasks of the longest bucket."""
        while not any(self._left):
            self._begin_cycle(n)
        bucket = self.choose(random.Random(f"{self._seed}/draw/{self._draws + 1}"), 1)[0]
        self._draws += 1
        self._left[bucket] -= 1
        return [self.categories.take(bucket) for _ in range(self.batch_of(bucket, n))]

    def _begin_cycle(self, n: int) -> None:
        """Give each bucket its batches: what is too little for a whole one is kept for later cycles."""
        self._cycle += 1
        for bucket, size in enumerate(self.categories.sizes):
            tasks_of_batches = self.batch_of(bucket, n) * self._cycles
            before, after = (
                size * cycle // tasks_of_batches for cycle in (self._cycle, self._cycle + 1)
            )
            self._left[bucket] = after - before

    def learned_state(self) -> dict[str, Any]:
        return {"cycle": self._cycle, "left": list(self._left)}

    def load_learned_state(self, state: dict[str, Any]) -> None:
        self._cycle = state["cycle"]
        self._left = list(state["left"])


def _lengths(names: Sequence[str], by: str) -> list[int]:
    """Of the buckets. Raises `RecipeError` unless the longest is a multiple of each."""
    valid = all(name.isdecimal() and int(name) > 0 for name in names)
    lengths = [int(name) for name in names] if valid else []
    if not valid or any(max(lengths) % length for length in lengths):
        raise RecipeError(
            f"curriculum buckets: the column {by!r} must hold lengths in tokens of which the longest is a multiple, "
            f"such as powers of two, not {', '.join(names[:6])}; the corpus form pieces writes such a column"
        )
    return lengths
