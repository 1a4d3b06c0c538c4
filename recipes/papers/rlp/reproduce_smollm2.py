"""RLP on real text with SmolLM2-135M: what a remark between brackets tells of the next eight tokens, before and after RL.

    python recipes/papers/rlp/reproduce_smollm2.py [--quick] [--seeds 1] [--folder F] [--json | --table]

Beside it next-token training on the same documents. The thoughts of a text are also compared with thoughts that the
same policy wrote for other texts, cut to the same length. README.md has the numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from rlcore.analysis.study import CellRun, study_main
from rlcore.learner.information_gain import InformationGain
from rlcore.learner.policy import load_policy
from rlcore.recipe.build import TaskSets, policy_rewards
from rlcore.recipe.load import load
from rlcore.run.checkpoint import all_checkpoints
from rlcore.run.stored import read_stored
from rlcore.types import Group, Rollout

BLOCKS = 16
"""Blocks of 128 tokens a step of next-token training: 123,000 in 60 steps, at least as many as RLP reads and writes."""
RATES = ("1e-5",)


def next_token(rate: str) -> str:
    optim = f"{{lr: {rate}, warmup_steps: 5, micro_batch_tokens: 2048}}"
    return f"stages.rl={{kind: sft, name: rl, tasks: blocks, steps: 60, batch_size: {BLOCKS}, optim: {optim}}}"


CELLS = {"RLP": (), **{f"next-token training, {rate}": (next_token(rate),) for rate in RATES}}
PARTS = {"gain": "", "log p with a thought": "/thought", "log p without": "/plain"}
QUICK = (
    "stages.rl.steps=3",
    "stages.before.limit=24",
    "stages.after.limit=24",
    "stages.rl.groups_per_step=4",
)


def part(stage: str, suffix: str) -> Callable[[CellRun], float]:
    """The mean over an evaluation's completions, in nats a text of eight tokens."""
    return lambda run: run.evals[stage][f"reward/information_gain{suffix}"]


def others_thoughts(run: CellRun) -> float:
    """The mean gain after training where each text is read with thoughts that the same policy wrote for another text."""
    recipe = load(str(run.folder / "recipe.yaml"))
    evaluation = recipe.stages[-1]
    (reward,) = policy_rewards(evaluation.rewards)
    policy = load_policy(path=str(all_checkpoints(run.folder / "checkpoints")[-1]))
    gain = InformationGain(policy, **reward.params)
    (file,) = (run.folder / "evaluations").glob(f"*_{evaluation.label}_*.jsonl")
    groups = [stored.group for stored in read_stored(file)]
    tasks = {task.id: task for task in TaskSets(recipe.tasks)[evaluation.tasks]}
    exchanged = [
        Group(
            task=tasks[one.task.id],
            rollouts=[
                with_thought_of(rollout, thought, policy.tokenizer.decode)
                for rollout, thought in zip(one.rollouts, other.rollouts, strict=True)
            ],
            verdicts=one.verdicts,
        )
        for one, other in pairwise([*groups, groups[0]])
    ]
    values = [row.value for rows in gain(exchanged) for row in rows]
    return sum(values) / len(values)


def with_thought_of(
    rollout: Rollout, other: Rollout, decode: Callable[[list[int]], str]
) -> Rollout:
    """The rollout's prompt with another rollout's thought, cut to the length of the rollout's own; the reward closes it if it must."""
    prompt = rollout.token_ids[: rollout.mask.index(True)]
    thought = other.completion_ids[: len(rollout.completion_ids)]
    return Rollout.from_tokens(
        id=rollout.id,
        task_id=rollout.task_id,
        token_ids=[*prompt, *thought],
        mask=[False] * len(prompt) + [True] * len(thought),
        logprobs=[0.0] * (len(prompt) + len(thought)),
        text=decode(thought),
    )


def tokens(run: CellRun) -> float:
    """Through the learner's forward and backward; groups without a gradient are left out."""
    return sum(row.get("tokens/forward_backward", row["tokens/trained"]) for row in run.rows)


MEASURES: dict[str, Callable[[CellRun], float]] = {}
for when in ("before", "after"):
    for name, suffix in PARTS.items():
        MEASURES[f"{when}: {name}"] = part(when, suffix)
MEASURES["after: gain of others' thoughts"] = others_thoughts
MEASURES["tokens"] = tokens

if __name__ == "__main__":
    study_main(
        str(__doc__), Path(__file__).with_name("smollm2.yaml"), CELLS, MEASURES, quick=QUICK
    )
