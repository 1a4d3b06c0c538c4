"""GRPO with and without the value of each step: accuracy against generated tokens, continuations included.

    python recipes/papers/rl_on_incorrect/compare_online.py --quick      # one task, two methods, one seed
    python recipes/papers/rl_on_incorrect/compare_online.py --out runs/mine --json

Tasks are sums of eight numbers whose steps begin with one freely chosen letter (`long`) or with eight (`wordy`), and sums of six
numbers in groups of four (`short`); in `late` a right sum counts only if its last step begins with one letter of the 26, which
the model writes as often as any other, and in `early` the first step. Every method may write the same number of tokens, and each
task's methods have the settings that were best for them on fresh training problems. The curves of `late` and `early` are
accuracies on held-out sums at kept checkpoints. Elsewhere a curve is the share of right answers among those written to new
problems during the last tenth of the tokens, so that it lags alike for methods with few and with many steps; its last point is
held-out sums, sampled likewise. Writes table.txt, results.json and curves.svg; runs found there are not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from bisect import bisect_right
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rlcore.analysis.study import CellRun, after, by_cell, mean_spread, run_study
from rlcore.recipe.load import load
from rlcore.run.checkpoint import all_checkpoints
from rlcore.run.driver import train
from rlcore.run.folder import RunFolder, read_rows
from rlcore.run.plots import panels_svg

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
EARLY = tuple(f"stages.{name}.rewards.0.params.step=0" for name in ("before", "rl", "after"))
"""The first step must be marked in place of the last one."""
LATE_GRPO = (
    f"{STEPS}=null",
    "stages.rl.groups_per_step=1",
    "stages.rl.group_size=4",
    "run.checkpoint_every=120",
)
EXAMINED = ("run.keep_checkpoints=99", "run.checkpoint_every=80")
"""Whose checkpoints sit the eval_set, for a curve."""
TASKS: dict[str, tuple[str, tuple[str, ...], int, dict[str, tuple[str, ...]]]] = {
    "late": (
        "late",
        EXAMINED,
        200_000,
        {
            PLAIN: LATE_GRPO,
            "continuations": (),
            "grpo, groups of 8": (*LATE_GRPO, "stages.rl.group_size=8", "run.checkpoint_every=60"),
            "continuations, no step values": (f"{STEPS}.scheme.mix=0",),
            "step values, nothing kept": (f"{STEPS}.keep=none",),
        },
    ),
    "early": (
        "late",
        (*EXAMINED, *EARLY),
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
"""Recipe, changes for all, tokens each run may write, and changes by method. Continuations double what a step of `short` writes,
so plain GRPO takes twice the tasks in a step there; with half of them it takes more steps for its tokens."""
WINDOW = 0.1
"""Part of all tokens over which an accuracy is averaged."""
Point = tuple[int, float]  # tokens written so far, accuracy


def written(row: dict[str, float]) -> int:
    """Answer tokens of a step, continuations included."""
    return int(row["tokens/completion"] + row.get("credit/tokens", 0))


def curve(run: CellRun, tokens: int) -> list[Point]:
    """Accuracy over tokens written; the last point is that of the eval_set."""
    points: list[Point] = []
    raw: list[Point] = []
    so_far = 0
    for row in run.rows:
        raw.append(
            (so_far, row["reward/mean"])
        )  # of the policy before this step's tokens taught it something
        points.append(
            (so_far, statistics.fmean(a for at, a in raw if at > so_far - WINDOW * tokens))
        )
        so_far += written(row)
    return [*points, (so_far, run.accuracy["after"])]


def held_out(run: CellRun) -> list[Point]:
    """Accuracy on the eval_set over tokens written: at the start and at each kept checkpoint, and once more at the end."""
    recipe = load(str(run.folder / "recipe.yaml"))
    spent = dict(
        zip((row["step"] for row in run.rows), accumulate(map(written, run.rows)), strict=True)
    )
    points = [(0, run.accuracy["before"])]
    for checkpoint in all_checkpoints(RunFolder(run.folder).checkpoints):
        step = int(checkpoint.name.rpartition("_")[2])
        eval_set = after(
            recipe.model_copy(update={"name": f"{recipe.name}-at-{step}"}),
            len(recipe.stages) - 1,
            checkpoint,
        )
        train(eval_set, resume=True, console=Console(quiet=True))
        row = read_rows(RunFolder(run.folder.parent / eval_set.name).evals)[-1]
        points.append((spent[step], row["accuracy"]))
    return [*points, (points[-1][0], run.accuracy["after"])]


def reached(points: Sequence[Point], accuracy: float) -> int | None:
    """Tokens after which the accuracy is first reached."""
    return next((tokens for tokens, now in points if now >= accuracy), None)


def mean_curve(
    curves: Sequence[Sequence[Point]], tokens: int, points: int = 60
) -> list[tuple[float, float]]:
    """The mean over seeds of step curves, at evenly spaced tokens."""
    grid = [tokens * i / points for i in range(points + 1)]
    places = [[at for at, _ in line] for line in curves]
    return [
        (
            at,
            statistics.fmean(
                line[bisect_right(place, at) - 1][1]
                for line, place in zip(curves, places, strict=True)
            ),
        )
        for at in grid
    ]


def summary(
    curves: dict[str, list[list[Point]]], runs: dict[str, list[CellRun]]
) -> dict[str, dict[str, object]]:
    """Per method: eval_set accuracy, steps and tokens, and tokens to 98% of what plain GRPO's curve ends with; lists over seeds."""
    goals = [0.98 * line[-2][1] for line in curves[PLAIN]]
    own = [reached(line, goal) for line, goal in zip(curves[PLAIN], goals, strict=True)]
    found: dict[str, dict[str, object]] = {}
    for method, lines in curves.items():
        needed = [reached(line, goal) for line, goal in zip(lines, goals, strict=True)]
        found[method] = {
            "accuracy": [round(line[-1][1], 4) for line in lines],
            "steps": [run.steps for run in runs[method]],
            "tokens": [line[-1][0] for line in lines],
            "extra": round(
                1 - sum(run.tokens for run in runs[method]) / sum(line[-1][0] for line in lines), 3
            ),
            "share_of_grpo": [
                None if a is None or not b else round(a / b, 3)
                for a, b in zip(needed, own, strict=True)
            ],
        }
    return found


def show(found: dict[str, dict[str, dict[str, object]]]) -> Table:
    table = Table(
        "task",
        "method",
        "steps",
        "held-out accuracy",
        "by seed",
        "extra tokens",
        "tokens to GRPO's end, as a share",
    )
    for task, methods in found.items():
        for method, row in methods.items():
            mean, spread = mean_spread(row["accuracy"])
            listed = " ".join(f"{value:.3f}" for value in row["accuracy"])
            shares = " ".join(
                "never" if share is None else f"{share:.2f}" for share in row["share_of_grpo"]
            )
            table.add_row(
                task,
                method,
                str(row["steps"][0]),
                f"{mean:.3f} ± {spread:.3f}",
                listed,
                f"{row['extra']:.0%}",
                shares,
            )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="the task `late`, GRPO and continuations, one seed"
    )
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--out", type=Path, help="folder for runs, table and plot")
    parser.add_argument(
        "--task", action="append", choices=list(TASKS), help="only this task (may be given again)"
    )
    parser.add_argument("--seeds", type=int, default=0, help="how many seeds")
    arguments = parser.parse_args()
    out = arguments.out or Path(
        "runs/incorrect_online_quick" if arguments.quick else "runs/incorrect_online"
    )
    seeds = range(arguments.seeds or (1 if arguments.quick else 3))
    started, found, drawn, everything = time.perf_counter(), {}, {}, {}
    for task in arguments.task or (["late"] if arguments.quick else list(TASKS)):
        recipe, common, tokens, methods = TASKS[task]
        methods = dict(list(methods.items())[: 2 if arguments.quick else None])
        ends = ("stages.rl.steps=1000", f"stages.rl.stop_after_tokens={tokens}")
        runs = by_cell(
            run_study(
                str(HERE / f"{recipe}.yaml"),
                methods,
                seeds=seeds,
                folder=out / "runs" / task,
                common=(*common, *ends),
            )
        )
        line = held_out if EXAMINED[0] in common else partial(curve, tokens=tokens)
        curves = {method: [line(run) for run in of] for method, of in runs.items()}
        found[task], everything[task] = summary(curves, runs), curves
        drawn[f"{task}: right answers, mean over {len(seeds)} seeds"] = {
            method: mean_curve([line[:-1] for line in lines], tokens)
            for method, lines in curves.items()
        }
    result = {"found": found, "seconds": round(time.perf_counter() - started, 1)}
    (out / "results.json").write_text(json.dumps(result | {"curves": everything}))
    (out / "curves.svg").write_text(
        panels_svg(drawn, x="tokens written, continuations included", y="accuracy", high=1.0)
    )
    with (out / "table.txt").open("w", encoding="utf-8") as file:
        Console(file=file, width=180).print(show(found))
    Console(width=180).print(show(found))
    print(f"{result['seconds']:.0f} s; table, results and plot are in {out}")
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
