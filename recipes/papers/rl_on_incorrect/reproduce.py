"""RL on incorrect synthetic data (arXiv 2406.14532) in miniature: accuracy by number of problems.

    python recipes/papers/rl_on_incorrect/reproduce.py [--task chain | spurious] --quick
    python recipes/papers/rl_on_incorrect/reproduce.py [--seeds 5] [--out runs/mine] [--json | --table]

A tiny model imitates a weak teacher (`base`); SFT on the right solutions of D problems (`sft`) starts
from it, and every other method from that SFT model and the same D problems. Each method, SFT too, has
a few settings to choose from: for each D, the setting with the best mean accuracy on validation
problems is the one whose accuracy on the eval set is reported. The data-efficiency factor of a method
is how many times more problems SFT needs for the accuracy that the method has with D. Writes
results.json and accuracy.svg to the folder.

chain: a teacher who forgets carries in any of seven steps. spurious: hints that are mostly right in the
D problems, and in the eval set as often wrong.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from rich.console import Console

from rlcore.analysis.study import seed_numbers
from rlcore.analysis.study_results import StudyResults, origin
from rlcore.plugin import import_file
from rlcore.recipe.load import dump, load
from rlcore.run.driver import train
from rlcore.run.folder import read_rows
from rlcore.terminal import one_sentence_errors

HERE = Path(__file__).resolve().parent
efficiency = import_file(HERE / "efficiency.py")
EVALUATIONS = ("validation", "eval_set")
COPIED = "copied"
Curve = efficiency.Curve
Options = dict[str, dict[int, dict[str, float]]]  # setting -> seed -> value by measure


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


@dataclass(frozen=True)
class StudyTask:
    """What the problems are, and what is tried on them."""

    base: Sequence[str]
    """Changes of the recipe `base`."""
    changes: Sequence[str]
    """Of all other recipes."""
    sft: Method
    methods: dict[str, Method]
    sft_sizes: Sequence[int]
    sizes: Sequence[int]
    quick: Sequence[str]
    """Methods of `--quick`, each with the first of its values."""
    start: str | None = None
    """Setting of the SFT model that methods start from; default: the best one."""
    tasks: int = 512
    """Of the eval set."""


BETA = "stages.offline.objective.beta"
OFFLINE, PREFER, RL = (f"stages.{stage}.optim.lr" for stage in ("offline", "prefer", "rl"))
SPLIT = "split: {use: delimiter, at: ';'}, completions: all"
ONE = f"stages.drawn.steps={{rollouts: 1, {SPLIT}}}"
CHAIN = StudyTask(
    base=(),
    changes=(),
    sft=Method("sft", "stages.sft.steps", ("40", "120")),
    methods={
        "rft": Method("rft", OFFLINE, ("1e-4", "3e-5")),
        "advantage-weighted": Method("advantage_weighted", BETA, ("0.1", "0.3")),
        "advantage-weighted, 1 rollout": Method("advantage_weighted", BETA, ("0.1", "0.3"), (ONE,)),
        "dpo, whole answers": Method("dpo", PREFER, ("1e-5", "4e-5")),
        "dpo, first pit": Method("first_pit", PREFER, ("1e-5", "4e-5")),
        "grpo": Method("grpo", RL, ("1e-4", "3e-5")),
        "grpo, per step": Method("grpo_per_step", RL, ("1e-4", "3e-5")),
    },
    sft_sizes=(2, 4, 8, 16, 32, 64, 128, 256),
    sizes=(4, 16, 64),
    quick=("rft", "advantage-weighted", "advantage-weighted, 1 rollout"),
)
"""With one rollout per step the step values are noise."""


def _hinted(name: str, **keys: object) -> str:
    listed = "".join(f", {key}: {value}" for key, value in keys.items())
    return f'tasks.{name}={{use: "spurious.py:sums"{listed}}}'


VALUED = f"stages.drawn.steps={{rollouts: 8, best_of: 5, {SPLIT}}}"
"""A step is worth what the best of 5 attempts gives from there, estimated with 8: as in the paper."""
SCORED = 'stages.eval_set.rewards=[{use: exact, after: "="}, {use: "spurious.py:copied", weight: 0, optional: true}]'
EVALUATED = (_hinted("validation", seed=900, size=512), _hinted("eval_set", split="heldout", size=2000), SCORED)  # fmt: skip
RFT = ("stages.offline.steps=60",)
AW = (*RFT, "stages.drawn.demonstrations=true", f"{BETA}=0.3", "stages.offline.if_empty=skip")
SKIP = "stages.prefer.if_empty=skip"
"""Where all completions of the D problems are right there is nothing to compare, and the model stays as it is."""
SPURIOUS = StudyTask(
    base=(_hinted("demonstrations", seed=1, copies=0.5), "stages.sft.steps=1000", *EVALUATED),
    changes=(_hinted("problems", hints_right=0.9), *EVALUATED),
    sft=Method("sft", "stages.sft.steps", ("8", "15", "60")),
    methods={
        "rft, 4 distinct": Method("rft", OFFLINE, ("1e-4", "3e-4"), RFT),
        "rft, all": Method("rft", OFFLINE, ("1e-4", "3e-4"), (*RFT, "stages.offline.distinct=null")),
        "dpo, whole": Method("dpo", PREFER, ("4e-5", "8e-5"), (SKIP,)),
        "dpo, by edit distance": Method("dpo", PREFER, ("4e-5", "8e-5"), (SKIP, 'stages.prefer.pairs="spurious.py:farthest"')),
        "dpo, first pit": Method("first_pit", PREFER, ("4e-5", "8e-5"), (SKIP, VALUED)),
        "dpo, first pit, 1 rollout": Method("first_pit", PREFER, ("4e-5", "8e-5"), (SKIP, ONE)),
        "dpo, shared prefix": Method("shared_prefix", PREFER, ("4e-5", "8e-5"), (SKIP, VALUED)),
        "dpo, shared prefix, 1 rollout": Method("shared_prefix", PREFER, ("4e-5", "8e-5"), (SKIP, ONE)),
        "advantage-weighted": Method("advantage_weighted", OFFLINE, ("1e-4", "3e-4"), (*AW, VALUED)),
        "advantage-weighted, 1 rollout": Method("advantage_weighted", OFFLINE, ("1e-4", "3e-4"), (*AW, ONE)),
    },
    sft_sizes=(2, 4, 8, 16, 32, 64, 128, 256, 512),
    sizes=(4, 8, 16, 32),
    quick=("rft, all", "advantage-weighted", "advantage-weighted, 1 rollout"),
    start="8",
    tasks=2000,
)  # fmt: skip
TASKS = {"chain": CHAIN, "spurious": SPURIOUS}


class Runs:
    """Trains what is not in the study's results yet."""

    def __init__(self, out: Path, task: StudyTask = CHAIN) -> None:
        self.folder = out / "runs"
        self.task = task
        settings = {}
        methods = [task.sft, *task.methods.values()]
        recipes = {"base": task.base, **{method.recipe: task.changes for method in methods}}
        for recipe, changes in sorted(recipes.items()):
            text = dump(load(str(HERE / f"{recipe}.yaml"), changes)).replace(f"{HERE}/", "")
            settings[f"sha256 of {recipe}"] = sha256(text.encode()).hexdigest()
        self.results = StudyResults.open(
            out / "results.json", recipe="rl_on_incorrect", settings=settings
        )

    def measured(
        self, recipe: str, cell: str, seed: int, changes: Sequence[str]
    ) -> dict[str, float]:
        """Accuracy by evaluation of a recipe with these changes, and how many wrong hints were copied; the run is `cell`-`seed`."""
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
            rows = {row["stage"]: row for row in read_rows(self.folder / name / "eval.jsonl")}
            values = {stage: row["accuracy"] for stage, row in rows.items()}
            if f"reward/{COPIED}" in rows["eval_set"]:
                values[COPIED] = rows["eval_set"][f"reward/{COPIED}"]
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
    options: Options = {value: {} for value in method.values}
    for seed in seeds:
        for value in method.values:
            changes = [
                f"model.path={runs.folder / start[seed]}",
                f"seed={seed}",
                *runs.task.changes,
                f"tasks.problems.seed={100 + seed}",
                f"tasks.problems.size={size}",
                *method.changes,
                f"{method.key}={value}",
            ]
            cell = f"{name}-{size}-{value}"
            options[value][seed] = runs.measured(method.recipe, cell, seed, changes)
    return options


@dataclass
class Measured:
    """By method, size and seed."""

    accuracy: dict[str, Curve]
    copied: dict[str, Curve]
    settings: dict[str, dict[int, str]]
    """The one that was chosen, by method and size."""


def measure(runs: Runs, seeds: Sequence[int], *, quick: bool) -> Measured:
    """Every method on the eval set. The base model counts as SFT on no problem."""
    task = runs.task
    methods, sft_sizes, sizes = task.methods, task.sft_sizes, task.sizes
    if quick:
        methods = {name: task.methods[name].first_value() for name in task.quick}
        sft_sizes, sizes = (8, 32), (8,)
    found = Measured({}, {}, {})
    bases = {}
    for seed in seeds:
        number = 0 if quick else seed
        bases[seed] = f"base-{number}"
        changes = (*task.base, f"seed={number}", f"tasks.demonstrations.seed={number + 1}")
        _keep(found, "sft", 0, {seed: runs.measured("base", "base", number, changes)})
    for size in sorted({*sft_sizes, *sizes}):
        at_size = {"sft": task.sft} | (methods if size in sizes else {})
        start = bases
        for method, definition in at_size.items():
            name = method.replace(", ", "-").replace(" ", "_")
            options = try_settings(runs, definition, name, size, seeds, start)
            best = chosen(options)
            found.settings.setdefault(method, {})[size] = best
            _keep(found, method, size, options[best])
            if method == "sft":  # all other methods start from this model
                start = {seed: f"sft-{size}-{task.start or best}-{seed}" for seed in seeds}
    return found


def _keep(found: Measured, method: str, size: int, values: dict[int, dict[str, float]]) -> None:
    for curves, key in ((found.accuracy, "eval_set"), (found.copied, COPIED)):
        own = {seed: of_run[key] for seed, of_run in values.items() if key in of_run}
        curves.setdefault(method, {}).setdefault(size, {}).update(own)


def show(runs: Runs, found: Measured) -> str:
    """The table of what was measured, which also goes to results.json, and the drawing beside it."""
    summaries = efficiency.factors(found.accuracy, tasks=runs.task.tasks)
    has_hints = any(rates for curve in found.copied.values() for rates in curve.values())
    text = efficiency.table(found.accuracy, summaries, found.copied if has_hints else None)
    runs.results.derived = {
        "accuracy": found.accuracy,
        "factors": summaries,
        "chosen": found.settings,
        "table": f"{text}\n\n{origin(runs.results)}",
    }
    runs.results.save()
    drawing = efficiency.svg(found.accuracy)
    (runs.folder.parent / "accuracy.svg").write_text(drawing, encoding="utf-8")
    return str(runs.results.derived["table"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=TASKS, default="chain", help="what the problems are")
    parser.add_argument(
        "--quick", action="store_true", help="one base model, three methods at one size"
    )
    parser.add_argument(
        "--seeds", type=seed_numbers, default="5", help="how many, from 0 on, or which: 3-4"
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
    name = f"rl_on_incorrect_{arguments.task}{'_quick' if arguments.quick else ''}"
    out = arguments.out or Path("runs") / name
    if arguments.table:
        print(StudyResults.read(out / "results.json").derived["table"])
        return
    runs = Runs(out, TASKS[arguments.task])
    seeds = range(1) if arguments.quick else arguments.seeds
    text = show(runs, measure(runs, seeds, quick=arguments.quick))
    if arguments.json:
        print(json.dumps(runs.results.as_dict()))
        return
    print(text)
    print(f"\nresults and plot are in {out}")


if __name__ == "__main__":
    with one_sentence_errors():
        main()
