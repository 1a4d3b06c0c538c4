"""Train Long, Think Short (arXiv 2508.08940) on a tiny model: a falling token budget against the
final one from the start, for as many steps and for as many tokens.

    python recipes/papers/train_long_think_short/reproduce.py [--quick] [--seeds 3] [--folder F] [--json | --table]

The demonstrations (forms.py) show sums in three lengths; the shorter the solution, the more often
its teacher forgets the carry. The model that imitates them roughly follows the budget in its
prompt, and is mostly wrong where the budget is small. All cells are evaluated with the final budget
stated. The paper reports, with a 7B model: 86.2% at 89 tokens for the curriculum, 82.7% at 87 for
the fixed budget."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from rlcore.analysis.study import CellRun, study_main
from rlcore.analysis.study_results import study_table

FINAL = 23
FIXED = f"stages.rl.budget={{use: fixed, tokens: {FINAL}}}"
CELLS = {
    "46, 32, 23": (),
    "23 from the start": (FIXED,),
    # 258,000 completion tokens are what the falling budget takes in 60 steps.
    "23 from the start, equal tokens": (
        FIXED,
        "stages.rl.steps=1000",
        "stages.rl.stop_after_tokens=258000",
    ),
}
QUICK = ("stages.rl.steps=15",)
MEASURES: dict[str, Callable[[CellRun], float]] = {
    "right": lambda run: run.accuracy["eval_set"],
    "tokens of a completion": lambda run: run.length["eval_set"],
    "completion tokens in training": lambda run: run.tokens,
    "steps": lambda run: run.steps,
}
FORMS = {
    "right": ".1%",
    "tokens of a completion": ".2f",
    "completion tokens in training": ",.0f",
    "steps": ".0f",
}
table = partial(study_table, forms=FORMS)

if __name__ == "__main__":
    study_main(
        str(__doc__),
        Path(__file__).with_name("sums.yaml"),
        CELLS,
        MEASURES,
        quick=QUICK,
        table=table,
    )
