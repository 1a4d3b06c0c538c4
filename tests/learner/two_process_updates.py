"""Run in two processes: the updates of three steps, with the groups dealt out unevenly over the ranks.

By hand: torchrun --nproc_per_node 2 two_process_updates.py OUT
"""

import os
import sys

import torch
from accelerate import Accelerator
from test_updates import make_groups
from tiny_model import TINY

from rlcore.learner.policy import load_policy
from rlcore.learner.update import Learner
from rlcore.learner.updates import run_updates
from rlcore.objective import objective

STEPS = [
    {"by": "group", "ranks": ((0, 5, 6, 3), (2, 7, 1, 4)), "stale": (1, 5)},
    {"by": "sequence", "ranks": ((6,), (0, 1, 2, 3, 4, 5, 7)), "stale": ()},
    {"by": "group", "ranks": ((), tuple(range(8))), "stale": (2,), "old_logprobs": "engine"},
    {"by": "group", "ranks": ((3, 1), (0, 2)), "stale": (0,), "minibatches": 1, "update_epochs": 1},
]
"""Keys of the groups of each rank; in the last step only the second rank has a stale group."""


def run(accelerator):
    """Weights after each step, gradients of each update and the reports."""
    policy = load_policy(config=TINY, tokenizer="bytes", dtype="float64", seed=0)
    learner = Learner(
        policy,
        objective("grpo", correction={"kind": "token_truncate", "high": 2.0}),
        accelerator=accelerator,
        lr=1e-3,
        optimizer="sgd",
        betas=(0.0, 0.0),
        total_updates=99,
        version=3,
        micro_batch_tokens=60,
    )
    tensors = []

    def record(*_):
        tensors.append(torch.cat([p.grad.flatten() for p in policy.module.parameters()]))

    learner._optimizer.optimizer.register_step_pre_hook(record)
    reports = []
    for number, step in enumerate(STEPS):
        settings = {"minibatches": 4, "update_epochs": 2} | step
        ranks = settings.pop("ranks")
        stale = settings.pop("stale")
        groups = dict(make_groups(policy, stale=stale, seed=number))
        keys = ranks[accelerator.process_index]
        if accelerator.num_processes == 1:
            keys = [key for rank in ranks for key in rank]
        mine = [(key, groups[key]) for key in keys]
        reports.append(run_updates(learner, mine, seed=number, **settings))
        tensors.append(torch.cat([p.detach().flatten() for p in policy.module.parameters()]))
    return {
        "tensors": torch.stack(tensors),
        "reports": reports,
        "processes": accelerator.num_processes,
    }


if __name__ == "__main__":
    result = run(Accelerator(cpu=True))
    torch.save(result, f"{sys.argv[1]}/rank{os.environ['RANK']}.pt")
