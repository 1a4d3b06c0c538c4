"""DataEnvGym: does a teacher that sees the student's errors order better data?

    python recipes/papers/dataenvgym/reproduce.py [--quick] [--seeds 3] [--folder F] [--json | --table]

A round orders data, trains the student on all data so far and measures it on the validation set;
the next order follows from that. Every round is a run of its own, so a study that was interrupted
goes on where it stopped. Tables show the test set, which no teacher sees.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from rlcore import train
from rlcore.analysis.study import recipe_settings, show_results, study_arguments
from rlcore.analysis.study_results import StudyResults, markdown, origin
from rlcore.plugin import import_file
from rlcore.recipe.load import load
from rlcore.run.checkpoint import all_checkpoints
from rlcore.run.folder import RunFolder, read_rows
from rlcore.terminal import one_sentence_errors

HERE = Path(__file__).resolve().parent
RECIPE = str(HERE / "round.yaml")
SKILLS = import_file(HERE / "skills.py").SKILLS
TEACHERS = import_file(HERE / "teacher.py").TEACHERS
ROUNDS, BUDGET = 8, 400
QUICK_ROUNDS, QUICK_BUDGET = 2, 64
QUICK = ("stages.sft.steps=10", "tasks.validation.size=4", "tasks.test.size=4")
NOTHING_KNOWN = dict.fromkeys(SKILLS, 0.0)


def main() -> None:
    parser = study_arguments(str(__doc__), Path("runs/papers/dataenvgym"))
    arguments = parser.parse_args()
    folder = arguments.folder / ("quick" if arguments.quick else "full")
    if arguments.table:
        print(table(StudyResults.read(folder / "results.json")))
        return
    rounds, budget = (QUICK_ROUNDS, QUICK_BUDGET) if arguments.quick else (ROUNDS, BUDGET)
    results = study(
        folder,
        seeds=range(1) if arguments.quick else arguments.seeds,
        rounds=rounds,
        budget=budget,
        common=QUICK if arguments.quick else (),
    )
    show_results(results, as_json=arguments.json, table=table)


def study(
    folder: Path, *, seeds: Sequence[int], rounds: int, budget: int, common: tuple[str, ...] = ()
) -> StudyResults:
    """Every teacher with every seed; `budget` examples a round."""
    recipe = load(RECIPE, common)
    settings = {
        "rounds": rounds,
        "budget": budget,
        "recipe": recipe_settings(RECIPE, recipe),
    }
    results = StudyResults.open(
        folder / "results.json", recipe=recipe.name, settings=settings
    )
    for seed in seeds:
        for teacher in TEACHERS:
            results.cell(teacher, [])
            if results.has(teacher, seed, ["accuracy"]):
                continue
            started = time.perf_counter()
            tests = all_rounds(folder, teacher, seed, rounds, budget, common)
            last = tests[-1]
            by_skill = {skill: last[f"accuracy/{skill}"] for skill in SKILLS}
            curve = [(number, row["accuracy"]) for number, row in enumerate(tests, start=1)]
            results.add(
                teacher,
                seed,
                {"accuracy": last["accuracy"], **by_skill},
                curves={"accuracy": curve},
                overrides=[],
                seconds=time.perf_counter() - started,
            )
    results.save()
    return results


def all_rounds(
    folder: Path, teacher: str, seed: int, rounds: int, budget: int, common: tuple[str, ...]
) -> list[dict[str, Any]]:
    """The test row of each round."""
    ordered: Counter[str] = Counter()
    accuracy: Mapping[str, float] = NOTHING_KNOWN
    student: Path | None = None
    tests = []
    for number in range(1, rounds + 1):
        ordered.update(TEACHERS[teacher](accuracy, budget))
        cell = re.sub("[^a-z]+", "_", teacher)
        run = one_round(folder, f"{cell}-{seed}-{number}", student, dict(ordered), seed, common)
        student = all_checkpoints(run.checkpoints)[-1]
        rows = {row["stage"]: row for row in read_rows(run.evals)}
        accuracy = {skill: rows["validation"][f"accuracy/{skill}"] for skill in SKILLS}
        tests.append(rows["test"])
    return tests


def one_round(
    folder: Path,
    name: str,
    student: Path | None,
    ordered: dict[str, int],
    seed: int,
    common: tuple[str, ...],
) -> RunFolder:
    """Train the student of the round before, or a new one, on what was ordered so far."""
    recipe = load(
        RECIPE,
        [
            *common,
            f"run.folder={folder}",
            f"name={name}",
            f"seed={seed}",
            f"tasks.ordered.seed={seed}",
            f"tasks.ordered.counts={json.dumps(ordered)}",
        ],
    )
    if student is not None:
        source = {"path": str(student), "config": None, "tokenizer": None}
        model = recipe.model.model_copy(update=source)
        recipe = recipe.model_copy(update={"model": model})
    train(recipe, resume=True, console=Console(quiet=True))
    return RunFolder(folder / name)


def table(results: StudyResults) -> str:
    """Accuracy on the test set after the last round, over all skills and for each."""
    columns = ["accuracy", *SKILLS]
    rows = [
        [cell, *(results.summary(cell, column).text(".1%") for column in columns)]
        for cell in results.cells
    ]
    return f"{markdown(['teacher', *columns], rows)}\n\n{origin(results)}"


if __name__ == "__main__":
    with one_sentence_errors():
        main()
