"""Every preset learns to answer with the token it was asked: rollouts from the policy itself, credit, real steps; three seeds."""

import random
from functools import partial

import pytest
import torch
from accelerate import Accelerator

from rlcore.credit import demonstration_sample, gated, group_credit, mixed, whitened
from rlcore.learner.update import Learner
from rlcore.learner.updates import run_updates
from rlcore.objective import PRESETS, objective
from rlcore.types import Group, Rollout, Task, Verdict

LETTERS, ATTEMPTS, STEPS = 8, 16, 16


def shown(task):
    return demonstration_sample(f"{task.id}/shown", [int(task.id)], [int(task.id)])


def imitation(groups):
    return [[shown(group.task)] for group in groups]


GROUP = group_credit()
CREDIT = {
    "dr_grpo": group_credit(baseline="mean"),
    "rloo": group_credit(baseline="leave_one_out"),
    "reinforce": group_credit(baseline="mean"),
    "reinforce_pp": whitened(group_credit(baseline="none", zero_variance="keep")),
    "kimi": group_credit(baseline="mean", zero_variance="keep"),
    "sft": imitation,
    "dft": imitation,
    "luffy": mixed(GROUP, shown),
    "hpt": gated(GROUP, shown),
}
PARAMS = {
    "dr_grpo": {"max_tokens": 1},
    "grpo": {"kl": 1e-3, "correction": {"kind": "token_truncate", "high": 2.0}},
    "dapo": {"entropy": 1e-3},
    "ppo": {"kl": 1e-3, "kl_kind": "reward", "dual_clip": 3.0},
    "kimi": {"tau": 0.01},
    "awr": {"beta": 0.5},
}
OF_TEACHERS = ("opd", "gkd")
"""They need a teacher's scores: test_distillation.py has what they learn."""
WARM = {"dft": 1}
"""Steps of SFT before: DFT weighs a token by its own probability, so from chance level it learns whatever comes first."""


def answer_distribution(policy):
    """Probability of each answer to each letter, [LETTERS, LETTERS], from the policy's own scores."""
    pairs = [[asked, answer] for asked in range(LETTERS) for answer in range(LETTERS)]
    return torch.tensor(policy.score(pairs)).exp().view(LETTERS, LETTERS)


def group_of(asked, probabilities, rng, version):
    answers = rng.choices(range(LETTERS), weights=probabilities.tolist(), k=ATTEMPTS)
    rollouts = [
        Rollout.from_tokens(
            id=f"{asked}/{i}",
            task_id=str(asked),
            token_ids=[asked, answer],
            mask=[False, True],
            logprobs=[0.0, float(probabilities[answer].log())],
            text="",
            finish="stop",
            version=version,
        )
        for i, answer in enumerate(answers)
    ]
    return Group(
        task=Task(id=str(asked), prompt=""),
        rollouts=rollouts,
        verdicts=[Verdict(value=float(answer == asked)) for answer in answers],
    )


def learn(policy, name, rng, steps, credit, **params):
    made = objective(name, **params)
    learner = Learner(
        policy, made, accelerator=Accelerator(cpu=True), lr=5e-3, total_updates=2 * steps
    )
    for _ in range(steps):  # two updates a rollout, the second off-policy
        table = answer_distribution(policy)
        groups = [group_of(asked, table[asked], rng, learner.version) for asked in range(LETTERS)]
        keyed = list(enumerate(credit(groups)))
        run_updates(learner, keyed, minibatches=2, by="sequence", seed=learner.version)
        learner.version += 1


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.parametrize("name", [name for name in PRESETS if name not in OF_TEACHERS])
def test_learns_to_copy(make_policy, name, seed):
    policy = make_policy(
        "float32",
        seed=seed,
        vocab_size=LETTERS,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    run = partial(learn, policy, rng=random.Random(seed))
    run(name="sft", steps=WARM.get(name, 0), credit=imitation)
    begin = answer_distribution(policy).diagonal().mean()
    run(name=name, steps=STEPS, credit=CREDIT.get(name, GROUP), **PARAMS.get(name, {}))
    end = answer_distribution(policy).diagonal().mean()
    assert begin < (0.85 if name in WARM else 0.3) and end > 0.95
