"""The SEC bandit against what its formulas say (core of arXiv 2505.14970): values, a moving category, temperatures, absent categories."""

from __future__ import annotations

import math
import random
from statistics import fmean

import pytest

from rlcore.curriculum.bandit import Sec
from rlcore.errors import RecipeError
from rlcore.types import Outcome
from tests.curriculum.worlds import GROUP, category_tasks, play, played

RATES = {"never": 0.0, "rarely": 0.05, "half": 0.5, "mostly": 0.95, "always": 1.0}


def expected_advantage(p: float, n: int = GROUP) -> float:
    """E|A| by enumeration: k of n right, advantages over the standard deviation with n - 1, 0 where all are equal."""
    total = 0.0
    for k in range(1, n):
        mean = k / n
        std = math.sqrt((k * (1 - mean) ** 2 + (n - k) * mean**2) / (n - 1))
        size = (k * (1 - mean) + (n - k) * mean) / n / std
        total += math.comb(n, k) * p**k * (1 - p) ** (n - k) * size
    return total


def test_the_table_of_the_paper_note() -> None:
    assert [round(expected_advantage(p), 3) for p in (0.05, 0.2, 0.5, 0.8)] == [
        0.220,
        0.631,
        0.868,
        0.631,
    ]


def late(sampler: Sec, sizes: dict[str, int], rate, *, steps: int, batch: int) -> dict[str, float]:
    """Mean of Q over the last half of the steps."""
    tasks, seen = category_tasks(sizes), []
    for step in range(steps):
        play(sampler, tasks, lambda task, _: rate(task), steps=1, batch=batch, seed=step)
        seen.append(list(sampler.values()))
    return {
        category: fmean(values[i] for values in seen[steps // 2 :])
        for i, category in enumerate(sampler.categories.names)
    }


def test_values_converge_to_the_mean_advantage_of_each_category() -> None:
    sizes = dict.fromkeys(RATES, 50)
    sampler = Sec(category_tasks(sizes), temperature=1.0, alpha=0.2, seed=0)
    values = late(sampler, sizes, lambda task: RATES[task.category], steps=200, batch=100)
    for category, p in RATES.items():
        assert values[category] == pytest.approx(expected_advantage(p), abs=0.03), category
    shares = dict(zip(sampler.categories.names, sampler.shares(), strict=True))
    assert max(shares, key=shares.get) == "half"
    assert shares["never"] == pytest.approx(shares["always"]) == min(shares.values())


def test_a_moving_arm_is_followed_with_a_lag_of_about_one_over_alpha() -> None:
    alpha, steps = 0.2, 400
    sizes = {"still": 50, "sliding": 50}
    tasks = category_tasks(sizes)
    sampler = Sec(tasks, alpha=alpha, temperature=0.1, seed=0)
    shares = []
    for step in range(steps):
        rates = {"sliding": step / steps, "still": 0.02}
        play(
            sampler,
            tasks,
            lambda task, _, rates=rates: rates[task.category],
            steps=1,
            batch=100,
            seed=step,
        )
        shares.append(sampler.shares()[sampler.categories.names.index("sliding")])
    smooth = [fmean(shares[max(0, i - 15) : i + 16]) for i in range(steps)]
    peak = max(range(steps), key=smooth.__getitem__)
    assert abs(peak / steps - 0.5) < 0.1
    assert smooth[5] < smooth[peak] - 0.3 and smooth[-1] < smooth[peak] - 0.3

    # a step in the pass rate is followed to 1 - 1/e within about 1 / alpha updates
    world = Sec(tasks, alpha=alpha, temperature=10.0, seed=0)
    target, crossed = expected_advantage(0.5), None
    for step in range(50):
        play(world, tasks, lambda task, _: 0.5, steps=1, batch=400, seed=step)
        if crossed is None and world.values()[0] > (1 - 1 / math.e) * target:
            crossed = step + 1
    assert crossed is not None and abs(crossed - 1 / alpha) <= 1


def test_temperature_limits_and_large_values() -> None:
    sampler = Sec(category_tasks({"a": 1, "b": 1, "c": 1}), temperature=1.0, seed=0)
    sampler.load_learned_state({"q": [1000.0, 999.0, 0.0], "reward": [0.0] * 3})
    assert sampler.shares() == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.e), 0.0])
    hot, cold = (
        Sec(category_tasks({"a": 1, "b": 1, "c": 1}), temperature=t, seed=0) for t in (1e9, 1e-6)
    )
    for one in (hot, cold):
        one.load_learned_state({"q": [0.2, 0.8, 0.5], "reward": [0.0] * 3})
    assert hot.shares() == pytest.approx([1 / 3] * 3)
    assert cold.shares() == pytest.approx([0.0, 1.0, 0.0])
    greedy = Sec(category_tasks({"a": 1, "b": 1, "c": 1}), temperature=1e-6, epsilon=0.3, seed=0)
    greedy.load_learned_state({"q": [0.2, 0.8, 0.5], "reward": [0.0] * 3})
    assert greedy.shares() == pytest.approx([0.1, 0.8, 0.1])
    cut = Sec(
        category_tasks({"a": 1, "b": 1, "c": 1}), policy="proportional", signal="progress", seed=0
    )
    cut.load_learned_state({"q": [-0.5, 0.6, 0.2], "reward": [0.0] * 3})
    assert cut.shares() == pytest.approx([0.0, 0.75, 0.25])


def test_an_arm_without_an_outcome_decays_or_keeps_its_value() -> None:
    tasks = category_tasks({f"category{i:02d}": 20 for i in range(20)})
    spread = {}
    for unsampled in ("decay", "keep"):
        sampler = Sec(tasks, alpha=0.5, temperature=0.2, unsampled=unsampled, seed=0)
        sampler.observe(
            [
                played(20 * category, f"category{category:02d}", 0.5, random.Random(category))
                for category in range(20)
            ]
        )
        before = list(sampler.values())
        sampler.observe([played(0, "arm00", 0.5, random.Random(99))])
        kept = 1.0 if unsampled == "keep" else 0.5
        assert sampler.values()[1:] == pytest.approx([kept * q for q in before[1:]])
        largest = []
        for step in range(100):
            play(sampler, tasks, lambda task, _: 0.5, steps=1, batch=8, seed=step)
            largest.append(max(sampler.shares()))
        spread[unsampled] = fmean(largest)
    assert (
        spread["decay"] > 1.5 * spread["keep"] > 1.5 / 20
    )  # all categories are equal; forgetting favours those sampled last


def test_signals_by_hand() -> None:
    tasks = category_tasks({"a": 2})
    outcomes = [Outcome(index=0, category="a", rewards=(1.0, 0.0, 0.0, 0.0), abs_advantage=0.9),
                Outcome(index=1, category="a", rewards=(1.0, 1.0), abs_advantage=0.0)]  # fmt: skip
    found = {}
    for signal in ("advantage", "centred", "progress"):
        sampler = Sec(tasks, alpha=1.0, signal=signal, seed=0)
        sampler.observe(outcomes)
        found[signal] = sampler.values()[0]
    assert found == pytest.approx(
        {"advantage": 0.9 * 4 / 6, "centred": (0.75 + 3 * 0.25) / 6, "progress": 3 / 6}
    )
    sampler.observe([Outcome(index=0, category="a", rewards=(1.0, 1.0), abs_advantage=0.0)])
    assert sampler.values()[0] == pytest.approx(0.5)  # from 0.5 to 1.0


def test_levels_are_visited_from_easy_to_hard_without_being_told() -> None:
    """Skill grows with the training a level gets; a level becomes possible when the one below is half learned."""
    sizes = {"1": 100, "2": 100, "3": 100}
    tasks = category_tasks(sizes)

    def run(curriculum) -> tuple[list[dict[str, int]], float]:
        skill, counts = [0.3, 0.0, 0.0, 0.0], []
        for step in range(150):
            counts += play(
                curriculum,
                tasks,
                lambda task, _: skill[int(task.category) - 1],
                steps=1,
                batch=32,
                seed=step,
            )
            for level in range(3):
                p = skill[level]
                gain = 0.01 * counts[-1][str(level + 1)] * p * (1 - p)
                skill[level] = min(1.0, p + gain)
                if skill[level] > 0.5:
                    skill[level + 1] = max(skill[level + 1], 0.2 * skill[level])
        return counts, skill[2] + skill[3]

    from rlcore.curriculum.uniform import Uniform

    counts, end = run(Sec(tasks, temperature=0.1, seed=0))
    peaks = [
        max(
            range(150),
            key=lambda at, category=category: sum(
                c[category] for c in counts[max(0, at - 5) : at + 6]
            ),
        )
        for category in sizes
    ]
    assert peaks == sorted(peaks) and peaks[0] < peaks[2]
    assert end > run(Uniform(tasks, seed=0))[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 0.0}, "0 < alpha"),
        ({"temperature": 0.0}, "temperature > 0"),
        ({"unsampled": "drop"}, "choose decay or keep"),
    ],
)
def test_a_wrong_setting_is_met_with_a_sentence(settings: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Sec(category_tasks({"a": 1}), **settings, seed=0)
