"""Speed of dataset decomposition: batches of pieces against chunks of the whole context, in one run and in turn.

    python recipes/papers/dataset_decomposition/speed.py [--quick] [--seeds 3] [--folder F] [--json | --table]

An update reads as many tokens as the context has, on every side. Updates of all lengths alternate with those of
chunks. Time is CPU time of one thread, which other work on the machine changes least.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from accelerate import Accelerator

from rlcore.analysis.study import recipe_settings, show_results, study_arguments
from rlcore.analysis.study_results import StudyResults, study_table
from rlcore.bench.measure import Seconds, alternate
from rlcore.learner.update import Learner
from rlcore.objective import objective
from rlcore.recipe.build import build_tasks
from rlcore.recipe.build_learner import build_encoder, build_policy
from rlcore.recipe.load import load
from rlcore.recipe.schema import Recipe
from rlcore.stages.sft import demonstrate
from rlcore.terminal import one_sentence_errors
from rlcore.types import Sample, Task

RECIPE = str(Path(__file__).with_name("decompose.yaml"))
CELLS = {"context 2048": 2048, "context 8192": 8192}
QUICK_CELLS = {"context 512": 512}
REPEATS, QUICK_REPEATS = 5, 1
MEASURES = ("tokens/s, chunks", "tokens/s, buckets", "ratio", "tokens in whole contexts")
FORMS = {"tokens/s, chunks": ",.0f", "tokens/s, buckets": ",.0f", "tokens in whole contexts": ".1%"}
table = partial(study_table, forms=FORMS)
CHUNKS = "chunks"


def at_context(context: int) -> tuple[str, ...]:
    """Overrides for another context; documents are as long as they are at every one of them."""
    return (
        f"tasks.pieces.form.longest={context}",
        f"tasks.chunks.form.length={context}",
        f"model.config.max_position_embeddings={context + 8}",
        f"engine.max_length={context + 8}",
    )


def batches(recipe: Recipe, context: int) -> tuple[dict[str, list[Task]], dict[str, float]]:
    """A batch of each length and one of chunks, each of `context` tokens, by name; and the fraction of all tokens that
    are in pieces of each length.
    """
    pieces = build_tasks(recipe.tasks["pieces"])
    by_length: dict[int, list[Task]] = {}
    tokens: Counter[int] = Counter()
    for task in pieces:
        length = task.columns["tokens"]
        tokens[length] += length
        batch = by_length.setdefault(length, [])
        if len(batch) * length < context:
            batch.append(task)
    sides = {CHUNKS: [build_tasks(recipe.tasks["chunks"])[0]]}
    for length in sorted(by_length):
        # A bucket with too few pieces for a batch repeats them: the time is the same.
        repeats = context // (length * len(by_length[length])) + 1
        sides[str(length)] = (by_length[length] * repeats)[: context // length]
    total = tokens.total()
    return sides, {str(length): tokens[length] / total for length in tokens}


def speed(
    seconds: dict[str, Sequence[Seconds]], fractions: dict[str, float], context: int
) -> dict[str, float]:
    """Tokens a CPU second of an epoch of chunks and of one of buckets, and the median of their ratio over the rounds."""
    ratios, of_chunks, of_buckets = [], [], []
    for number, chunks in enumerate(seconds[CHUNKS]):
        epoch = sum(
            fraction * seconds[length][number].cpu for length, fraction in fractions.items()
        )
        of_chunks.append(chunks.cpu)
        of_buckets.append(epoch)
        ratios.append(chunks.cpu / epoch)
    return {
        "tokens/s, chunks": context / statistics.median(of_chunks),
        "tokens/s, buckets": context / statistics.median(of_buckets),
        "ratio": statistics.median(ratios),
        "tokens in whole contexts": fractions.get(str(context), 0.0),
    }


def measured(context: int, seed: int, repeats: int) -> dict[str, float]:
    """The values of one context, with a model of its own."""
    recipe = load(RECIPE, [*at_context(context), f"seed={seed}"])
    accelerator = Accelerator(cpu=True)
    policy = build_policy(recipe, None, accelerator)
    encoder = build_encoder(recipe, policy.tokenizer)
    learner = Learner(
        policy, objective("sft"), accelerator=accelerator, lr=1e-3, total_updates=1000
    )
    tasks, fractions = batches(recipe, context)
    sides: dict[str, Callable[[], object]] = {}
    for name, batch in tasks.items():
        samples: list[Sample] = [demonstrate(encoder, task) for task in batch]
        sides[name] = partial(learner.update, samples)
    return speed(alternate(sides, repeats=repeats), fractions, context)


def main() -> None:
    arguments = study_arguments(
        str(__doc__), Path("runs/papers/dataset_decomposition_speed")
    ).parse_args()
    quick = arguments.quick
    folder = arguments.folder / ("quick" if quick else "full")
    if arguments.table:
        print(table(StudyResults.read(folder / "results.json")))
        return
    recipe = load(RECIPE)
    repeats = QUICK_REPEATS if quick else REPEATS
    results = StudyResults.open(
        folder / "results.json",
        recipe=recipe.name,
        settings={"recipe": recipe_settings(RECIPE, recipe), "repeats": repeats},
    )
    for cell, context in (QUICK_CELLS if quick else CELLS).items():
        for seed in range(1) if quick else arguments.seeds:
            if results.has(cell, seed, MEASURES):
                continue
            started = time.perf_counter()
            values = measured(context, seed, repeats)
            results.add(
                cell,
                seed,
                values,
                overrides=at_context(context),
                seconds=time.perf_counter() - started,
            )
    results.save()
    show_results(results, as_json=arguments.json, table=table)


if __name__ == "__main__":
    with one_sentence_errors():
        main()
