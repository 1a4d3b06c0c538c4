"""DPO and advantage-weighted regression find the optimum of theorem 6.1 (arXiv 2406.14532), pi_sft exp(A / beta) / Z, on a table.

The table is a real model without attention layers, so that the next token depends on the last one only. Answers to the prompt "?"
are two steps of one token: a, b or c, then one of x, y, z, w. Advantages are logarithms of small whole numbers, so that a finite
data set has exactly the label frequencies sigmoid(A - A').
"""

from __future__ import annotations

import math
from itertools import combinations, product

import pytest
import torch
from accelerate import Accelerator

from rlcore.learner.policy import Policy
from rlcore.learner.update import Learner
from rlcore.objective import objective
from rlcore.recipe.optim_sections import UpdateSection
from rlcore.stages.prefer import PreferStage
from rlcore.stages.prefer_trl import train_pairs
from rlcore.types import Sample
from tests.run.table import table

BETA = 0.5
FIRST, SECOND = "abc", "xyzw"
STATES = {"?": FIRST, "a": SECOND, "b": SECOND, "c": SECOND}
ODDS = {
    "?": dict(zip(FIRST, (1, 2, 3), strict=True)),
    "a": dict(zip(SECOND, (1, 2, 3, 4), strict=True)),
    "b": dict(zip(SECOND, (4, 1, 1, 2), strict=True)),
    "c": dict(zip(SECOND, (1, 1, 1, 1), strict=True)),
}
"""exp(A) of each step in each state."""


def probabilities(policy: Policy) -> dict[str, torch.Tensor]:
    """Of the steps of each state, given that it is one of them."""
    found = {}
    for state, steps in STATES.items():
        scores = policy.score([[ord(state), ord(step)] for step in steps])
        found[state] = torch.tensor(scores, dtype=torch.float64).flatten().softmax(0)
    return found


def optimum(sft: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    tilts = {
        state: torch.tensor([ODDS[state][step] ** (1 / BETA) for step in steps])
        for state, steps in STATES.items()
    }
    return {state: sft[state] * tilt / (sft[state] * tilt).sum() for state, tilt in tilts.items()}


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest total variation of any state."""
    return max(0.5 * (one[state] - other[state]).abs().sum().item() for state in STATES)


def enumerated(sft: dict[str, torch.Tensor], *, whole_answer: bool = False) -> list[Sample]:
    """All answers, with their probability as weight and the advantage of each step (planted: of the answer) on its token."""
    samples = []
    for first, second in product(FIRST, SECOND):
        ids = [ord("?"), ord(first), ord(second)]
        steps = [math.log(ODDS["?"][first]), math.log(ODDS[first][second])]
        advantages = [sum(steps)] * 2 if whole_answer else steps
        weight = (sft["?"][FIRST.index(first)] * sft[first][SECOND.index(second)]).item()
        sample = Sample(
            id=first + second,
            token_ids=ids,
            mask=[False, True, True],
            advantages=[0.0, *advantages],
            weight=weight,
        )
        samples.append(sample)
    return samples


@pytest.mark.parametrize("planted", [None, "whole answer", "no beta"])
def test_advantage_weighted_regression_through_the_learner(planted: str | None) -> None:
    policy = table()
    sft = probabilities(policy)
    samples = enumerated(sft, whole_answer=planted == "whole answer")
    aim = objective("awr", beta=1.0 if planted == "no beta" else BETA)
    learner = Learner(
        policy,
        aim,
        accelerator=Accelerator(cpu=True),
        lr=0.1,
        total_updates=400,
        schedule="cosine",
        clip_norm=1e9,
    )
    for _ in range(400):
        learner.update(samples)
    found = distance(probabilities(policy), optimum(sft))
    assert found < 1e-3 if planted is None else found > 0.05


def bradley_terry(state: str, prefix: str) -> list[dict[str, list[int]]]:
    """Pairs of the steps of a state in both orders, as often as exact Bradley-Terry labels would have them in the long run."""
    rows = []
    for a, b in combinations(STATES[state], 2):
        for chosen, rejected in ((a, b), (b, a)):
            ids = {side: [ord(c) for c in text] for side, text in
                   (("prompt_ids", "?"), ("chosen_ids", prefix + chosen), ("rejected_ids", prefix + rejected))}  # fmt: skip
            rows += [ids] * ODDS[state][chosen]
    return rows


@pytest.mark.parametrize("planted", [None, "better step always wins"])
def test_dpo_on_bradley_terry_pairs_through_trl(planted: str | None) -> None:
    policy = table()
    sft = probabilities(policy)
    rows = [
        row
        for state in STATES
        for row in bradley_terry(state, prefix=state if state != "?" else "")
    ]
    if planted:
        rows = [row for row in rows if rows.count(row) > rows.count({**row, "chosen_ids": row["rejected_ids"],
                                                                     "rejected_ids": row["chosen_ids"]})]  # fmt: skip
    stage = PreferStage(kind="prefer", data="-", pairs="given", steps=200, batch_size=len(rows), beta=BETA,
                        optim=UpdateSection(lr=0.1, schedule="cosine", clip_norm=1e9))  # fmt: skip
    train_pairs(policy, rows, stage, seed=0, processes=1, log=lambda metrics: None)
    found = distance(probabilities(policy), optimum(sft))
    assert found < 1e-3 if planted is None else found > 0.05
