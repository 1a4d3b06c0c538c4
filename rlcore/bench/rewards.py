"""How many math verdicts a second two worker processes give, and what one sample that hangs costs the batch."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from rlcore import reward
from rlcore.bench.measure import circumstances
from rlcore.scoring.forms import RewardSpec
from rlcore.scoring.goldcheck import as_rollout
from rlcore.scoring.load import load_reward
from rlcore.scoring.scorer import Scorer
from rlcore.types import Rollout, Task, Verdict

HANG = "this sample hangs"
SLOW, SLOW_S = "\\boxed{(x+y+z)^{999}}", 3.0
"""An answer that math-verify cannot compare with `x+1` in the time the math reward gives it."""
_STEPS = "First we look at what is given: {a} and {b}. Adding them gives ${a} + {b} = {c}$, and half of that is {h}. "
_WAYS = (
    "So the result is \\boxed{{{}}}.",
    "Therefore we conclude.\n#### {}",
    "The final answer is ${}$. I hope it is correct.",
    "Thus \\[ {} \\]",
)


@reward
def math_or_hang(completion: str, answer: Any, **columns: Any) -> float | None | Verdict:
    """The math reward, but endless on the one text `HANG`."""
    while completion == HANG:
        time.sleep(0.1)
    return _math()(completion, answer, **columns)


@cache
def _math() -> Callable[..., float | None | Verdict]:
    return load_reward(RewardSpec("rewards.math:math_answer")).function


def bench_rewards(
    *,
    samples: int = 2000,
    group_size: int = 8,
    workers: int = 2,
    repeats: int = 3,
    deadline_s: float = 5.0,
) -> dict[str, Any]:
    """Verdicts a second on a mixed batch of answers of some 150 words, and the same batch with one sample that hangs.

    Of the samples that hang, the math reward gives up `slow` itself, after `SLOW_S` seconds; the worker of `stuck` is killed at
    the deadline and replaced. `ratio` is (seconds with it - its deadline) / (seconds without): at most 1 where a sample costs
    its deadline and no more. All sides in turn, in fresh workers, whose first start does not count.
    """
    batch = mixed_answers(samples // group_size, group_size)
    sides = {
        "plain": batch,
        "slow": _with_first(batch, SLOW),
        "stuck": _with_first(batch, HANG),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    verdicts: dict[str, list[list[Verdict]]] = {}
    for number in range(repeats):
        for name in sides if number % 2 else reversed(sides):
            taken, verdicts[name] = _timed(sides[name], workers, deadline_s)
            seconds[name].append(taken)
    plain = seconds["plain"]
    result: dict[str, Any] = {
        "bench": "rewards",
        "against": "the same batch without a sample that hangs",
        "verdicts_per_s": round(samples / statistics.median(plain)),
        "spread": [round(samples / max(plain)), round(samples / min(plain))],
        "seconds": round(statistics.median(plain), 3),
        "not_as_expected": sum(
            v.value != float(n % 2 == 0)
            for group in verdicts["plain"]
            for n, v in enumerate(group)
        ),
    }
    for name, deadline in {"slow": SLOW_S, "stuck": deadline_s}.items():
        ratios = [(b - deadline) / a for a, b in zip(plain, seconds[name], strict=True)]
        result[name] = {
            "deadline_s": deadline,
            "seconds": round(statistics.median(seconds[name]), 3),
            "ratio": round(statistics.median(ratios), 3),
            "lost": sum(verdict.value is None for group in verdicts[name] for verdict in group),
        }
    return result | {
        "repeats": repeats,
        "shape": {"samples": samples, "group_size": group_size, "workers": workers},
        **circumstances(),
    }


def _with_first(
    batch: Sequence[tuple[Task, list[Rollout]]], text: str
) -> list[tuple[Task, list[Rollout]]]:
    """The batch with `text` in the place of its first answer, where it holds up most."""
    (task, rollouts), *others = batch
    return [(replace(task, answer="x+1"), [as_rollout("0", text), *rollouts[1:]]), *others]


def mixed_answers(
    groups: int, group_size: int, seed: int = 0
) -> list[tuple[Task, list[Rollout]]]:
    """Tasks with reference answers of eight kinds, and answers of ordinary length in four ways of writing; every second answer is right."""
    rng, items = random.Random(seed), []
    for number in range(groups):
        right, wrong = _kinds(rng)[number % 8]
        task = Task(id=str(number), prompt="?", answer=right[0])
        texts = [
            _text(rng, (right if n % 2 == 0 else wrong)[n // 2 % 2], _WAYS[n % 4])
            for n in range(group_size)
        ]
        items.append((task, [as_rollout(str(n), text) for n, text in enumerate(texts)]))
    return items


def _kinds(rng: random.Random) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """(Two spellings of the answer, two wrong answers) of each kind."""
    a, b, c = rng.randint(2, 60), rng.randint(61, 99), rng.randint(1001, 99_999)
    return [
        ((f"{c}", f"{c:,}"), (f"{c + 1}", f"{c - 1:,}")),
        (
            (f"\\frac{{{a}}}{{{b}}}", f"{a}/{b}"),
            (f"\\frac{{{b}}}{{{a}}}", f"\\frac{{{a + 1}}}{{{b}}}"),
        ),
        (
            (f"{a}\\sqrt{{{b}}}", f"\\sqrt{{{b}}}\\cdot {a}"),
            (f"{b}\\sqrt{{{a}}}", f"{a + 1}\\sqrt{{{b}}}"),
        ),
        ((f"x^2+{a}x+{b}", f"{b}+{a}x+x^2"), (f"x^2-{a}x+{b}", f"x^2+{a}x-{b}")),
        ((f"({a}, {b})", f"\\left({a},{b}\\right)"), (f"({b}, {a})", f"({a}, {b + 1})")),
        ((f"[{a},{b})", f"x \\in [{a},{b})"), (f"[{a},{b}]", f"({a},{b})")),
        ((f"{a}, {b}", f"\\{{{b}, {a}\\}}"), (f"{a}", f"{a}, {b + 1}")),
        ((f"{c}\\text{{ cm}}^2", f"{c}"), (f"{c}\\text{{ cm}}^3", f"{c + 2}\\text{{ cm}}^2")),
    ]


def _text(rng: random.Random, answer: str, way: str) -> str:
    steps = []
    for _ in range(7):
        a, b = rng.randint(1, 99), rng.randint(1, 99)
        steps.append(_STEPS.format(a=a, b=b, c=a + b, h=(a + b) / 2))
    return "".join(steps) + way.format(answer)


def _timed(
    items: Sequence[tuple[Task, list[Rollout]]], workers: int, deadline_s: float
) -> tuple[float, list[list[Verdict]]]:
    spec = RewardSpec("rlcore.bench.rewards:math_or_hang")
    warm = mixed_answers(2 * workers, 2, seed=1)
    with Scorer([spec], workers=workers, deadline_s=deadline_s) as scorer:
        scorer.score(warm)
        started = time.perf_counter()
        verdicts = scorer.score(items)
        return time.perf_counter() - started, verdicts
