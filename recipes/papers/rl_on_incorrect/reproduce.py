"""RL on incorrect synthetic data (arXiv 2406.14532) in miniature: accuracy against the number of problems, method by method.

    python recipes/papers/rl_on_incorrect/reproduce.py --quick           # one base model, three methods at one size
    python recipes/papers/rl_on_incorrect/reproduce.py --out runs/mine --json

A tiny model imitates a teacher who forgets carries (`base`); SFT on the right solutions of D problems (`sft`) starts from it, and
every other method from that SFT model and the same D problems. Each method, SFT too, has a few settings to choose from: for
each D that with the best accuracy on validation problems, mean over seeds, is the one whose accuracy on the eval_set is told. The
data-efficiency factor of a method is how many times more problems SFT needs for the accuracy the method has with D.
Writes table.txt, results.json and accuracy.svg to the folder.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rlcore.analysis.study import mean_spread
from rlcore.recipe.load import load
from rlcore.run.driver import train
from rlcore.run.folder import read_rows
from rlcore.run.plots import panels_svg

HERE = Path(__file__).resolve().parent
LENGTHS = (40, 120)
RATES = ("1e-4", "3e-5")
ONE = "stages.drawn.steps={rollouts: 1, split: {use: delimiter, at: ';'}, completions: all}"
METHODS: dict[str, tuple[str, str, tuple[str, ...], tuple[str, ...]]] = {
    "rft": ("rft", "stages.offline.optim.lr", RATES, ()),
    "advantage-weighted": (
        "advantage_weighted",
        "stages.offline.objective.beta",
        ("0.1", "0.3"),
        (),
    ),
    "advantage-weighted, 1 rollout": (
        "advantage_weighted",
        "stages.offline.objective.beta",
        ("0.1", "0.3"),
        (ONE,),
    ),
    "dpo, whole answers": ("dpo", "stages.prefer.optim.lr", ("1e-5", "4e-5"), ()),
    "dpo, first pit": ("first_pit", "stages.prefer.optim.lr", ("1e-5", "4e-5"), ()),
    "grpo": ("grpo", "stages.rl.optim.lr", RATES, ()),
    "grpo, per step": ("grpo_per_step", "stages.rl.optim.lr", RATES, ()),
}
"""Recipe, the key that is chosen on the validation problems, its values, and other changes. Of SFT it is the number of steps.
With one rollout a step the values are noise."""
QUICK = ("rft", "advantage-weighted", "advantage-weighted, 1 rollout")
"""Methods of `--quick`, each with the first of its values."""
Curve = dict[int, dict[int, float]]  # D -> seed -> accuracy
Run = Callable[[str, str, Sequence[str]], dict[str, float]]


def runner(out: Path) -> Run:
    """(recipe, name, changes) -> accuracy by evaluation; what is done already is not done again."""

    def run(recipe: str, name: str, changes: Sequence[str]) -> dict[str, float]:
        done = out / "runs" / name / "eval.jsonl"
        started = time.perf_counter()
        if not done.is_file() or len(read_rows(done)) < 2:
            settings = [
                f"name={name}",
                f"run.folder={out / 'runs'}",
                "run.keep_checkpoints=1",
                "run.checkpoint_every=100000",
            ]
            loaded = load(str(HERE / f"{recipe}.yaml"), [*settings, *changes])
            train(loaded, overwrite=True, console=Console(file=io.StringIO()))
        found = {row["stage"]: row["accuracy"] for row in read_rows(done)}
        told = ", ".join(f"{stage} {accuracy:.3f}" for stage, accuracy in found.items())
        print(f"{name}: {told} ({time.perf_counter() - started:.0f} s)", flush=True)
        return found

    return run


def chosen(options: dict[str, dict[int, dict[str, float]]]) -> str:
    """The option (-> seed -> accuracy by evaluation) with the best validation accuracy, mean over seeds."""
    return max(
        options,
        key=lambda option: statistics.fmean(
            found["validation"] for found in options[option].values()
        ),
    )


def measure(
    run: Run, seeds: list[int], sft_sizes: list[int], sizes: list[int], *, quick: bool, out: Path
) -> tuple[dict[str, Curve], dict[str, dict[int, str]]]:
    """Exam accuracy of every method by size and seed, and the setting chosen for each. The base model is SFT on no problem."""
    methods = (
        {name: (*of[:2], of[2][:1], of[3]) for name, of in METHODS.items() if name in QUICK}
        if quick
        else METHODS
    )
    curves: dict[str, Curve] = {"sft": {}, **{method: {} for method in methods}}
    settings: dict[str, dict[int, str]] = {method: {} for method in curves}
    bases = {seed: f"base-{0 if quick else seed}" for seed in seeds}
    for seed, base in bases.items():
        number = int(base.removeprefix("base-"))
        curves["sft"].setdefault(0, {})[seed] = run(
            "base", base, (f"seed={number}", f"tasks.demonstrations.seed={number + 1}")
        )["eval_set"]

    def tried(
        name: str,
        recipe: str,
        key: str,
        values: Sequence[str],
        size: int,
        start: dict[int, str],
        more: Sequence[str],
    ):
        options: dict[str, dict[int, dict[str, float]]] = {}
        for value in values:
            for seed in seeds:
                problems = (
                    f"seed={seed}",
                    f"tasks.problems.seed={100 + seed}",
                    f"tasks.problems.size={size}",
                )
                changes = (
                    f"model.path={out / 'runs' / start[seed]}",
                    *problems,
                    *more,
                    f"{key}={value}",
                )
                options.setdefault(value, {})[seed] = run(
                    recipe, f"{name}-{size}-{value}-{seed}", changes
                )
        return options

    for size in sorted({*sft_sizes, *sizes}):
        every = [("sft", "sft", "stages.sft.steps", tuple(map(str, LENGTHS)), ())]
        every += [(method, *methods[method]) for method in methods if size in sizes]
        start = bases
        for method, recipe, key, values, more in every:
            name = method.replace(", ", "-").replace(" ", "_")
            options = tried(name, recipe, key, values, size, start, more)
            best = chosen(options)
            settings[method][size] = best
            curves[method][size] = {seed: options[best][seed]["eval_set"] for seed in seeds}
            if method == "sft":
                start = {seed: f"sft-{size}-{best}-{seed}" for seed in seeds}
    return curves, settings


def needed(sft: dict[int, float], accuracy: float) -> float:
    """Problems SFT needs for an accuracy: linear in log D between the sizes measured, inf above what it reaches.

    sft: size -> accuracy. Noise is taken out by never letting the curve fall. Below its first point the first size counts.
    """
    sizes = sorted(size for size in sft if size)
    best = [max(sft[size] for size in sizes[: i + 1]) for i in range(len(sizes))]
    if accuracy <= best[0]:
        return sizes[0]
    for (low, high), (before, after) in zip(
        zip(sizes, sizes[1:], strict=False), zip(best, best[1:], strict=False), strict=True
    ):
        if before < accuracy <= after:
            return low * (high / low) ** ((accuracy - before) / (after - before))
    return math.inf


def factors(curves: dict[str, Curve]) -> dict[str, dict[str, float | int | None]]:
    """Data-efficiency factor of each method: median, least and largest over sizes and seeds; inf where SFT never gets there."""
    found = {}
    for method in curves.keys() - {"sft"}:
        values = sorted(
            needed({d: by_seed[seed] for d, by_seed in curves["sft"].items()}, accuracy) / size
            for size, by_seed in curves[method].items()
            for seed, accuracy in by_seed.items()
        )
        found[method] = {
            "median": values[len(values) // 2],
            "least": values[0],
            "largest": values[-1],
            "beyond_sft": sum(math.isinf(value) for value in values),
            "of": len(values),
        }
    return found


def show(curves: dict[str, Curve], found: dict[str, dict[str, float | int | None]]) -> Table:
    """Mean and standard deviation over seeds, and the factor with its range."""
    sizes = sorted({size for curve in curves.values() for size in curve})
    table = Table(
        "method",
        *(f"D={size}" for size in sizes),
        "factor (range)",
        title="accuracy on held-out sums, by problems",
    )
    for method, curve in curves.items():
        factor = ""
        if method in found:
            f = found[method]
            factor = f"{f['median']:.2g} ({f['least']:.2g} to {f['largest']:.2g}; {f['beyond_sft']}/{f['of']} beyond SFT)"
        spreads = {size: mean_spread(list(by_seed.values())) for size, by_seed in curve.items()}
        table.add_row(
            method,
            *("{:.3f} ± {:.3f}".format(*spreads[size]) if size in curve else "" for size in sizes),
            factor,
        )
    return table


def svg(curves: dict[str, Curve]) -> str:
    """The means over log2 D; a method measured with one D is a short line there."""
    lines = {
        method: [
            (math.log2(size) + shift, statistics.fmean(by_seed.values()))
            for size, by_seed in sorted(curve.items())
            if size
            for shift in ((0.0, 0.2) if len(curve) == 1 else (0.0,))
        ]
        for method, curve in curves.items()
    }
    title = "accuracy on held-out sums, mean over seeds"
    return panels_svg({title: lines}, x="log2 of the number of problems", y="accuracy", high=1.0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="one base model, three methods at one size"
    )
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for runs, table and plot; runs found there are not repeated",
    )
    arguments = parser.parse_args()
    out = arguments.out or Path(
        "runs/rl_on_incorrect_quick" if arguments.quick else "runs/rl_on_incorrect"
    )
    started = time.perf_counter()
    sft_sizes, sizes = (
        ([8, 32], [8]) if arguments.quick else ([2, 4, 8, 16, 32, 64, 128, 256], [4, 16, 64])
    )
    curves, settings = measure(
        runner(out), [0, 1, 2], sft_sizes, sizes, quick=arguments.quick, out=out
    )
    found = factors(curves)
    result = {
        "accuracy": curves,
        "factors": found,
        "chosen": settings,
        "seconds": round(time.perf_counter() - started, 1),
    }
    text = json.dumps(result).replace(
        "Infinity", "null"
    )  # JSON has no infinity: null is beyond what SFT reaches
    (out / "results.json").write_text(text + "\n")
    (out / "accuracy.svg").write_text(svg(curves))
    with (out / "table.txt").open("w", encoding="utf-8") as file:
        Console(file=file, width=200).print(show(curves, found))
    Console(width=200).print(show(curves, found))
    print(f"{result['seconds']:.0f} s; table, results and plot are in {out}")
    if arguments.json:
        print(text)


if __name__ == "__main__":
    main()
