"""Run in two processes: each rank steps on its share of the samples; the first one saves gradients, parameters and reports.

By hand: torchrun --nproc_per_node 2 two_process_step.py OUT
"""

import os
import sys
from dataclasses import replace

import torch
from accelerate import Accelerator
from test_update import make_samples
from tiny_model import TINY

from rlcore.learner.policy import load_policy
from rlcore.learner.update import Learner
from rlcore.objective import objective

SHARES = [((0, 6), (6, 7)), ((0, 0), (0, 7)), ((0, 7), (7, 7)), ((0, 0), (0, 0))]
"""Samples [from, to) of each of the two ranks, for each step: unequal, and one or both with none."""


def steps_samples(number):
    """Those of the second step begin alike, and only one rank has any: the layouts are then compared on both."""
    samples = make_samples(seed=number)
    if number != 1:
        return samples
    twenty = list(range(20))
    return [
        replace(
            sample,
            token_ids=twenty + sample.token_ids,
            mask=[False] * 20 + sample.mask,
            advantages=[0.0] * 20 + sample.advantages,
            logprobs=[0.0] * 20 + sample.logprobs,
        )
        for sample in samples
    ]


def run(shares, accelerator):
    """Gradients and parameters after each step with the samples of `shares` (one range a step), and reports."""
    policy = load_policy(config=TINY, tokenizer="bytes", dtype="float64", seed=0)
    learner = Learner(
        policy,
        objective("grpo"),
        accelerator=accelerator,
        lr=1e-3,
        total_updates=9,
        version=5,
        micro_batch_tokens=60,
    )
    seen = []

    def record(*_):
        seen.append(torch.cat([p.grad.flatten() for p in policy.module.parameters()]))

    learner._optimizer.optimizer.register_step_pre_hook(record)
    reports = []
    for number, (first, end) in enumerate(shares):
        reports.append(learner.update(steps_samples(number)[first:end]))
        seen.append(torch.cat([p.detach().flatten() for p in policy.module.parameters()]))
    assert learner._layout_checked and learner.layout == "auto"
    return {
        "tensors": torch.stack(seen),
        "reports": reports,
        "processes": accelerator.num_processes,
    }


if __name__ == "__main__":
    accelerator = Accelerator(cpu=True)
    result = run([share[accelerator.process_index] for share in SHARES], accelerator)
    torch.save(result, f"{sys.argv[1]}/rank{os.environ['RANK']}.pt")
