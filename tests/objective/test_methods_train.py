"""Every method trains two steps of a tiny model: credit and updates alone, and (slow) through the real driver."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
import yaml
from accelerate import Accelerator
from test_presets_end_to_end import tiny

from rlcore.credit import demonstration_sample
from rlcore.learner.update import Learner
from rlcore.learner.updates import run_updates
from rlcore.objective.method_keys import with_method
from rlcore.objective.methods import METHODS
from rlcore.recipe.build_credit import build_credit
from rlcore.recipe.build_learner import build_objective
from rlcore.recipe.load import load
from rlcore.run.driver import train
from rlcore.run.folder import read_rows
from rlcore.stages.rl import RlStage
from rlcore.types import Group, Rollout, Task, Verdict
from tests.run.whole import TINY, run_folder

NEEDS: dict[str, dict[str, Any]] = {
    "opd": {"teacher": {"model": "policy", "prompt": "{answer} {prompt}"}},
    "gkd": {"teacher": {"model": "policy", "prompt": "{answer} {prompt}", "top_k": 4}},
    "vc_ppo": {"critic": {"pretrain_steps": 1}},
    "vapo": {"critic": {"pretrain_steps": 1}},
    "m2po": {"max_staleness": 1, "old_logprobs": "trainer"},
    "pass_at_k": {"credit": {"baseline": {"use": "pass_at_k", "k": 2}}},
    "pkpo": {"credit": {"baseline": {"use": "max_at_k", "k": 2}}},
}
"""Keys that a method does not set itself."""
ODD = """from rlcore import reward

@reward
def odd(completion: str, **columns) -> float:
    return float(sum(map(ord, completion)) % 2)
"""


def stage(name: str, reward: str = "exact") -> dict[str, Any]:
    return {
        "kind": "rl",
        "name": name,
        "method": name,
        "tasks": "demonstrations",
        "steps": 2,
        "groups_per_step": 3,
        "group_size": 4,
        "minibatches": 2,
        "sampling": {"max_tokens": 6},
        "rewards": [{"use": reward}],
        "scoring": {"workers": 1},
        "optim": {"lr": 1e-3},
        **NEEDS.get(name, {}),
    }


def groups(learner: Learner, seed: int) -> list[Group]:
    """Three groups of four random completions, with the log-probabilities of the policy as it is; one group earns nothing."""
    draw = random.Random(seed)
    made = []
    for number in range(3):
        rollouts = []
        for i in range(4):
            ids = [draw.randrange(256) for _ in range(3 + draw.randrange(2, 6))]
            scores = learner.policy.score([ids])[0]
            rollouts.append(
                Rollout.from_tokens(
                    id=f"{seed}/{number}#{i}",
                    task_id=str(number),
                    token_ids=ids,
                    mask=[False] * 3 + [True] * (len(ids) - 3),
                    logprobs=[0.0] * 3 + scores[2:],
                    versions=[learner.version] * len(ids),
                )
            )
        earned = [0.0] * 4 if number == 2 else [1.0, 0.0, 0.0, float(number)]
        task = Task(id=str(number), prompt="", demonstration="x")
        verdicts = [Verdict(value=value) for value in earned]
        made.append(Group(task=task, rollouts=rollouts, verdicts=verdicts))
    return made


def needs_another_model(name: str) -> bool:
    """Whether a critic or a teacher learns or scores beside the policy: the run below has them."""
    aim = build_objective(METHODS[name].objective, max_tokens=6)
    return METHODS[name].baseline == "critic" or getattr(aim, "needs_teacher", False)


def needs_a_run(name: str) -> bool:
    """Whether its credit reads what an engine samples for it, or what earlier steps found: the run below has them."""
    return bool({"steps", "solutions"} & METHODS[name].credit.keys())


@pytest.mark.parametrize("name", [name for name in METHODS if not (needs_another_model(name) or needs_a_run(name))])
def test_two_steps(name: str) -> None:
    section = RlStage.model_validate(with_method(stage(name)))
    learner = Learner(
        tiny(0),
        build_objective(section.objective, max_tokens=6),
        accelerator=Accelerator(cpu=True),
        lr=1e-3,
        total_updates=4,
    )
    credit = build_credit(
        section.credit,
        demonstrate=lambda task: demonstration_sample(f"{task.id}/demonstration", [1], [2, 3]),
    )
    before = [p.clone() for p in learner.policy.module.parameters()]
    for step in range(2):
        samples = credit(groups(learner, step))
        report = run_updates(
            learner,
            list(enumerate(samples)),
            minibatches=2,
            seed=step,
            old_logprobs=section.old_logprobs or "engine",
        )
        assert report.updates == 2
        assert math.isfinite(report.grad_norm) and report.grad_norm > 0
        learner.version += 1
    after = list(learner.policy.module.parameters())
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """One run with a stage for each method."""
    folder = tmp_path_factory.mktemp("methods")
    (folder / "odd.py").write_text(ODD)
    recipe = yaml.safe_load(TINY)
    recipe["stages"] = [stage(name, f"{folder / 'odd.py'}:odd") for name in METHODS]
    recipe["run"] = {"checkpoint_every": 1000, "folder": str(folder / "runs")}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    train(load(str(path)))
    return read_rows(run_folder(path) / "metrics.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_two_steps_of_a_run(rows: list[dict[str, Any]], name: str) -> None:
    steps = [row for row in rows if row["stage"] == name]
    assert len(steps) == 2
    assert any(row["tokens/trained"] > 0 and row["grad_norm"] > 0 for row in steps)
