"""A run with a KL term that stops and goes on: its reference is the model the stage began with, not the one it resumed from."""

import random
import shutil
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from rlcore.errors import RunError
from rlcore.learner.policy import load_policy
from rlcore.learner.update import Learner
from rlcore.objective import objective
from rlcore.recipe.load import load
from rlcore.run.driver import train
from rlcore.run.folder import read_rows
from rlcore.types import Sample
from tests.run.whole import run_folder, story, write_recipe

CONFIG = {"model_type": "qwen2", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
          "num_key_value_heads": 1, "max_position_embeddings": 64}  # fmt: skip


def tiny():
    return load_policy(config=CONFIG, tokenizer="bytes", dtype="float32")


def learner_of(policy, made, reference=None):
    return Learner(
        policy,
        made,
        accelerator=Accelerator(cpu=True),
        lr=1e-2,
        total_updates=6,
        reference=reference,
    )


def batch(seed):
    rng = random.Random(seed)
    return [
        Sample(id=str(i), token_ids=[rng.randrange(256) for _ in range(8)], mask=[False] * 2 + [True] * 6,
               advantages=[rng.uniform(-1, 1)] * 8, logprobs=[-5.5] * 8, version=seed)
        for i in range(4)
    ]  # fmt: skip


def weights(learner):
    return torch.cat([p.detach().flatten() for p in learner.policy.module.parameters()])


@pytest.mark.parametrize(
    "params", [{"kl": 0.5}, {"kl": 0.5, "kl_kind": "ratio_k3"}, {"kl": 0.5, "kl_kind": "reward"}]
)
@pytest.mark.parametrize("name", ["grpo", "kimi"])
def test_steps_then_a_new_learner_then_steps(tmp_path: Path, name, params):
    made = objective(name, **params)
    whole = learner_of(tiny(), made)
    reports = [whole.update(batch(seed)) for seed in range(5)]

    first = learner_of(tiny(), made)
    first.policy.save(tmp_path / "start")
    for seed in range(2):
        first.update(batch(seed))
    first.policy.save(tmp_path / "now")

    def resumed(reference):
        policy, kept = (
            load_policy(path=str(tmp_path / x), dtype="float32") for x in ("now", reference)
        )
        learner = learner_of(policy, made, kept)
        learner.load_state_dict(first.state_dict())
        return learner, [learner.update(batch(seed)) for seed in range(2, 5)]

    right, again = resumed("start")
    assert torch.equal(weights(right), weights(whole)) and again == reports[2:]
    wrong, _ = resumed("now")
    assert not torch.allclose(weights(wrong), weights(whole), atol=1e-4)


def go(recipe: Path, **settings) -> Path:
    overrides = [
        "stages.rl.objective={use: grpo, kl: 0.3}",
        "stages.rl.optim.lr=1e-2",
        "run.keep_checkpoints=9",
        "stages.sft.steps=2",
        "stages.rl.steps=4",
    ]
    train(load(str(recipe), overrides), **settings)
    return run_folder(recipe)


def test_a_whole_run_resumed_is_the_run_that_was_not_stopped(tmp_path: Path):
    """Nothing is killed: the finished run loses its last checkpoints, as a damaged one is dropped, and goes on from there."""
    folder = go(write_recipe(tmp_path))
    want = story(folder)
    assert any(row.get("loss/kl", 0) > 1e-3 for row in read_rows(folder / "metrics.jsonl"))

    def wind_back(step):
        for path in (folder / "checkpoints").iterdir():
            if int(path.name.removeprefix("step_")) > step:
                shutil.rmtree(path)

    for step in (2, 4):  # the end of the stage before, and the middle of this one
        wind_back(step)
        go(tmp_path / "tiny.yaml", resume=True)
        assert story(folder) == want

    wind_back(4)
    begun = folder / "references" / "stage_02"
    shutil.copytree(folder / "checkpoints" / "step_000004", begun, dirs_exist_ok=True)
    go(tmp_path / "tiny.yaml", resume=True)
    assert (
        story(folder)["weights"] != want["weights"]
    )  # the mistake: compared with the model it was resumed from

    wind_back(4)
    shutil.rmtree(begun)
    with pytest.raises(RunError, match="stage_02, the model this stage began with, is missing"):
        go(tmp_path / "tiny.yaml", resume=True)
