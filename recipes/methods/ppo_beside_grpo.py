"""PPO beside GRPO and REINFORCE on the quickstart's sums, 512 completions a step in every cell.

    python recipes/methods/ppo_beside_grpo.py [--quick] [--seeds 3] [--folder F] [--json | --table]

A cell has groups (32 tasks, 16 completions each) or 512 different tasks with one completion each.
Each seed imitates the demonstrations from scratch, and all cells of a seed go on from that model.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean

from rlcore.analysis.study import CellRun, study_main
from rlcore.analysis.study_results import StudyResults, markdown, origin

RECIPE = Path(__file__).resolve().parents[1] / "quickstart.yaml"
PPO = ("stages.rl.method=ppo", "stages.rl.critic={minibatches: 4, optim: {lr: 5e-4}}")
ONE = ("stages.rl.groups_per_step=512", "stages.rl.group_size=1")
CELLS = {
    "GRPO, 32 x 16": ("stages.rl.method=grpo",),
    "PPO, 32 x 16": PPO,
    "PPO, 512 x 1": (*PPO, *ONE),
    "REINFORCE, 512 x 1": ("stages.rl.method=reinforce_pp", *ONE),
}
QUICK = ("stages.sft.steps=40", "stages.rl.steps=4", "tasks.eval_set.size=64")


def reward(run: CellRun, steps: slice) -> float:
    """Mean training reward of some steps of the rl stage."""
    return mean(row["reward/mean"] for row in run.rows[steps])


MEASURES = {
    "imitation": lambda run: run.accuracy["before"],
    "first five steps": lambda run: reward(run, slice(5)),
    "last five steps": lambda run: reward(run, slice(-5, None)),
    "held out": lambda run: run.accuracy["after"],
    "critic": lambda run: mean(row.get("critic/explained_variance", 0.0) for row in run.rows[-5:]),
    "seconds a step": lambda run: mean(row["time/total"] for row in run.rows),
}


def table(results: StudyResults) -> str:
    """A row per cell; the critic's column is its explained variance in the last five steps."""
    names = list(MEASURES)
    forms = {"critic": ".2f", "seconds a step": ".1f"}
    rows = [
        [cell, *(results.summary(cell, name).text(forms.get(name, ".3f")) for name in names)]
        for cell in results.cells
    ]
    return f"{markdown(['', *names], rows)}\n\n{origin(results)}"


def main() -> None:
    study_main(str(__doc__), RECIPE, CELLS, MEASURES, quick=QUICK, table=table)


if __name__ == "__main__":
    main()
