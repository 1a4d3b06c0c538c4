"""RLPT small: saying the next line of a text after a thought, against next-token training on as
many tokens and against nothing, then RLVR.

    python recipes/papers/rlpt/reproduce.py [--quick] [--seeds 3] [--folder F] [--json | --table]

As many tokens: RLPT's prompts, each counted for all its completions, and the completions. Replay:
every other text is a demonstration of the cold start.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rlcore.analysis.study import CellRun, study_main
from rlcore.analysis.study_results import StudyResults, markdown, origin

NEXT_TOKEN = (
    "stages.rl={{kind: sft, name: rl, tasks: {}, steps: 235, batch_size: 128, "
    "optim: {{lr: {}, schedule: cosine, warmup_steps: 20}}}}"
)
STRICT = 'stages.rl.rewards=[{use: "rewards.segment:segment", tag: n}]'
CELLS = {
    "RLPT": (),
    "next-token training": (NEXT_TOKEN.format("texts", "1e-3"),),
    "nothing": ("stages.rl=null",),
    "next-token training, 3e-4": (NEXT_TOKEN.format("texts", "3e-4"),),
    "next-token training, 3e-3": (NEXT_TOKEN.format("texts", "3e-3"),),
    "next-token training and replay": (
        NEXT_TOKEN.format("mixed", "1e-3"),
        "stages.rl.curriculum={use: mixture, weights: {texts: 1, demonstrations: 1}}",
    ),
    "RLPT, strict reward": (STRICT,),
    "RLPT, ASR only": ("tasks.read.form.msr_share=0.0",),
    "RLPT, MSR only": ("tasks.read.form.msr_share=1.0",),
    "RLPT, 20 steps": ("stages.rl.steps=20",),
    "RLPT, 40 steps": ("stages.rl.steps=40",),
    "RLPT, 160 steps": ("stages.rl.steps=160",),
    "other rule, RLPT": ("tasks.read.path=texts.py:other_ledgers", "tasks.read.form.msr_share=0.0"),
    "other rule, next-token training": (
        "tasks.texts.path=texts.py:other_ledgers",
        NEXT_TOKEN.format("texts", "1e-3"),
    ),
}
QUICK = ("RLPT", "next-token training", "nothing")
EVALS = {"sums, worked": "sums", "sums, at once": "at_once", "ASR": "asr", "MSR": "msr", "other rule": "other"}


def accuracy(stage: str) -> Callable[[CellRun], float]:
    return lambda run: run.accuracy[stage]


def tokens(run: CellRun) -> float:
    """Tokens read and generated before RLVR."""
    total = 0
    for row in run.rows:
        if row["stage"] == "rl":
            generated = row.get("tokens/completion", row["tokens/trained"])
            total += row.get("tokens/prompt", 0) + generated
    return total


MEASURES: dict[str, Callable[[CellRun], float]] = {"tokens": tokens}
for label, stage in EVALS.items():
    for when in ("before", "after"):
        MEASURES[f"{label}: {when}"] = accuracy(f"{stage}_{when}")
MEASURES["other rule, at once: after"] = accuracy("other_at_once_after")
MEASURES["sums, worked: after RLVR"] = accuracy("sums_rlvr")

COLUMNS = {
    "sums, worked": "sums, worked: after",
    "sums, at once": "sums, at once: after",
    "ASR": "ASR: after",
    "MSR": "MSR: after",
    "other rule": "other rule: after",
    "after RLVR, worked": "sums, worked: after RLVR",
}


def table(results: StudyResults) -> str:
    """A row per cell. The first is the cold start, the last column says what RLVR gained by the stage before it."""
    after_rlvr = COLUMNS["after RLVR, worked"]
    alone = "nothing"
    first = next(iter(results.cells))
    before = [results.summary(first, f"{name.removesuffix(': after')}: before") for name in list(COLUMNS.values())[:-1]]
    rows = [["before", "", *(one.text() for one in before), "", ""]]
    for cell in results.cells:
        row = [cell, f"{(results.summary(cell, 'tokens').mean or 0) / 1e6:.2f}"]
        row += [results.summary(cell, measure).text() for measure in COLUMNS.values()]
        gain = results.difference(cell, alone, after_rlvr) if cell != alone else None
        row.append(gain.text("+.3f").replace("± +", "± ") if gain and gain.mean is not None else "")
        rows.append(row)
    headers = ["", "tokens, millions", *COLUMNS, "against RLVR alone"]
    return f"{markdown(headers, rows)}\n\n{origin(results)}"


if __name__ == "__main__":
    recipe = Path(__file__).with_name("rlpt.yaml")
    study_main(str(__doc__), recipe, CELLS, MEASURES, quick_cells=QUICK, table=table)
