"""Seconds of a step and the division of devices, from the speeds of both sides: measured here, or those of a run."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlcore.errors import RecipeError
from rlcore.measures.intervals import wilson
from rlcore.plan.batch import measured_lengths, wasted_groups
from rlcore.plan.engine_memory import tensor_parallel
from rlcore.plan.memory import Machine
from rlcore.plan.plan import Plan
from rlcore.plan.probe import Measured, probe, rl_stage
from rlcore.recipe.schema import Recipe
from rlcore.run.folder import read_rows


@dataclass(frozen=True)
class Split:
    """Devices that serve and devices that learn at the same time, and seconds of a step on each side."""

    serve: int
    learn: int
    generate_s: float
    learn_s: float

    @property
    def step_s(self) -> float:
        return max(self.generate_s, self.learn_s)


@dataclass(frozen=True)
class Speed:
    """What is expected of a step."""

    source: str
    generated: float
    learned: float
    """Tokens a second of one device: completions written, and tokens read forward and backward."""
    generate_s: float
    learn_s: float
    publish_s: float
    """Seconds of a step on the machine's devices, each of which does both in turn."""
    split: Split | None
    """The best division between servers and learners; None where there is one device."""
    wasted: float | None
    """Fraction of groups with equal rewards."""
    wasted_low: float | None
    wasted_high: float | None

    @property
    def step_s(self) -> float:
        return self.generate_s + self.learn_s + self.publish_s

    @property
    def facts(self) -> dict[str, Any]:
        return vars(self) | {
            "step_s": self.step_s,
            "split": self.split and vars(self.split) | {"step_s": self.split.step_s},
        }

    def sentences(self) -> Iterator[str]:
        yield (
            f"speed of a device ({self.source}): {self.generated:,.0f} completion tokens a second, "
            f"{self.learned:,.0f} tokens a second forward and backward"
        )
        yield (
            f"a step, both in turn on every device: {self.step_s:.1f} s (generate {self.generate_s:.1f}, "
            f"learn {self.learn_s:.1f}, publish {self.publish_s:.1f})"
        )
        if self.split is not None:
            split = self.split
            yield (
                f"divided, with max_staleness 1: {split.serve} device(s) serve and {split.learn} learn, "
                f"{split.step_s:.1f} s a step (generate {split.generate_s:.1f}, learn {split.learn_s:.1f} at the same time)"
            )
        if self.wasted is not None:
            spread = (
                ""
                if self.wasted_low is None
                else f" (95% interval {self.wasted_low:.0%} to {self.wasted_high:.0%})"
            )
            yield f"groups with equal rewards, which teach nothing: {self.wasted:.0%}{spread}"


def forecast(
    recipe: Recipe, machine: Machine, plan: Plan, *, run: Path | None, do_probe: bool
) -> Speed:
    """From a measurement here, or from the metrics of `run`. Raises `RecipeError` where neither tells."""
    stage = rl_stage(recipe)
    source = "measured here"
    if do_probe:
        measured = probe(recipe, ranks=machine.ranks)
    else:
        assert run is not None
        measured = _of_run(run)
        source = f"of {run}"
    work = _work(stage, plan, measured)
    devices = max(1, machine.gpus) * machine.nodes
    parallel = tensor_parallel(recipe)
    generate_s = work.written / measured.generated
    learn_s = work.read / measured.learned
    wasted, low, high = _wasted(measured, run)
    return Speed(
        source=source,
        generated=measured.generated,
        learned=measured.learned,
        generate_s=generate_s / devices,
        learn_s=learn_s / devices,
        publish_s=measured.publish_s,
        split=best_split(generate_s, learn_s, devices, parallel=parallel),
        wasted=wasted,
        wasted_low=low,
        wasted_high=high,
    )


def best_split(
    generate_s: float, learn_s: float, devices: int, *, parallel: int = 1
) -> Split | None:
    """The division with the shortest step. generate_s, learn_s: of a whole step on one device. parallel: GPUs of a server."""
    splits = [
        Split(serve, devices - serve, generate_s / serve, learn_s / (devices - serve))
        for serve in range(parallel, devices, parallel)
    ]
    return min(splits, key=lambda split: split.step_s, default=None)


@dataclass(frozen=True)
class _Work:
    written: float
    """Completion tokens of a step, over all processes."""
    read: float
    """Tokens that the model reads forward and backward in a step."""


def _work(stage: Any, plan: Plan, measured: Measured) -> _Work:
    completions = stage.groups_per_step * stage.group_size
    written = completions * measured.completion
    read = completions * (measured.prompt + measured.completion) * stage.update_epochs
    return _Work(written, read)


def _of_run(run: Path) -> Measured:
    rows = [row for row in read_rows(run / "metrics.jsonl") if "time/rollout" in row]
    lengths = measured_lengths(run)
    if not rows or lengths is None:
        raise RecipeError(f"{run} has no rl steps yet: give --probe instead of --run")
    rows = rows[1:] or rows  # the first step pays for what happens once

    def total(key: str) -> float:
        return sum(row.get(key, 0.0) for row in rows)

    read = total("tokens/prompt") + total("tokens/completion")
    return Measured(
        generated=total("tokens/completion") / total("time/rollout"),
        learned=read / max(1e-9, total("time/learn")),
        publish_s=statistics.fmean(row.get("time/publish", 0.0) for row in rows),
        prompt=lengths.prompt,
        completion=lengths.completion,
        groups=0,
        equal=0,
    )


def _wasted(
    measured: Measured, run: Path | None
) -> tuple[float | None, float | None, float | None]:
    """Fraction of groups with equal rewards, and a 95% interval where it comes of a sample."""
    if run is not None:
        return wasted_groups(read_rows(run / "metrics.jsonl")), None, None
    if measured.groups == 0:
        return None, None, None
    wasted = measured.equal / measured.groups
    interval = wilson(wasted, measured.groups)
    assert interval is not None
    return wasted, *interval
