"""From the command line's sizes to one benchmark."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from rlcore.bench.credit import bench_credit
from rlcore.bench.head import bench_head
from rlcore.bench.rewards import bench_rewards
from rlcore.bench.rollout import bench_rollout
from rlcore.bench.workload import SHAPES, Shape
from rlcore.errors import RecipeError


def run(what: str, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """The result of benchmark `what`: "learner", "train" (both with `sizes["shape"]`), "head", "rewards", "credit", "rollout", "overlap",
    "corpus", "checkpoint", "publish" or "memory".

    Of `sizes`, those that the benchmark knows are taken. Raises `RecipeError` where the other side is not installed.
    """
    if what == "head":
        return bench_head(**_known(bench_head, sizes))
    if what == "credit":
        return bench_credit(**_known(bench_credit, sizes))
    if what == "rollout":
        return bench_rollout(**_known(bench_rollout, sizes))
    if what == "overlap":
        from rlcore.bench.overlap import bench_overlap

        return bench_overlap(**_known(bench_overlap, sizes))
    if what == "corpus":
        from rlcore.bench.corpus import bench_corpus

        return bench_corpus(**_known(bench_corpus, sizes))
    if what == "checkpoint":
        from rlcore.bench.checkpoint import bench_checkpoint

        return bench_checkpoint(**_known(bench_checkpoint, sizes))
    if what == "publish":
        from rlcore.bench.publish import bench_publish

        return bench_publish(**_known(bench_publish, sizes))
    if what == "memory":
        from rlcore.bench.memory import bench_memory

        return bench_memory()
    if what == "rewards":
        return bench_rewards(**_known(bench_rewards, sizes))
    given = {item.name: sizes[item.name] for item in fields(Shape) if item.name in sizes}
    shape = SHAPES[sizes["shape"]].changed(**given)
    if importlib.util.find_spec("trl") is None:
        raise RecipeError(
            f"bench {what} measures against TRL, which is not installed here; pip install trl"
        )
    from rlcore.bench.learner import bench_learner
    from rlcore.bench.train import bench_train

    bench = bench_learner if what == "learner" else bench_train
    return bench(shape, **_known(bench, sizes))


def _known(bench: Callable[..., Any], sizes: Mapping[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(bench).parameters
    return {key: value for key, value in sizes.items() if key in parameters and key != "shape"}


def shown(value: Any) -> str:
    """A value of a result for a narrow table: `ratio 1.2, spread 1.1 to 1.3`, which can be wrapped between any two numbers."""
    if isinstance(value, Mapping):
        return ", ".join(
            f"{key.replace('_', ' ')} {shown(item)}" for key, item in value.items()
        )
    return " to ".join(map(shown, value)) if isinstance(value, list) else str(value)


def in_words(result: Mapping[str, Any]) -> list[str]:
    """The comparisons of a result as sentences, one each."""
    compared = {"": result} | {
        f"{key}: ": value for key, value in result.items() if isinstance(value, dict)
    }
    against = result.get("against", "the other side")
    lines = []
    for name, found in compared.items():
        if not {"ratio", "spread"} <= found.keys() or name == f"{against}: ":
            continue
        low, high = found["spread"]
        if "ours" in found:
            line = f"{name}{found['ours']:.3g} s, {against} {found['theirs']:.3g} s: {found['ratio']:.3g} times as fast"
        else:
            line = f"{name}{found['ratio']:.3g} times as fast as {against}"
        memory = (
            f", {found['extra_gb']:.3g} GB beyond its inputs" if "extra_gb" in found else ""
        )
        lines.append(f"{line} ({low:.3g} to {high:.3g}){memory}")
    return lines
