"""MeCo: documents behind the URL of their source, and a last tenth without it, against plain next-token training.

    python recipes/papers/meco/reproduce.py [--quick] [--seeds 3] [--folder F] [--json | --table]

Losses are in nats per token (a byte) of held-out documents, with 16 to 48 characters to read before a token (short) or
320 and more (long), without metadata, behind the document's own URL and behind that of another source.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from rlcore.analysis.study import CellRun, study_main
from rlcore.analysis.study_results import StudyResults, study_table
from rlcore.learner.policy import Policy, load_policy
from rlcore.recipe.build import build_tasks
from rlcore.recipe.load import load
from rlcore.run.checkpoint import all_checkpoints
from rlcore.types import Task

RECIPE = Path(__file__).with_name("meco.yaml")
STEPS, QUICK_STEPS = 81, 9
PLAIN = "stages.sft.transform=null"


def cells(steps: int) -> dict[str, tuple[str, ...]]:
    return {
        "plain": (PLAIN,),
        "plain, two thirds of the tokens": (PLAIN, f"stages.sft.steps={2 * steps // 3}"),
        "MeCo": (),
        "MeCo without cooldown": ("stages.sft.transform.cooldown=0.0",),
    }


CELLS = cells(STEPS)
SHORT, LONG = slice(0, 32), slice(304, None)
"""Of the predicted characters of a piece, which begin after 16 to read."""
ALL = slice(0, None)


@cache
def losses(run: Path) -> dict[str, list[list[float]]]:
    """`token_losses` of the held-out pieces under the run's last checkpoint."""
    tasks = build_tasks(load(str(RECIPE)).tasks["heldout"])
    return token_losses(load_policy(path=str(all_checkpoints(run / "checkpoints")[-1])), tasks)


def token_losses(policy: Policy, tasks: Sequence[Task]) -> dict[str, list[list[float]]]:
    """Loss of each predicted token of each piece, nats, [pieces][tokens], by what stands before the piece."""

    def ids(text: str) -> list[int]:
        return policy.tokenizer(text, add_special_tokens=False).input_ids

    read = {}
    for kind, before in prefixes(tasks).items():
        sequences, starts = [], []
        for task, prefix in zip(tasks, before, strict=True):
            prompt = ids(f"{prefix}{task.prompt}")
            sequences.append([*prompt, *ids(str(task.demonstration))])
            starts.append(len(prompt))
        logprobs = [values for values, _ in policy.read(sequences, starts=starts)]
        read[kind] = [[-value for value in values] for values in logprobs]
    return read


def prefixes(tasks: Sequence[Task]) -> dict[str, list[str]]:
    """What stands before each piece: nothing, its URL, or that of the next source in the alphabet."""
    urls = sorted({task.columns["url"] for task in tasks})
    own = [task.columns["url"] for task in tasks]
    other = [urls[(urls.index(url) + 1) % len(urls)] for url in own]
    return {
        "no": [""] * len(own),
        "own": [f"URL: {url}\n\n" for url in own],
        "another": [f"URL: {url}\n\n" for url in other],
    }


def loss(kind: str, part: slice) -> Callable[[CellRun], float]:
    def mean(run: CellRun) -> float:
        values = [value for piece in losses(run.folder)[kind] for value in piece[part]]
        return sum(values) / len(values)

    return mean


MEASURES = {
    "thousand tokens trained": lambda run: sum(row["tokens/trained"] for row in run.rows) / 1000,
    "no metadata": loss("no", ALL),
    "no metadata, short": loss("no", SHORT),
    "no metadata, long": loss("no", LONG),
    "own URL": loss("own", ALL),
    "own URL, short": loss("own", SHORT),
    "another URL": loss("another", ALL),
}
QUICK = ("tasks.documents.per_source=8", f"stages.sft.steps={QUICK_STEPS}")


def worth(results: StudyResults) -> list[float]:
    """By seed: plain tokens that lead to MeCo's loss without metadata, as a fraction of those that MeCo had.

    On the line through the two plain runs' losses over the logarithm of their tokens. Above 1, MeCo saves tokens.
    """
    losses_of = {cell: results.values(cell, "no metadata") for cell in results.cells}
    fractions = []
    for full, fewer, meco in zip(
        losses_of["plain"],
        losses_of["plain, two thirds of the tokens"],
        losses_of["MeCo"],
        strict=True,
    ):
        steps_down = (fewer - meco) / (fewer - full)
        fractions.append((2 / 3) ** (1 - steps_down))
    return fractions


def table(results: StudyResults) -> str:
    """The study's table, and below it what MeCo's loss is worth in plain tokens."""
    text = study_table(results, {"thousand tokens trained": ".0f"})
    if len({len(cell.runs) for cell in results.cells.values()}) > 1:
        return text  # a study that is under way
    shown = ", ".join(f"{fraction:.2f}" for fraction in worth(results))
    return f"{text}\n\nPlain tokens to MeCo's loss without metadata, over MeCo's tokens, by seed: {shown}."


if __name__ == "__main__":
    study_main(
        str(__doc__),
        RECIPE,
        cells(QUICK_STEPS) if "--quick" in sys.argv else CELLS,
        MEASURES,
        quick=QUICK,
        first="sft",
        table=table,
    )
