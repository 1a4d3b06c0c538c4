"""Three kinds of tasks with three levels each, for categories that are pairs (domain, level), and one reward that knows all three.

    sums        levels 2, 3, 4: numbers to add        "7+15+4=?"     "7+15=22;22+4=26"
    countdown   levels 2, 3, 4: numbers to join       "3 5 8>9?"     "8-5=3;3+6=9"
    sorting     levels 3, 5, 7: digits to sort        "5 2 9<"       "259"

The teacher of the demonstrations makes mistakes in each: forgets carries, joins numbers anyhow, swaps two digits. A curriculum of our own for
comparison, `NearHalf`, draws categories by how near their pass rate is to one half.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rewards.countdown import countdown as countdown_score
from rewards.text import exact
from rlcore import Verdict, reward
from rlcore.curriculum.category_sampler import CategorySampler, pass_rate, softmax
from rlcore.tasks.arithmetic import arithmetic
from rlcore.tasks.countdown import countdown
from rlcore.tasks.lazy import LazyTasks
from rlcore.types import Outcome, Task

LEVELS = {"sums": (2, 3, 4), "countdown": (2, 3, 4), "sorting": (3, 5, 7)}
HARDER = {"sums": (5,), "countdown": (5,), "sorting": (9,)}


def domains(
    *,
    split: str = "train",
    size: int = 20_000,
    seed: int = 0,
    mistakes: float = 0.0,
    levels: str = "trained",
) -> Sequence[Task]:
    """Tasks of all domains by turns; the column `rank` counts the levels of each domain from 0.

    levels: "trained", the "harder" one of each that RL never sees, or "all"."""
    chosen = {
        domain: (
            *(LEVELS[domain] if levels != "harder" else ()),
            *(HARDER[domain] if levels != "trained" else ()),
        )
        for domain in LEVELS
    }
    each = -(-size // len(chosen))
    sets: dict[str, Sequence[Task]] = {
        "sums": arithmetic(
            split=split,
            size=each,
            seed=seed,
            terms=chosen["sums"],
            max_number=9,
            mistakes=mistakes,
            mistaken_step="each",
        ),
        "countdown": countdown(
            split=split,
            size=each,
            seed=seed,
            numbers=chosen["countdown"],
            max_number=9,
            max_target=20,
            operators="+-",
            mistakes=mistakes,
        ),
        "sorting": _sorting(split, each, seed, chosen["sorting"], mistakes),
    }
    names = list(sets)

    def make(i: int) -> Task:
        domain = names[i % len(names)]
        task = sets[domain][i // len(names)]
        rank = sorted((*LEVELS[domain], *HARDER[domain])).index(task.columns["level"])
        return replace(task, columns={**task.columns, "domain": domain, "rank": rank})

    return LazyTasks(size, make)


def extremes(*, split: str = "train", size: int = 20_000, seed: int = 0) -> Sequence[Task]:
    """Sums by turns of a category that is solved (no carries), one to learn (three numbers) and one out of reach (eight numbers)."""
    categories = {
        "solved": {"terms": [2], "max_number": 4},
        "learnable": {"terms": [3]},
        "out of reach": {"terms": [8]},
    }
    names = list(categories)
    sets = [
        arithmetic(split=split, size=size, seed=seed, **{"max_number": 9, **settings})
        for settings in categories.values()
    ]

    def make(i: int) -> Task:
        task = sets[i % len(names)][i // len(names)]
        return replace(task, category=names[i % len(names)])

    return LazyTasks(size, make)


@reward
def right(completion: str, answer: Any, *, domain: str, **columns: Any) -> float | Verdict:
    """1 for a right answer, by the verifier of the task's domain."""
    if domain == "countdown":
        return countdown_score(completion, **columns)
    return exact(completion, answer, after="=" if domain == "sums" else None, **columns)


def _sorting(
    split: str, size: int, seed: int, counts: Sequence[int], mistakes: float
) -> Sequence[Task]:
    def make(i: int) -> Task:
        rng = random.Random(f"{seed}/{split}/sorting/{i}")
        n = rng.choice(counts)
        digits = [rng.randrange(10) for _ in range(n)]
        while (sum(digit * (k + 1) for k, digit in enumerate(digits)) % 8 == 0) != (
            split == "heldout"
        ):
            digits = [rng.randrange(10) for _ in range(n)]
        right_order = sorted(digits)
        shown = list(right_order)
        if rng.random() < mistakes:
            a, b = rng.sample(range(n), 2)
            shown[a], shown[b] = shown[b], shown[a]
        text = "".join(map(str, right_order))
        return Task(
            id=f"sorting/{split}/{seed}/{i}",
            prompt=" ".join(map(str, digits)) + "<",
            answer=text,
            category=f"{n}-digits",
            demonstration="".join(map(str, shown)),
            columns={"level": n},
        )

    return LazyTasks(size, make)


class NearHalf(CategorySampler):
    """Categories in proportion to exp(-|p - 1/2| / temperature), p their last pass rate; 1/2 until one was seen."""

    learns_from_rewards = True

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        by: str | Sequence[str] = "category",
        temperature: float = 0.1,
        alpha: float = 0.5,
        seed: int,
    ) -> None:
        super().__init__(tasks, by=by, seed=seed)
        self._temperature = temperature
        self._alpha = alpha
        self._rates = [0.5] * len(self.categories)

    def shares(self) -> list[float]:
        return softmax([-abs(rate - 0.5) / self._temperature for rate in self._rates])

    def learn(self, outcomes: Mapping[int, Sequence[Outcome]]) -> None:
        for category, observed in outcomes.items():
            self._rates[category] += self._alpha * (pass_rate(observed) - self._rates[category])

    def learned_state(self) -> dict[str, Any]:
        return {"rates": self._rates}

    def load_learned_state(self, state: Mapping[str, Any]) -> None:
        self._rates = list(state["rates"])
