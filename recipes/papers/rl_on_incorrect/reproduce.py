"""RL on incorrect synthetic data (arXiv 2406.14532) in miniature: accuracy by number of problems.

    python recipes/papers/rl_on_incorrect/reproduce.py --quick    # three methods at one size
    python recipes/papers/rl_on_incorrect/reproduce.py --out runs/mine --json

A tiny model imitates a teacher who forgets carries (`base`); SFT on the right solutions of D
problems (`sft`) starts from it, and every other method from that SFT model and the same D problems.
Each method, SFT too, has a few settings to choose from: for each D, the setting with the best mean
accuracy on validation problems is the one whose accuracy on the eval set is reported. The
data-efficiency factor of a method is how many times more problems SFT needs for the accuracy that
the method has with D. Writes results.json and accuracy.svg to the folder.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import accumulate
from pathlib import Path

from rich.console import Console

from rlcore.analysis.study_results import StudyResults, markdown, origin, summarise
from rlcore.recipe.load import dump, load
from rlcore.run.driver import train
from rlcore.run.folder import read_rows
from rlcore.run.plots import panels_svg

HERE = Path(__file__).resolve().parent
RATES = ("1e-4", "3e-5")
ONE = "stages.drawn.steps={rollouts: 1, split: {use: delimiter, at: ';'}, completions: all}"
EVALUATIONS = ("validation", "eval_set")


@dataclass(frozen=True)
class Method:
    """A recipe with a setting to choose."""

    recipe: str
    key: str
    """The key that is chosen on the validation problems."""
    values: Sequence[str]
    changes: Sequence[str] = ()

    def first_value(self) -> Method:
        """The same method without a choice."""
        return replace(self, values=self.values[:1])


SFT = Method("sft", "stages.sft.steps", ("40", "120"))
BETA = "stages.offline.objective.beta"
METHODS = {
    "rft": Method("rft", "stages.offline.optim.lr", RATES),
    "advantage-weighted": Method("advantage_weighted", BETA, ("0.1", "0.3")),
    "advantage-weighted, 1 rollout": Method("advantage_weighted", BETA, ("0.1", "0.3"), (ONE,)),
    "dpo, whole answers": Method("dpo", "stages.prefer.optim.lr", ("1e-5", "4e-5")),
    "dpo, first pit": Method("first_pit", "stages.prefer.optim.lr", ("1e-5", "4e-5")),
    "grpo": Method("grpo", "stages.rl.optim.lr", RATES),
    "grpo, per step": Method("grpo_per_step", "stages.rl.optim.lr", RATES),
}
"""With one rollout per step the step values are noise."""
QUICK = ("rft", "advantage-weighted", "advantage-weighted, 1 rollout")
"""Methods of `--quick`, each with the first of its values."""
Curve = dict[int, dict[int, float]]  # D -> seed -> accuracy
Options = dict[str, dict[int, dict[str, float]]]  # setting -> seed -> accuracy by evaluation


class Runs:
    """Trains what is not in the study's results yet."""

    def __init__(self, out: Path) -> None:
        self.folder = out / "runs"
        recipes = {"base", SFT.recipe, *(method.recipe for method in METHODS.values())}
        settings = {}
        for recipe in sorted(recipes):
            text = dump(load(str(HERE / f"{recipe}.yaml")))
            settings[f"sha256 of {recipe}"] = sha256(text.encode()).hexdigest()
        self.results = StudyResults.open(
            out / "results.json", recipe="rl_on_incorrect", settings=settings
        )

    def accuracies(
        self, recipe: str, cell: str, seed: int, changes: Sequence[str]
    ) -> dict[str, float]:
        """Accuracy by evaluation of a recipe with these changes; the run is `cell`-`seed`."""
        if not self.results.has(cell, seed, EVALUATIONS):
            started = time.perf_counter()
            name = f"{cell}-{seed}"
            settings = [
                f"name={name}",
                f"run.folder={self.folder}",
                "run.keep_checkpoints=1",
                "run.checkpoint_every=100000",
            ]
            loaded = load(str(HERE / f"{recipe}.yaml"), [*settings, *changes])
            train(loaded, overwrite=True, console=Console(quiet=True))
            rows = read_rows(self.folder / name / "eval.jsonl")
            values = {row["stage"]: row["accuracy"] for row in rows}
            seconds = time.perf_counter() - started
            self.results.add(cell, seed, values, seconds=seconds)
            listed = ", ".join(f"{stage} {accuracy:.3f}" for stage, accuracy in values.items())
            print(f"{name}: {listed} ({seconds:.0f} s)", file=sys.stderr, flush=True)
        return self.results.cells[cell].runs[seed].values


def chosen(options: Options) -> str:
    """The setting with the best validation accuracy, mean over seeds."""

    def validation(setting: str) -> float:
        return statistics.fmean(found["validation"] for found in options[setting].values())

    return max(options, key=validation)


def try_settings(
    runs: Runs,
    method: Method,
    name: str,
    size: int,
    seeds: Sequence[int],
    start: dict[int, str],
) -> Options:
    """Run a method with each of its settings. start: seed -> name of the run it starts from."""
    options: Options = {}
    for value in method.values:
        options[value] = {}
        for seed in seeds:
            changes = [
                f"model.path={runs.folder / start[seed]}",
                f"seed={seed}",
                f"tasks.problems.seed={100 + seed}",
                f"tasks.problems.size={size}",
                *method.changes,
                f"{method.key}={value}",
            ]
            cell = f"{name}-{size}-{value}"
            options[value][seed] = runs.accuracies(method.recipe, cell, seed, changes)
    return options


def measure(
    runs: Runs, seeds: list[int], sft_sizes: list[int], sizes: list[int], *, quick: bool
) -> tuple[dict[str, Curve], dict[str, dict[int, str]]]:
    """Accuracy on the eval set of every method by size and seed, and the setting chosen for each.

    The base model counts as SFT on no problem.
    """
    methods = METHODS
    if quick:
        methods = {name: METHODS[name].first_value() for name in QUICK}
    curves: dict[str, Curve] = {"sft": {0: {}}, **{method: {} for method in methods}}
    settings: dict[str, dict[int, str]] = {method: {} for method in curves}
    bases = {}
    for seed in seeds:
        number = 0 if quick else seed
        bases[seed] = f"base-{number}"
        changes = (f"seed={number}", f"tasks.demonstrations.seed={number + 1}")
        curves["sft"][0][seed] = runs.accuracies("base", "base", number, changes)["eval_set"]
    for size in sorted({*sft_sizes, *sizes}):
        at_size = {"sft": SFT}
        if size in sizes:
            at_size |= methods
        start = bases
        for method, definition in at_size.items():
            name = method.replace(", ", "-").replace(" ", "_")
            options = try_settings(runs, definition, name, size, seeds, start)
            best = chosen(options)
            settings[method][size] = best
            curves[method][size] = {seed: options[best][seed]["eval_set"] for seed in seeds}
            if method == "sft":  # all other methods start from this model
                start = {seed: f"sft-{size}-{best}-{seed}" for seed in seeds}
    return curves, settings


def needed(sft: dict[int, float], accuracy: float) -> float:
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


def factors(curves: dict[str, Curve]) -> dict[str, dict[str, float | int]]:
    """Data-efficiency factor of each method; inf where SFT never reaches its accuracy."""
    summaries = {}
    for method in curves.keys() - {"sft"}:
        values = []
        for size, by_seed in curves[method].items():
            for seed, accuracy in by_seed.items():
                sft = {sft_size: curves["sft"][sft_size][seed] for sft_size in curves["sft"]}
                values.append(needed(sft, accuracy) / size)
        values.sort()
        summaries[method] = {
            "median": values[len(values) // 2],
            "least": values[0],
            "largest": values[-1],
            "beyond_sft": sum(math.isinf(value) for value in values),
            "of": len(values),
        }
    return summaries


def table(curves: dict[str, Curve], summaries: dict[str, dict[str, float | int]]) -> str:
    """Accuracy by size with its interval over seeds, and the factor with its range, in Markdown."""
    sizes = sorted({size for curve in curves.values() for size in curve})
    rows = []
    for method, curve in curves.items():
        row = [method]
        for size in sizes:
            values = list(curve[size].values()) if size in curve else []
            row.append(summarise(values).text() if values else "")
        if method in summaries:
            factor = summaries[method]
            row.append(
                f"{factor['median']:.2g} ({factor['least']:.2g} to {factor['largest']:.2g}; "
                f"{factor['beyond_sft']}/{factor['of']} beyond SFT)"
            )
        else:
            row.append("")
        rows.append(row)
    headers = ["accuracy by problems", *(f"D={size}" for size in sizes), "factor (range)"]
    return markdown(headers, rows)


def svg(curves: dict[str, Curve]) -> str:
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="one base model, three methods at one size"
    )
    parser.add_argument("--out", type=Path, help="folder for runs, results.json and plot")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print results.json in one line")
    output.add_argument(
        "--table",
        action="store_true",
        help="print the table of finished results and run nothing",
    )
    arguments = parser.parse_args()
    name = "rl_on_incorrect_quick" if arguments.quick else "rl_on_incorrect"
    out = arguments.out or Path("runs") / name
    if arguments.table:
        print(StudyResults.read(out / "results.json").derived["table"])
        return
    runs = Runs(out)
    if arguments.quick:
        sft_sizes, sizes = [8, 32], [8]
    else:
        sft_sizes, sizes = [2, 4, 8, 16, 32, 64, 128, 256], [4, 16, 64]
    curves, settings = measure(runs, [0, 1, 2], sft_sizes, sizes, quick=arguments.quick)
    summaries = factors(curves)
    text = table(curves, summaries)
    for summary in summaries.values():  # JSON has no infinity: null is beyond what SFT reaches
        for key, value in summary.items():
            summary[key] = None if math.isinf(value) else value
    runs.results.derived = {
        "accuracy": curves,
        "factors": summaries,
        "chosen": settings,
        "table": f"{text}\n\n{origin(runs.results)}",
    }
    runs.results.save()
    (out / "accuracy.svg").write_text(svg(curves), encoding="utf-8")
    if arguments.json:
        print(json.dumps(runs.results.as_dict()))
    else:
        print(runs.results.derived["table"])
        print(f"\nresults and plot are in {out}")


if __name__ == "__main__":
    main()
