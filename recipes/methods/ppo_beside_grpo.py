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

RECIPE = Path(__file__).resolve().parent / "ppo.yaml"
STEPS = 50
STAGE = f"stages.rl.steps={STEPS}"
GROUPS = ("stages.rl.groups_per_step=32", "stages.rl.group_size=16")
NO_CRITIC = ("stages.rl.critic=null",)
CELLS = {
    "GRPO, 32 x 16": (STAGE, *GROUPS, *NO_CRITIC, "stages.rl.method=grpo"),
    "PPO, 32 x 16": (STAGE, *GROUPS),
    "PPO, 512 x 1": (STAGE,),
    "REINFORCE, 512 x 1": (STAGE, *NO_CRITIC, "stages.rl.method=reinforce_pp"),
}
QUICK = (
    "stages.sft.steps=40",
    "tasks.eval_set.size=64",
)


def reward(run: CellRun, first: int, last: int) -> float:
    """Mean training reward of steps first to last of the rl stage, counted from 1."""
    return mean(row["reward"] for row in run.rows[first - 1 : last])


MEASURES = {
    "imitation": lambda run: run.accuracy["before"],
    "steps 1-5": lambda run: reward(run, 1, 5),
    "steps 21-25": lambda run: reward(run, 21, 25),
    "steps 46-50": lambda run: reward(run, 46, 50),
    "held out": lambda run: run.accuracy["after"],
    "critic": lambda run: mean(row.get("critic/explained_variance", 0.0) for row in run.rows[-5:]),
    "seconds a step": lambda run: mean(row["time/step"] for row in run.rows),
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
