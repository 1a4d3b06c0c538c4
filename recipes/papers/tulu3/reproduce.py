"""Tülu 3 small: imitation, preferences, verifiable rewards, and what each adds on held-out problems.

    python recipes/papers/tulu3/reproduce.py [--quick] [--seeds 5] [--folder F] [--json | --table]

All cells of a seed continue from the same imitation. README.md has the numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rlcore.analysis.study import CellRun, study_main
from rlcore.analysis.study_results import StudyResults, markdown, origin
from rlcore.recipe.load import load

ONLY_RLVR = tuple(
    f"stages.{stage}=null"
    for stage in ("drawn", "dpo", "after_dpo", "rlvr_words", "after_second")
)
CELLS = {
    "SFT, DPO, RLVR twice": (),
    "SFT, RLVR": ONLY_RLVR,
    "KL 0.01": (*ONLY_RLVR, "stages.rlvr.objective.kl=0.01"),
    "KL 0.2": (*ONLY_RLVR, "stages.rlvr.objective.kl=0.2"),
    "no penalty": (*ONLY_RLVR, "stages.rlvr.aggregate=sum"),
}
QUICK = (
    "stages.written.limit=16",
    "stages.sft.steps=2",
    "stages.drawn.limit=16",
    "stages.dpo.steps=1",
    "stages.dpo.batch_size=4",
    "stages.rlvr.steps=1",
    "stages.rlvr_words.steps=1",
    "tasks.words_heldout.limit=12",
    "tasks.constraints_heldout.size=12",
)
STAGES = {
    "before": "before",
    "after SFT": "after_sft",
    "after DPO": "after_dpo",
    "after RLVR": "after_rlvr",
    "after RLVR again": "after_second",
}
SKILLS = {
    "words": "accuracy/words_heldout",
    "constraints": "accuracy/constraints_heldout",
    "both": "accuracy",
}
UNFINISHED = "unfinished"
"""Held-out completions without an end."""


def measured(stage: str, key: str) -> Callable[[CellRun], float | None]:
    """A value of an evaluation; None in a cell without it."""
    return lambda run: run.evals[stage][key] if stage in run.evals else None


def kl(run: CellRun) -> float:
    """KL to the model that RLVR began with, nats a token, over its last quarter of steps."""
    stages = load(str(run.folder / "recipe.yaml")).stages
    beta = next(stage.objective["kl"] for stage in stages if stage.label == "rlvr")
    rows = [row["loss/kl"] for row in run.rows if row["stage"] == "rlvr"]
    last = rows[-max(1, len(rows) // 4) :]
    return sum(last) / len(last) / beta


MEASURES: dict[str, Callable[[CellRun], float | None]] = {
    f"{name} {label}": measured(stage, key)
    for label, stage in STAGES.items()
    for name, key in (SKILLS | {UNFINISHED: "completions/frac_truncated"}).items()
}
MEASURES["KL in RLVR"] = kl

WHOLE = "SFT, DPO, RLVR twice"
ROWS = {
    "start": (WHOLE, "before", None),
    "SFT": (WHOLE, "after SFT", "before"),
    "SFT, DPO": (WHOLE, "after DPO", "after SFT"),
    "SFT, DPO, RLVR": (WHOLE, "after RLVR", "after DPO"),
    "SFT, DPO, RLVR twice": (WHOLE, "after RLVR again", "after RLVR"),
    **{cell: (cell, "after RLVR", "after SFT") for cell in CELLS if cell != WHOLE},
}
"""Row of the table -> cell, stage, and the stage that it is compared with."""


def table(results: StudyResults) -> str:
    """A row per stage of the whole recipe, then one per further cell: accuracy, and in how many seeds it rose."""
    lines = []
    for label, (cell, stage, before) in ROWS.items():
        if cell not in results.cells:
            continue
        line = [label]
        for skill in SKILLS:
            line.append(results.summary(cell, f"{skill} {stage}").text(".1%"))
            if before is not None:
                pairs = zip(
                    results.values(cell, f"{skill} {before}"),
                    results.values(cell, f"{skill} {stage}"),
                    strict=True,
                )
                rose = [None not in pair and pair[0] < pair[1] for pair in pairs]
                line[-1] += f" ({sum(rose)} of {len(rose)})"
        line.append(results.summary(cell, f"{UNFINISHED} {stage}").text(".1%"))
        line.append(results.summary(cell, "KL in RLVR").text() if stage == "after RLVR" else "")
        lines.append(line)
    headers = ["", *SKILLS, UNFINISHED, "KL, nats a token"]
    return f"{markdown(headers, lines)}\n\n{origin(results)}"


if __name__ == "__main__":
    recipe = Path(__file__).with_name("tulu3.yaml")
    study_main(str(__doc__), recipe, CELLS, MEASURES, quick=QUICK, first="drawn", table=table)
