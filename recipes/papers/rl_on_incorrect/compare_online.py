"""GRPO with and without the value of each step: accuracy against generated tokens, continuations
included.

    python recipes/papers/rl_on_incorrect/compare_online.py --quick    # two methods, one seed
    python recipes/papers/rl_on_incorrect/compare_online.py --out runs/mine --json

Tasks are sums of eight numbers whose steps begin with one freely chosen letter (`long`) or with
eight (`wordy`), and sums of six numbers in groups of four (`short`); in `late` a right sum counts
only if its last step begins with one letter of the 26, which the model writes as often as any
other, and in `early` the first step. Every method may write the same number of tokens, and each
task's methods have the settings that were best for them on fresh training problems. The curves of
`late` and `early` are accuracies on held-out sums at kept checkpoints. Elsewhere a curve is the
share of right answers among those written to new problems during the last tenth of the tokens, so
that it lags alike for methods with few and with many steps; its last point is held-out sums,
sampled likewise. Each task has a folder with its runs and results.json; finished runs are not
repeated."""

from __future__ import annotations

import argparse
import json
import statistics
from bisect import bisect_right
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path

from rich.console import Console

from rlcore.analysis.study import CellRun, after, run_study
from rlcore.analysis.study_results import Point, StudyResults, Value, markdown, origin
from rlcore.recipe.load import load
from rlcore.run.checkpoint import all_checkpoints
from rlcore.run.driver import train
from rlcore.run.folder import RunFolder, read_rows
from rlcore.run.plots import panels_svg
from rlcore.terminal import one_sentence_errors

HERE = Path(__file__).resolve().parent
STEPS = "stages.rl.credit.steps"
PLAIN = "grpo"
WORDY = (
    "tasks.demonstrations.letters=8",
    "model.config.max_position_embeddings=192",
    "engine.max_length=192",
    "stages.rl.groups_per_step=4",
    *(f"stages.{name}.sampling.max_tokens=160" for name in ("before", "rl", "after")),
)
"""Eight letters before each step in place of one."""
EARLY = tuple(f"stages.{name}.rewards.0.step=0" for name in ("before", "rl", "after"))
"""The first step must be marked in place of the last one."""
LATE_GRPO = (
    f"{STEPS}=null",
    "stages.rl.groups_per_step=1",
    "stages.rl.group_size=4",
    "run.checkpoint_every=120",
)
KEPT = ("run.keep_checkpoints=99", "run.checkpoint_every=80")
"""Checkpoints that are evaluated on the eval set, for a curve."""
TASKS: dict[str, tuple[str, tuple[str, ...], int, dict[str, tuple[str, ...]]]] = {
    "late": (
        "late",
        KEPT,
        200_000,
        {
            PLAIN: LATE_GRPO,
            "continuations": (),
            "grpo, groups of 8": (
                *LATE_GRPO,
                "stages.rl.group_size=8",
                "run.checkpoint_every=60",
            ),
            "continuations, no step values": (f"{STEPS}.scheme.mix=0",),
            "step values, nothing kept": (f"{STEPS}.keep=none",),
        },
    ),
    "early": (
        "late",
        (*KEPT, *EARLY),
        200_000,
        {
            PLAIN: LATE_GRPO,
            "continuations": (),
        },
    ),
    "long": (
        "chain",
        (),
        345_000,
        {
            PLAIN: (f"{STEPS}=null",),
            "siblings": (),
        },
    ),
    "wordy": (
        "chain",
        WORDY,
        445_000,
        {
            PLAIN: (f"{STEPS}=null", "stages.rl.optim.lr=1e-4"),
            "siblings": (
                f"{STEPS}.scheme={{use: vine, normalise: true}}",
                "stages.rl.optim.lr=1e-4",
            ),
            "grpo, higher rate": (f"{STEPS}=null", "stages.rl.optim.lr=2e-4"),
            "siblings, higher rate": (
                f"{STEPS}.scheme={{use: vine, normalise: true}}",
                "stages.rl.optim.lr=2e-4",
            ),
        },
    ),
    "short": (
        "online",
        (),
        120_000,
        {
            PLAIN: (f"{STEPS}=null", "stages.rl.groups_per_step=32"),
            "grpo, half the tasks": (f"{STEPS}=null",),
            "per step": (),
            "per step, continuations kept": (f"{STEPS}.keep=all",),
            "first pit": (f"{STEPS}.scheme=first_pit", f"{STEPS}.search=bisect"),
        },
    ),
}
"""Recipe, changes for all, tokens each run may write, and changes by method. Continuations double
what a step of `short` writes, so plain GRPO takes twice the tasks in a step there; with half of
them it takes more steps for its tokens."""
WINDOW = 0.1
"""Part of all tokens over which an accuracy is averaged."""
MEASURES = {
    "accuracy": lambda run: run.accuracy["after"],
    "steps": lambda run: run.steps,
    "tokens": lambda run: sum(map(generated, run.rows)),
    "extra tokens": lambda run: sum(row.get("credit/tokens", 0) for row in run.rows),
}
"""Extra tokens are those of continuations."""


def generated(row: dict[str, float]) -> int:
    """Completion tokens of a step, continuations included."""
    return int(row["tokens/completion"] + row.get("credit/tokens", 0))


def training_curve(run: CellRun, tokens: int) -> list[Point]:
    """Training accuracy over tokens generated; the last point is the accuracy on the eval set."""
    points: list[Point] = []
    raw: list[Point] = []
    so_far = 0
    for row in run.rows:
        # The reward is that of the policy before this step's tokens changed it.
        raw.append((so_far, row["reward/mean"]))
        recent = [accuracy for at, accuracy in raw if at > so_far - WINDOW * tokens]
        points.append((so_far, statistics.fmean(recent)))
        so_far += generated(row)
    return [*points, (so_far, run.accuracy["after"])]


def held_out_curve(run: CellRun) -> list[Point]:
    """Accuracy on the eval set over tokens: at the start, at each kept checkpoint, at the end."""
    recipe = load(str(run.folder / "recipe.yaml"))
    steps = [row["step"] for row in run.rows]
    spent = dict(zip(steps, accumulate(map(generated, run.rows)), strict=True))
    points: list[Point] = [(0, run.accuracy["before"])]
    for checkpoint in all_checkpoints(RunFolder(run.folder).checkpoints):
        step = int(checkpoint.name.rpartition("_")[2])
        named = recipe.model_copy(update={"name": f"{recipe.name}-at-{step}"})
        evaluation = after(named, len(recipe.stages) - 1, checkpoint)
        train(evaluation, resume=True, console=Console(quiet=True))
        row = read_rows(RunFolder(run.folder.parent / evaluation.name).evals)[-1]
        points.append((spent[step], row["accuracy"]))
    return [*points, (points[-1][0], run.accuracy["after"])]


def reached(points: Sequence[Point], accuracy: float) -> float | None:
    """Tokens after which the accuracy is first reached."""
    for tokens, now in points:
        if now >= accuracy:
            return tokens
    return None


def mean_curve(curves: Sequence[Sequence[Point]], tokens: int, points: int = 60) -> list[Point]:
    """The mean over seeds of step curves, at evenly spaced tokens."""
    mean = []
    for i in range(points + 1):
        at = tokens * i / points
        values = []
        for curve in curves:
            last = bisect_right([x for x, _ in curve], at) - 1
            values.append(curve[last][1])
        mean.append((at, statistics.fmean(values)))
    return mean


def tokens_relative_to_grpo(curves: dict[str, list[list[Point]]]) -> dict[str, list[Value]]:
    """Per method and seed: tokens to 98% of the last point of plain GRPO's curve, divided by
    GRPO's.

    None where a method never reaches it.
    """
    goals = [0.98 * curve[-2][1] for curve in curves[PLAIN]]
    relative: dict[str, list[Value]] = {}
    for method in curves:
        relative[method] = []
        for curve, plain, goal in zip(curves[method], curves[PLAIN], goals, strict=True):
            tokens = reached(curve, goal)
            of_plain = reached(plain, goal)
            ratio = round(tokens / of_plain, 3) if tokens is not None and of_plain else None
            relative[method].append(ratio)
    return relative


def table(results: StudyResults) -> str:
    """A row per method."""
    rows = []
    for method in results.cells:
        accuracy = results.summary(method, "accuracy")
        tokens = sum(results.values(method, "tokens"))
        extra = sum(results.values(method, "extra tokens"))
        relative = results.derived["tokens relative to grpo"][method]
        rows.append(
            [
                method,
                str(results.values(method, "steps")[0]),
                accuracy.text(),
                ", ".join(f"{value:.3f}" for value in accuracy.values),
                f"{extra / tokens:.0%}",
                ", ".join("never" if value is None else f"{value:.2f}" for value in relative),
            ]
        )
    headers = [
        "method",
        "steps",
        "held-out accuracy",
        "by seed",
        "extra tokens",
        "tokens to GRPO's end, relative to GRPO",
    ]
    return f"{markdown(headers, rows)}\n\n{origin(results)}"


def run_task(task: str, seeds: Sequence[int], folder: Path, *, quick: bool) -> StudyResults:
    """All methods of one task."""
    recipe, common, tokens, methods = TASKS[task]
    if quick:
        methods = {method: methods[method] for method in list(methods)[:2]}
    curve = held_out_curve if KEPT[0] in common else partial(training_curve, tokens=tokens)
    results = run_study(
        str(HERE / f"{recipe}.yaml"),
        methods,
        seeds=seeds,
        folder=folder,
        measures=MEASURES,
        curves=lambda run: {"accuracy": curve(run)},
        common=(*common, "stages.rl.steps=1000", f"stages.rl.stop_after_tokens={tokens}"),
    )
    curves = {method: results.curves(method, "accuracy") for method in results.cells}
    results.derived = {"tokens relative to grpo": tokens_relative_to_grpo(curves)}
    results.save()
    lines = {}
    for method, of_seeds in curves.items():
        lines[method] = mean_curve([points[:-1] for points in of_seeds], tokens)
    title = f"{task}: right completions, mean over {len(seeds)} seeds"
    axis = "tokens generated, continuations included"
    panels = panels_svg({title: lines}, x=axis, y="accuracy", high=1.0)
    (folder / "curves.svg").write_text(panels, encoding="utf-8")
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="the task `late`, GRPO and continuations, one seed"
    )
    parser.add_argument("--out", type=Path, help="folder for runs, results and plots")
    parser.add_argument(
        "--task",
        action="append",
        choices=list(TASKS),
        help="only this task (may be given again)",
    )
    parser.add_argument("--seeds", type=int, default=0, help="number of seeds")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print one line of JSON, by task")
    output.add_argument(
        "--table", action="store_true", help="print the tables of the results and run nothing"
    )
    arguments = parser.parse_args()
    name = "incorrect_online_quick" if arguments.quick else "incorrect_online"
    out = arguments.out or Path("runs") / name
    seeds = range(arguments.seeds or (1 if arguments.quick else 3))
    results = {}
    for task in arguments.task or (["late"] if arguments.quick else list(TASKS)):
        if arguments.table:
            results[task] = StudyResults.read(out / task / "results.json")
        else:
            results[task] = run_task(task, seeds, out / task, quick=arguments.quick)
    if arguments.json:
        print(json.dumps({task: of_task.as_dict() for task, of_task in results.items()}))
        return
    for task, of_task in results.items():
        print(f"{task}\n\n{table(of_task)}\n")


if __name__ == "__main__":
    with one_sentence_errors():
        main()
