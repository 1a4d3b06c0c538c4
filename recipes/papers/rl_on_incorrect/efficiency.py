"""How many times more problems imitation would need: the data-efficiency factor of a method, with its interval and drawing."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from itertools import accumulate

from rlcore.analysis.study_results import markdown, summarise
from rlcore.run.plots import panels_svg

Curve = dict[int, dict[int, float]]  # D -> seed -> accuracy
SFT = "sft"
DRAWS = 2000
"""Of the bootstrap."""


def needed(sft: Mapping[int, float], accuracy: float) -> float:
    """Problems that SFT needs for an accuracy: linear in log D between the sizes, inf above all.

    sft: size -> accuracy. To take out noise the curve never falls. Below its first point the first
    size counts.
    """
    sizes = sorted(size for size in sft if size)
    best = list(accumulate((sft[size] for size in sizes), max))
    if accuracy <= best[0]:
        return sizes[0]
    for i in range(1, len(sizes)):
        if best[i - 1] < accuracy <= best[i]:
            part = (accuracy - best[i - 1]) / (best[i] - best[i - 1])
            return sizes[i - 1] * (sizes[i] / sizes[i - 1]) ** part
    return math.inf


def factor(sft: Mapping[int, float], method: Mapping[int, float]) -> float:
    """Problems that SFT needs, as a multiple of the method's: the geometric mean over the method's sizes.

    Both: size -> accuracy. An accuracy that SFT never reaches counts as that of its largest size: the factor is then a lower bound.
    """
    largest = max(sft)
    logs = [math.log(min(largest, needed(sft, accuracy)) / size) for size, accuracy in method.items()]
    return math.exp(statistics.fmean(logs))


def factors(curves: Mapping[str, Curve], *, tasks: int) -> dict[str, dict[str, float | int]]:
    """Data-efficiency factor of each method, of accuracies that are means over seeds.

    low, high: of the 95% interval by a bootstrap over seeds and over the tasks of the eval set (as many as `tasks`).
    beyond_sft: sizes at which SFT never reaches the accuracy.
    """
    sft = curves[SFT]
    seeds = sorted(next(iter(sft.values())))
    found = {}
    for method in curves.keys() - {SFT}:
        draw = random.Random(method)
        drawn = []
        for _ in range(DRAWS):
            chosen = draw.choices(seeds, k=len(seeds))
            pair = [_means(curve, chosen, draw=draw, tasks=tasks) for curve in (sft, curves[method])]
            drawn.append(factor(*pair))
        drawn.sort()
        means, own = _means(sft, seeds), _means(curves[method], seeds)
        found[method] = {
            "factor": factor(means, own),
            "low": drawn[round(0.025 * DRAWS)],
            "high": drawn[round(0.975 * DRAWS) - 1],
            "beyond_sft": sum(math.isinf(needed(means, accuracy)) for accuracy in own.values()),
            "of": len(own),
        }
    return found


def _means(
    curve: Curve, seeds: Sequence[int], *, draw: random.Random | None = None, tasks: int = 0
) -> dict[int, float]:
    """Size -> mean accuracy over the seeds; draw: with the noise of evaluating it on so many tasks."""
    means = {size: statistics.fmean(by_seed[seed] for seed in seeds) for size, by_seed in curve.items()}
    if draw is None:
        return means
    return {
        size: mean + draw.gauss(0, math.sqrt(mean * (1 - mean) / tasks)) for size, mean in means.items()
    }


def table(
    curves: Mapping[str, Curve],
    found: Mapping[str, Mapping[str, float | int]],
    copied: Mapping[str, Curve] | None = None,
) -> str:
    """Accuracy by size with its interval over seeds, and the factor, in Markdown.

    copied: of the same runs, how many of the wrong hints were copied; the last column is their mean over the sizes that all methods have.
    """
    sizes = sorted({size for curve in curves.values() for size in curve})
    common = set.intersection(*(set(curve) for curve in curves.values()))
    rows = []
    for method, curve in curves.items():
        row = [method]
        for size in sizes:
            values = list(curve[size].values()) if size in curve else []
            row.append(summarise(values).text() if values else "")
        row.append(_in_words(found[method]) if method in found else "")
        if copied:
            rates = []
            for size in common & set(copied[method]):
                rates += copied[method][size].values()
            row.append(f"{statistics.fmean(rates):.1%}")
        rows.append(row)
    headers = ["accuracy by problems", *(f"D={size}" for size in sizes), "factor (95%)"]
    return markdown([*headers, *(["wrong hints copied"] if copied else [])], rows)


def _in_words(found: Mapping[str, float | int]) -> str:
    words = f"{found['factor']:.2g} ({found['low']:.2g} to {found['high']:.2g})"
    if found["beyond_sft"]:
        words += f"; at least, as at {found['beyond_sft']} of {found['of']} sizes SFT never gets there"
    return words


def svg(curves: Mapping[str, Curve]) -> str:
    """The means over log2 D; a method with a single D is a short line there."""
    lines = {}
    for method, curve in curves.items():
        points = []
        for size in sorted(size for size in curve if size):
            mean = statistics.fmean(curve[size].values())
            points.append((math.log2(size), mean))
            if len(curve) == 1:
                points.append((math.log2(size) + 0.2, mean))
        lines[method] = points
    title = "accuracy on held-out sums, mean over seeds"
    return panels_svg(
        {title: lines}, x="log2 of the number of problems", y="accuracy", high=1.0
    )
