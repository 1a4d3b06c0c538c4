"""Instruction residual: does adding it to a continued model bring its instructions back?

    python recipes/papers/instruction_residual/reproduce.py [--quick] [--seeds 1] [--folder F] [--json | --table]

An instruct model is trained on a first text, which makes the base; the base on a second text, which
makes the continued model; and that plus (instruct - base) is the restored model. Beside them stands
the instruct model trained on the second text. Every training and every evaluation is a run of its
own, so a study that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from rlcore import train
from rlcore.analysis.study import recipe_settings, show_results, study_arguments
from rlcore.analysis.study_results import StudyResults, markdown, origin
from rlcore.learner.policy import load_policy
from rlcore.recipe.build import build_tasks
from rlcore.recipe.build_learner import starting_point
from rlcore.recipe.load import load
from rlcore.recipe.schema import Recipe
from rlcore.run.checkpoint import all_checkpoints
from rlcore.run.folder import RunFolder, read_rows
from rlcore.run.merged import merge_models
from rlcore.terminal import one_sentence_errors

HERE = Path(__file__).resolve().parent
CELLS = ("instruct", "base", "continued", "restored", "instruct, continued")
MEASURES = ("accuracy", "share", "first", "second")
EVAL = "instructions"


def main() -> None:
    parser = study_arguments(str(__doc__), Path("runs/papers/instruction_residual"), seeds=1)
    arguments = parser.parse_args()
    folder = arguments.folder / ("quick" if arguments.quick else "full")
    if arguments.table:
        print(table(StudyResults.read(folder / "results.json")))
        return
    recipe = HERE / ("quick.yaml" if arguments.quick else "smollm2.yaml")
    results = study(recipe, folder, seeds=arguments.seeds)
    show_results(results, as_json=arguments.json, table=table)


def study(
    recipe: Path, folder: Path, *, seeds: Sequence[int], common: Sequence[str] = ()
) -> StudyResults:
    """All cells with every seed."""
    resolved = load(str(recipe), common)
    settings = {"recipe": recipe_settings(str(recipe), resolved)}
    results = StudyResults.open(
        folder / "results.json", recipe=resolved.name, settings=settings
    )
    for cell in CELLS:
        results.cell(cell, [])
    for seed in seeds:
        unfinished = [cell for cell in CELLS if not results.has(cell, seed, MEASURES)]
        if not unfinished:
            continue
        seeded = load(
            str(recipe), [*common, f"run.folder={folder / f'seed-{seed}'}", f"seed={seed}"]
        )
        models = trained(seeded)
        for cell in unfinished:
            started = time.perf_counter()
            values = measured(seeded, cell, models[cell])
            seconds = time.perf_counter() - started
            results.add(cell, seed, values, curves={}, overrides=[], seconds=seconds)
    results.save()
    return results


def trained(recipe: Recipe) -> dict[str, Path | None]:
    """The model of each cell; None is the one that the recipe names."""
    own = any(stage.name == "instruct" for stage in recipe.stages)
    instruct = on_text(recipe, "instruct", "instruct", None) if own else None
    base = on_text(recipe, "base", "base", instruct)
    continued = on_text(recipe, "continued", "continued", base)
    restored = Path(recipe.run.folder) / "restored"
    if not restored.exists():
        names = [str(continued), str(instruct or starting_point(recipe.model.path))]
        merge_models(names, restored, "residual", base=str(base))
    return {
        "instruct": instruct,
        "base": base,
        "continued": continued,
        "restored": restored,
        "instruct, continued": on_text(recipe, "instruct_continued", "continued", instruct),
    }


def on_text(recipe: Recipe, name: str, stage: str, start: Path | None) -> Path:
    """The checkpoint of one training stage, from `start`, in a run folder `name`."""
    plain = recipe.prompt.model_copy(update={"format": "plain"})
    return all_checkpoints(run(recipe, name, stage, start, prompt=plain).checkpoints)[-1]


def run(recipe: Recipe, name: str, stage: str, start: Path | None, **keys: object) -> RunFolder:
    """One stage of the recipe as a run of its own."""
    stages = [each for each in recipe.stages if each.name == stage]
    part = recipe.model_copy(update={"name": name, "stages": stages, **keys})
    train(
        part.model_copy(update={"model": at(recipe, start)}),
        resume=True,
        console=Console(quiet=True),
    )
    return RunFolder(Path(recipe.run.folder) / name)


def at(recipe: Recipe, start: Path | None) -> object:
    """The recipe's model section, with a folder in place of its model."""
    if start is None:
        return recipe.model
    return recipe.model.model_copy(
        update={"path": str(start), "config": None, "tokenizer": None}
    )


def measured(recipe: Recipe, cell: str, model: Path | None) -> dict[str, float]:
    """Instructions followed, and the loss on held-out pieces of both texts, in nats a token."""
    name = "eval_" + cell.replace(", ", "_")
    row = read_rows(run(recipe, name, EVAL, model).evals)[-1]
    policy = load_policy(path=str(model or starting_point(recipe.model.path)), device="cpu")
    losses = {}
    for text in ("first", "second"):
        tasks = build_tasks(recipe.tasks[f"{text}_heldout"])
        ids = [
            policy.tokenizer(f"{task.prompt}{task.demonstration}")["input_ids"]
            for task in tasks
        ]
        logprobs = [value for values, _ in policy.read(ids) for value in values]
        losses[text] = -sum(logprobs) / len(logprobs)
    return {"accuracy": row["accuracy"], "share": row["reward/share"], **losses}


def table(results: StudyResults) -> str:
    """Instructions followed, all of a prompt and the share of them; losses on held-out text."""
    forms = {"accuracy": ".1%", "share": ".1%", "first": ".3f", "second": ".3f"}
    rows = [
        [cell, *(results.summary(cell, name).text(form) for name, form in forms.items())]
        for cell in results.cells
    ]
    names = ["model", "instructions followed", "share", "loss, first text", "loss, second text"]
    return f"{markdown(names, rows)}\n\n{origin(results)}"


if __name__ == "__main__":
    with one_sentence_errors():
        main()
