"""SEC (arXiv 2505.14970) on nine categories of three domains, none of them dead: nine ways to choose tasks.

    python recipes/papers/sec/reproduce_domains.py [--quick | --validate] [--seeds 8] [--json | --table]

Each seed has an imitation-trained start of its own, and every cell writes 150,000 completion tokens.
--validate runs the bandit's temperatures and rates on seeds of their own, with a smaller eval set.
README.md has the numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rlcore.analysis.study import CellRun, run_study, show_results, study_arguments
from rlcore.analysis.study_results import StudyResults, markdown, origin, study_table
from rlcore.plugin import import_file
from rlcore.run.folder import read_rows
from rlcore.terminal import one_sentence_errors

HERE = Path(__file__).resolve().parent
RECIPE = str(HERE / "domains.yaml")
STUDY = import_file(HERE / "reproduce.py")
DOMAINS = import_file(HERE / "domains.py")
BY = "by: [domain, rank]"
FILTER = "stages.rl.filter=zero_variance"


def sec(temperature: float, alpha: float, by: str = BY) -> str:
    """The bandit with these settings, as an override."""
    settings = f"temperature: {temperature}, alpha: {alpha}, unsampled: keep"
    return f"stages.rl.curriculum={{use: sec, {by}, {settings}}}"


TEMPERATURE, ALPHA = 0.1, 0.3
"""The best outside among VALIDATION."""
RANDOM = "random"
CELLS: dict[str, tuple[str, ...]] = {
    RANDOM: ("stages.rl.curriculum=uniform",),
    "ordered": ("stages.rl.curriculum={use: ordered, by: rank}",),
    "reverse": ("stages.rl.curriculum={use: ordered, by: rank, reverse: true}",),
    "SEC by rank": (sec(TEMPERATURE, ALPHA, "by: rank"),),
    "SEC by domain and rank": (sec(TEMPERATURE, ALPHA),),
    "SEC by both, filter": (sec(TEMPERATURE, ALPHA), FILTER),
    "random, filter, prefilter": (
        "stages.rl.curriculum=uniform",
        FILTER,
        f"stages.rl.prefilter={{use: greso, {BY}}}",
    ),
    "Thompson": (f"stages.rl.curriculum={{use: thompson, {BY}}}",),
    "nearest to 1/2": (f"stages.rl.curriculum={{use: 'domains.py:NearHalf', {BY}}}",),
}
VALIDATION = {
    f"temperature {temperature}, alpha {alpha}": (sec(temperature, alpha),)
    for temperature in (0.1, 0.2, 0.4)
    for alpha in (0.3, 0.6)
}
VALIDATION_SEEDS = range(100, 102)
SMALL = ("tasks.inside.size=600", "tasks.outside.size=600")
QUICK = (
    *SMALL,
    "stages.sft.steps=100",
    "stages.rl.stop_after_tokens=15000",
    "tasks.course.size=120",
)


def outside(domain: str) -> Callable[[CellRun], float]:
    """Accuracy on the level of a domain that RL never sees."""
    category = {"sums": "5-terms", "countdown": "5-numbers", "sorting": "9-digits"}[domain]
    return lambda run: run.evals["outside"][f"accuracy/{category}"]


def area(run: CellRun) -> float:
    """Mean accuracy on the `course` over the completion tokens of RL, between evaluations on a line."""
    tokens, spent = {}, 0.0
    for row in run.rows:
        spent += row["tokens/completion"]
        tokens[row["step"]] = spent
    points = [(0.0, run.accuracy["start"])]
    for row in read_rows(run.folder / "eval.jsonl"):
        if row.get("during") == "rl":
            points.append((tokens[row["step"]], row["accuracy"]))
    points.append((spent, run.accuracy["course"]))
    total = 0.0
    for (before, low), (after, high) in zip(points, points[1:], strict=False):
        total += (after - before) * (low + high) / 2
    return total / spent


MEASURES: dict[str, Callable[[CellRun], float]] = {
    "inside": lambda run: run.accuracy["inside"],
    "outside": lambda run: run.accuracy["outside"],
    **{f"outside, {domain}": outside(domain) for domain in DOMAINS.LEVELS},
    "area": area,
    "start": lambda run: run.accuracy["start"],
    "tokens": lambda run: run.tokens,
    "steps": lambda run: run.steps,
    "frac_wasted": lambda run: run.frac_wasted,
}


def main() -> None:
    parser = study_arguments(str(__doc__), Path("runs/papers/sec"), seeds=8)
    parser.add_argument("--validate", action="store_true", help="settings of the bandit")
    arguments = parser.parse_args()
    kind = "validation" if arguments.validate else "quick" if arguments.quick else "full"
    folder = arguments.folder / f"domains-{kind}"
    shown = study_table if arguments.validate else table
    if arguments.table:
        print(shown(StudyResults.read(folder / "results.json")))
        return
    seeds = range(1) if arguments.quick else arguments.seeds
    common = QUICK if arguments.quick else ()
    if arguments.validate:
        seeds, common = VALIDATION_SEEDS, SMALL
    results = run_study(
        RECIPE,
        VALIDATION if arguments.validate else cells(common),
        seeds=seeds,
        folder=folder,
        measures=MEASURES,
        common=common,
        start_per_seed=True,
    )
    show_results(results, as_json=arguments.json, table=shown)


def cells(common: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """All cells; those that walk through the tasks in order get as many as the tokens last for."""
    size = f"tasks.problems.size={STUDY.walk_size(RECIPE, common)}"
    walks = {name: (*CELLS[name], size) for name in ("ordered", "reverse")}
    return {**CELLS, **walks}


def table(results: StudyResults) -> str:
    """A row per cell; differences from random in pairs of one start."""
    rows = []
    for cell in results.cells:
        row = [cell]
        for measure in ("inside", "outside", "area"):
            row += [results.summary(cell, measure).text(".1%"), gain(results, cell, measure)]
        row.append(f"{results.summary(cell, 'steps').mean or 0:.0f}")
        row.append(f"{results.summary(cell, 'frac_wasted').mean or 0:.0%}")
        rows.append(row)
    against = "against random"
    headers = ["tasks", "inside", against, "outside", against, "area", against, "steps", "waste"]
    return f"{markdown(headers, rows)}\n\n{origin(results)}"


def gain(results: StudyResults, cell: str, measure: str) -> str:
    """Relative gain over random with the 95% t-interval of the mean difference over the seeds both have."""
    if cell == RANDOM:
        return ""
    base = results.summary(RANDOM, measure).mean
    found = results.difference(cell, RANDOM, measure)
    if base is None or found.mean is None:
        return ""
    if found.half_width is None:
        return f"{found.mean / base:+.0%}"
    return f"{found.mean / base:+.0%} ± {found.half_width / base:.0%}"


if __name__ == "__main__":
    with one_sentence_errors():
        main()
