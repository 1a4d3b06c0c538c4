"""Whole runs with a critic: kills, processes, shards, and everything that composes with it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from rlcore.errors import RecipeError
from rlcore.recipe.build_credit import build_credit
from rlcore.recipe.check import check
from rlcore.recipe.credit_sections import CreditSection
from rlcore.recipe.load import load
from rlcore.run.folder import read_rows
from tests.run.whole import finish, kill_when, run_folder, start, story, untimed, write_recipe

SHARDED: dict[str, Any] = {"script": Path(__file__).with_name("sharded.py"), "processes": 2}
SHORT = (
    "stages.sft.steps=2",
    "stages.before.limit=1",
    "stages.after.limit=1",
    "run.checkpoint_every=1",
    "stages.rl.method=ppo",
    "stages.rl.groups_per_step=8",
    "stages.rl.group_size=1",
)
CRITIC = "stages.rl.critic={minibatches: 2, update_epochs: 2, gamma: 0.99, optim: {lr: 1e-2}}"
UPDATES = ("stages.rl.minibatches=2", "stages.rl.update_epochs=2")
slow = partial(pytest.param, marks=pytest.mark.slow)
LORA = "model.peft={type: lora, r: 4, target_modules: all-linear}"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return varied(tmp_path)


def varied(folder: Path) -> Path:
    """The tiny recipe with a reward that differs between completions however little the policy can do."""
    folder.mkdir(exist_ok=True)
    (folder / "reward.py").write_text(
        "from rlcore import reward\n\n@reward\ndef vary(completion):\n    return sum(map(ord, completion)) % 7 / 6\n"
    )
    recipe = write_recipe(folder)
    text = recipe.read_text().replace("rewards: *length, sampling: *short, optim", "rewards: [{use: \"reward.py:vary\"}], sampling: *short, optim")
    recipe.write_text(text)
    return recipe


def rl(folder: Path) -> list[dict[str, Any]]:
    return [row for row in untimed(read_rows(folder / "metrics.jsonl")) if row["stage"] == "rl"]


def critic_weights(folder: Path) -> dict[str, torch.Tensor]:
    last = sorted((folder / "checkpoints").glob("step_*"))[-1]
    state = torch.load(last / "trainer/state.pt", weights_only=True)
    return state["parts"]["critic"]["weights"]


@pytest.mark.parametrize(
    ("staleness", "processes"),
    [
        (0, 1),
        pytest.param(1, 1, marks=pytest.mark.slow),
        pytest.param(1, 2, marks=pytest.mark.slow),
    ],
)
def test_kill_and_resume_are_exact(staleness: int, processes: int, tmp_path: Path) -> None:
    """Policy, critic, metrics and rollouts of a killed run are those of an uninterrupted one, bit for bit."""
    options = (*SHORT, CRITIC, *UPDATES, f"stages.rl.max_staleness={staleness}")
    reference = varied(tmp_path / "whole")
    finish(start("train", reference, *options, processes=processes))

    recipe = varied(tmp_path)
    process = start("train", recipe, *options, processes=processes)
    kill_when(process, lambda: len(rl(run_folder(recipe))) >= 3)
    finish(start("train", recipe, *options, "--resume", processes=processes))
    uninterrupted = story(run_folder(reference))
    for part, left in story(run_folder(recipe)).items():
        assert left == uninterrupted[part], f"{part} differ after kill and resume"
    rows = rl(run_folder(recipe))
    assert not list(run_folder(recipe).glob("critic_start*"))
    left, wanted = (critic_weights(run_folder(path)) for path in (recipe, reference))
    assert all(torch.equal(left[name], wanted[name]) for name in wanted)
    assert left["head.weight"].shape == (1, 64) and left["head.weight"].abs().min() > 0
    assert [row["updates"] for row in rows] == [4] * 6 == [row["critic/updates"] for row in rows]


@pytest.mark.parametrize("sharded", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_processes_end_where_one_does(sharded: bool, tmp_path: Path) -> None:
    """Each with its own share of the completions; with FSDP2 policy and critic are both sharded."""
    options = (*SHORT, CRITIC, "stages.rl.steps=3", "stages.rl.optim.lr=1e-3")
    rows = []
    for name, processes in (("one", {}), ("two", SHARDED if sharded else {"processes": 2})):
        recipe = varied(tmp_path / name)
        finish(start("train", recipe, *options, **processes))
        rows.append(rl(run_folder(recipe)))
    for one, two in zip(*rows, strict=True):
        for key in ("loss", "grad_norm", "reward/mean", "advantage/abs_mean"):
            assert two[key] == pytest.approx(one[key], rel=2e-3, abs=1e-5), key
        for key in one:
            if key.startswith("critic/"):
                assert two[key] == pytest.approx(one[key], rel=5e-3, abs=1e-5), key


@pytest.mark.parametrize(
    ("options", "processes"),
    [
        (UPDATES, 1),
        (("stages.rl.max_staleness=1",), 1),
        ((LORA,), 1),
        slow((LORA, *UPDATES), 2),
        (("model.dtype=bfloat16",), 1),
        slow(("model.gradient_checkpointing=true", "stages.rl.optim.layout=shared"), 1),
        slow(("stages.rl.critic.optim.use=muon",), 1),
        slow(("stages.rl.credit.exponential=1.0", "stages.rl.objective=reinforce"), 1),
        slow(("stages.rl.objective={use: ppo, kl: 0.05, kl_kind: reward}",), 1),
        slow(("stages.rl.method=vapo", "stages.rl.critic.pretrain_steps=1"), 1),
        slow(("stages.rl.group_size=2", "stages.rl.groups_per_step=4"), 1),
    ],
    ids=str,
)
def test_two_steps_of_ppo_with(options: tuple[str, ...], processes: int, tiny: Path) -> None:
    finish(start("train", tiny, *SHORT, "stages.rl.steps=2", *options, processes=processes))
    rows = rl(run_folder(tiny))
    assert len(rows) == 2
    assert rows[-1]["critic/grad_norm"] > 0 and rows[-1]["grad_norm"] > 0
    assert rows[-1]["critic/value/mean"] != 0, "the values do not move"


def test_the_policy_waits_while_its_critic_is_pretrained(tiny: Path) -> None:
    more = ("stages.rl.critic={pretrain_steps: 2, value_lambda: 0.5, optim: {lr: 1e-2}}", "stages.rl.steps=4")
    out = finish(start("train", tiny, *SHORT, *more))
    rows = rl(run_folder(tiny))
    assert [row["tokens/trained"] > 0 for row in rows] == [False, False, True, True]
    assert [row["policy_version"] for row in rows] == [2, 2, 2, 3]
    assert [row.get("critic/pretraining", 0) for row in rows] == [1, 1, 0, 0]
    # the policy is frozen, and the targets are what was earned: the mean over tokens of each one's reward
    for step, row in zip((3, 4), rows, strict=False):
        [file] = (run_folder(tiny) / "rollouts").glob(f"{step:06d}*")
        rollouts = read_rows(file)
        tokens = [sum(one["mask"]) for one in rollouts]
        earned = sum(one["value"] * n for one, n in zip(rollouts, tokens, strict=True)) / sum(tokens)
        assert row["critic/return/mean"] == pytest.approx(earned, rel=1e-6)
    assert "credit gave every completion" not in out


REFUSED = {
    "critic has no effect": ("stages.rl.critic={}",),
    "credit.steps and a critic": ("stages.rl.method=ppo", "stages.rl.credit.steps={use: siblings}"),
    "credit.normalise_parts": ("stages.rl.method=ppo", "stages.rl.credit.normalise_parts=true"),
    "use gated": (
        "stages.rl.method=ppo",
        "stages.rl.credit.demonstrations=mixed",
        "stages.rl.objective=luffy",
    ),
    "rejects every group": (
        "stages.rl.method=ppo",
        "stages.rl.group_size=1",
        "stages.rl.filter=zero_variance",
    ),
    "would never learn": ("stages.rl.method=vc_ppo",),
    "gae_lambda has no effect": (
        "stages.rl.method=ppo",
        "stages.rl.critic={length_adaptive: 0.05, gae_lambda: 0.9, value_lambda: 1.0}",
    ),
    "needs value_lambda": ("stages.rl.method=ppo", "stages.rl.critic.length_adaptive=0.05"),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_a_critic_does_not_go_with(sentence: str, tiny: Path) -> None:
    with pytest.raises(RecipeError, match=sentence):
        check(load(str(tiny), REFUSED[sentence]))


def test_other_stages_have_no_critic() -> None:
    with pytest.raises(RecipeError, match="is for rl stages"):
        build_credit(CreditSection(baseline="critic"))


def test_a_method_s_critic_keys_are_replaced_one_by_one(tiny: Path) -> None:
    def critic(*options: str) -> Any:
        recipe = load(str(tiny), ("stages.rl.steps=100", *options))
        return next(stage for stage in recipe.stages if stage.kind == "rl").critic

    assert critic() is None
    assert critic("stages.rl.method=ppo").gae_lambda == 0.95
    vapo = critic("stages.rl.method=vapo", "stages.rl.critic.pretrain_steps=7")
    assert (vapo.pretrain_steps, vapo.value_lambda, vapo.length_adaptive) == (7, 1.0, 0.05)
    fixed = critic("stages.rl.method=vapo", "stages.rl.critic.gae_lambda=0.9")
    assert (fixed.length_adaptive, fixed.gae_lambda) == (None, 0.9)
    assert critic("stages.rl.method=ppo", "stages.rl.credit.baseline=mean") is None
    assert critic("stages.rl.credit.baseline=critic").optim.lr == 1e-5
