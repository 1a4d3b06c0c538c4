"""The planner: its bytes are those of the same code on real tensors, its changes make a recipe fit, its forecast is arithmetic."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Literal

import pytest
import torch

from rlcore.cli.main import main
from rlcore.errors import RecipeError
from rlcore.learner.attention import PACKED
from rlcore.learner.base_model import model_from_config
from rlcore.learner.head import CACHED_LOGITS
from rlcore.learner.logprobs import TILE_LOGITS
from rlcore.learner.module import PackedModule
from rlcore.learner.policy_adapter import insert
from rlcore.learner.settings import OptimSettings
from rlcore.learner.speed import checkpoint_layers
from rlcore.measures.intervals import wilson
from rlcore.plan import trace
from rlcore.plan.batch import Lengths, micro_batch, stage_lengths
from rlcore.plan.live import LiveBytes
from rlcore.plan.memory import ROLLOUT_TOKEN_BYTES, Machine
from rlcore.plan.model import shaped_model
from rlcore.plan.plan import _encoder, advise, changed, plan
from rlcore.plan.probe import probe
from rlcore.plan.speed import best_split
from rlcore.plan.trace import Tree, _backward, activation_bytes, optimizer_states
from rlcore.recipe.load import load
from rlcore.recipe.schema import Recipe
from rlcore.tokenizer import load_tokenizer
from rlcore.types import Sample
from tests.run.whole import write_recipe

GIB = 2**30
CPU = Machine(gpus=0, nodes=1, memory=16 * GIB)
TREES = [
    Tree(prompts=3, completions=1, prompt_tokens=9, completion_tokens=20, shared=False),
    Tree(prompts=2, completions=4, prompt_tokens=40, completion_tokens=24, shared=True),
]


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return load(str(write_recipe(tmp_path)))


def real_peak(recipe: Recipe, tree: Tree, *, one_pass: bool, several: bool) -> int:
    """What `activation_bytes` says, counted on tensors that hold numbers."""
    section = recipe.model
    model = model_from_config(dict(section.config), load_tokenizer("bytes"), section.dtype, 0)
    model.eval()
    if section.peft:
        insert(model, section.peft, seed=0)
    if section.gradient_checkpointing:
        checkpoint_layers(model)
    model.set_attn_implementation(PACKED)
    module = PackedModule(model)
    trained = [p for p in module.parameters() if p.requires_grad]
    known = list(module.parameters())
    if several:
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
            known.append(parameter.grad)

    class Real:
        pass

    shaped = Real()
    shaped.module = module
    with LiveBytes(known) as live:
        _backward(shaped, tree, one_pass=one_pass)
    return live.peak - (0 if several else sum(p.nbytes for p in trained))


def test_live_bytes_are_those_alive_at_once() -> None:
    before = torch.zeros(1000)
    with LiveBytes([before]) as live:
        a = torch.zeros(100)
        b = a.view(10, 10) + 1
        del a
        c = before[:10] * 2
        before.add_(1)
    assert live.peak == 4 * (100 + 100) and live.now == 4 * (100 + 10)
    del b, c
    assert live.now == 0


@pytest.mark.parametrize("tree", TREES, ids=["packed", "shared"])
@pytest.mark.parametrize("several", [True, False])
@pytest.mark.parametrize(
    "model",
    [
        {},
        {"gradient_checkpointing": True},
        {"peft": {"type": "lora", "r": 4, "target_modules": "all-linear"}},
    ],
    ids=["all", "checkpointing", "lora"],
)
def test_activations_without_numbers_take_what_those_with_numbers_do(
    recipe: Recipe, tree: Tree, several: bool, model: dict
) -> None:
    for key, value in model.items():
        recipe = changed(recipe, f"model.{key}", value)
    for one_pass in (True, False):
        planned = activation_bytes(
            recipe,
            shaped_model(recipe),
            tree,
            one_pass=one_pass,
            several=several,
            device="cpu",
        )
        real = real_peak(recipe, tree, one_pass=one_pass, several=several)
        assert planned == pytest.approx(real, rel=0.01)


def test_on_a_gpu_the_head_holds_a_larger_tile_and_takes_it_whole(recipe: Recipe, monkeypatch) -> None:
    settings = {"one_pass": True, "several": True}
    peaks = []
    for gpu in (64 * 260, 256 * 260):
        monkeypatch.setitem(TILE_LOGITS, "cpu", 64 * 260)
        monkeypatch.setitem(TILE_LOGITS, "cuda", gpu)
        planned = activation_bytes(recipe, shaped_model(recipe), TREES[1], device="cuda", **settings)
        assert TILE_LOGITS["cpu"] == 64 * 260
        peaks.append(planned)
        with monkeypatch.context() as context:
            context.setitem(TILE_LOGITS, "cpu", gpu)
            context.delitem(CACHED_LOGITS, "cpu")
            assert planned == pytest.approx(real_peak(recipe, TREES[1], **settings), rel=0.01)
        trace._activation_bytes.cache_clear()
    assert peaks[0] < peaks[1]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_deep_model_is_traced_by_a_few_layers(recipe: Recipe, checkpointing: bool) -> None:
    recipe = changed(recipe, "model.config", {**recipe.model.config, "num_hidden_layers": 11})
    recipe = changed(recipe, "model.gradient_checkpointing", checkpointing)
    for several in (True, False):
        settings = {"one_pass": True, "several": several}
        planned = activation_bytes(
            recipe, shaped_model(recipe), TREES[1], device="cpu", **settings
        )
        assert planned == pytest.approx(real_peak(recipe, TREES[1], **settings), rel=0.01)


@pytest.mark.parametrize(("use", "a_number"), [("adamw", 8), ("sgd", 4), ("adamw8bit", 2)])
def test_states_of_the_optimiser(recipe: Recipe, use: str, a_number: int) -> None:
    shaped = shaped_model(recipe)
    states = optimizer_states(shaped, OptimSettings(lr=1.0, total_updates=1, optimizer=use))
    # AdamW also counts the updates of each tensor
    assert states == pytest.approx(a_number * shaped.trained, rel=1e-3)


def test_micro_batches_hold_what_the_recipe_allows(recipe: Recipe) -> None:
    stage = changed(recipe, "stages.2.optim.micro_batch_tokens", 500).stages[2]
    batch = micro_batch(stage, Lengths(20, 40, ""), ranks=1)
    assert batch.tree.shared and batch.tree.tokens == 2 * (20 + 4 * 40) and batch.count == 2
    stage = changed(recipe, "stages.2.optim.micro_batch_tokens", 100).stages[2]
    batch = micro_batch(stage, Lengths(20, 40, ""), ranks=1)
    assert batch.tree.tokens <= 100 and batch.tree.predicted * batch.count == 4 * 4 * 40


def test_shards_divide_what_is_sharded(recipe: Recipe) -> None:
    def items(machine: Machine) -> dict[str, int]:
        stage = next(s for s in plan(recipe, machine).stages if s.stage == "rl")
        own = [item for item in stage.items if item.side == "learner"]
        return {item.what.partition(",")[0]: item.bytes for item in own}

    whole = items(Machine(4, 1, 80 * GIB, "ddp"))
    parts = items(Machine(4, 1, 80 * GIB, "fsdp"))
    assert parts["adamw states"] == whole["adamw states"] // 4
    assert parts["gradients"] == whole["gradients"] // 4
    assert "gradient buckets of DDP" in whole and "gradient buckets of DDP" not in parts
    assert parts["weights"] == whole["weights"] // 4


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_offloaded_states_are_the_host_s(recipe: Recipe, sharding: Literal["ddp", "fsdp"]) -> None:
    """Of all devices of the node; on a CPU, where both are one, nothing changes."""

    def states(offload: bool, machine: Machine) -> dict[str, int]:
        stages = plan(changed(recipe, "stages.2.optim.offload", offload), machine).stages
        return {stage.where: item.bytes for stage in stages if stage.stage == "rl" for item in stage.items if item.what == "adamw states"}

    machine = Machine(4, 2, 80 * GIB, sharding)
    held = states(False, machine)["learner"]
    assert states(True, machine) == {"host": 4 * held}
    assert states(True, CPU) == states(False, CPU)


def test_a_critic_is_a_second_model_in_training(tmp_path: Path) -> None:
    recipe = load(str(write_recipe(tmp_path)), ("stages.rl.method=ppo",))
    stage = next(s for s in plan(recipe, CPU).stages if s.stage == "rl")
    sizes = {item.what: item.bytes for item in stage.items}
    assert sizes["adamw states of the critic"] == 2 * sizes["weights of the critic"]
    assert sizes["weights of the critic"] == sizes["gradients of the critic"]
    # the embeddings are tied: all of the policy but a head
    assert sizes["weights of the critic"] == sizes["weights"]


def test_servers_have_devices_of_their_own(recipe: Recipe) -> None:
    planned = plan(
        changed(recipe, "engine.use", "vllm_local"), Machine(4, 1, 80 * GIB, serve=2)
    )
    sides = {stage.where: stage for stage in planned.stages if stage.stage == "rl"}
    assert sides["learner"].of("engine") < sides["server"].of("engine")
    assert not any(item.side == "learner" for item in sides["server"].items)
    with pytest.raises(RecipeError, match="leaves no GPU of 4"):
        plan(recipe, Machine(4, 1, 80 * GIB, serve=4))


def test_an_engine_that_sleeps_leaves_its_memory_to_the_learner(recipe: Recipe) -> None:
    awake = changed(recipe, "engine.use", "vllm_local")
    machine = Machine(2, 1, 80 * GIB)
    held: dict[str, int] = {}
    for name, of in (("awake", awake), ("asleep", changed(awake, "engine.sleep", True))):
        stages = {s.where: s for s in plan(of, machine).stages if s.stage == "rl"}
        items = [item for item in stages["learner"].items if item.side == "engine"]
        always = [item for item in items if not item.phase and "CUDA" not in item.what]
        held[name] = sum(item.bytes for item in always)
        held[f"{name}, generating"] = held[name] + stages["learner"].phases["generate"]
        held[f"{name}, host"] = stages["host"].of("host")
    weights = next(item.bytes for item in items if item.what == "weights")
    assert held["awake"] > weights > held["asleep"] == 0
    assert held["asleep, generating"] == held["awake, generating"]
    assert held["asleep, host"] == held["awake, host"] + 2 * weights


def test_a_change_that_is_advised_makes_it_fit(recipe: Recipe) -> None:
    large = changed(recipe, "engine.max_sequences", 4096)
    fits = plan(recipe, CPU)
    assert fits.fits and not advise(fits)
    small = Machine(gpus=0, nodes=1, memory=fits.peak + (4 << 20))
    tight = plan(large, small)
    assert not tight.fits
    (advice,) = [a for a in advise(tight) if a.change.startswith("engine.max_sequences")]
    key, _, value = advice.change.partition("=")
    after = plan(changed(large, key, int(value)), small)
    assert after.fits == advice.fits and after.peak == advice.peak


def test_the_command_prints_what_it_plans(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(write_recipe(tmp_path))
    assert main(["plan", recipe, "--gpus", "0", "--memory", "4", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["fits"] and facts["peak"] == max(stage["peak"] for stage in facts["stages"])
    assert main(["plan", recipe, "--gpus", "8", "--nodes", "2", "--memory", "1"]) == 1
    said = capsys.readouterr().out
    assert "it does not fit" in said and "16 learner process(es)" in said


def test_a_token_of_a_batch_takes_the_bytes_that_are_planned() -> None:
    n = 2000
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    ids = [300 + i for i in range(n)]
    logprobs = [-0.1 * i for i in range(n)]
    sample = Sample(
        id="a",
        token_ids=ids,
        mask=[i > 10 for i in range(n)],
        advantages=[0.5 * i for i in range(n)],
        logprobs=list(logprobs),
    )
    taken = (tracemalloc.get_traced_memory()[0] - before) / n
    tracemalloc.stop()
    assert sample.mask[-1] and taken == pytest.approx(ROLLOUT_TOKEN_BYTES, rel=0.3)


def test_devices_are_divided_so_that_both_sides_take_as_long() -> None:
    split = best_split(30.0, 10.0, 8)
    assert (split.serve, split.learn, split.step_s) == (6, 2, 5.0)
    assert best_split(30.0, 10.0, 8, parallel=4).serve == 4
    assert best_split(30.0, 10.0, 1) is None


def test_an_interval_of_a_fraction() -> None:
    low, high = wilson(0 / 20, 20)
    assert low == 0 and high == pytest.approx(0.161, abs=1e-3)
    low, high = wilson(5 / 20, 20)
    assert (low, high) == (pytest.approx(0.112, abs=1e-3), pytest.approx(0.469, abs=1e-3))


def test_a_probe_measures_both_sides(recipe: Recipe) -> None:
    measured = probe(recipe, ranks=1, seconds=0.4)
    assert measured.generated > 0 and measured.learned > 0 and measured.publish_s > 0
    assert 0 <= measured.equal <= measured.groups and 1 <= measured.completion <= 12


@pytest.mark.parametrize("ema", [None, 0.9])
def test_the_copy_of_a_checkpoint_is_counted(tmp_path: Path, ema: float | None) -> None:
    """Against the tensors of a checkpoint that was written, and nothing without the key."""
    from safetensors.torch import load_file

    from rlcore.run import checkpoint
    from rlcore.run.driver import train

    keys = ["stages.sft.steps=2", "run.checkpoint_async=true", "run.checkpoint_every=1"]
    keys += ["run.keep_checkpoints=99"] + ([f"stages.sft.optim.ema={ema}"] if ema else [])
    recipe = load(str(write_recipe(tmp_path)), keys)
    what = "the copy of a checkpoint"
    planned = [i.bytes for s in plan(recipe, CPU).stages if s.stage == "sft" for i in s.items if i.what == what]
    train(recipe, folder=tmp_path / "run")
    saved = checkpoint.all_checkpoints(tmp_path / "run/checkpoints")[0]
    models = [load_file(file) for file in saved.rglob("model.safetensors")]
    learner = checkpoint.read(saved)[1]["learner"]
    mean = learner["average"]["mean"].values() if ema else []
    moments = [t for one in learner["optimizer"]["state"].values() for t in one.values()]
    tensors = [*(t for model in models for t in model.values()), *mean, *moments]
    assert planned == [pytest.approx(sum(t.nbytes for t in tensors), rel=0.01)]
    without = plan(load(str(write_recipe(tmp_path)), keys[:1]), CPU)
    assert not any(i.what == what for s in without.stages for i in s.items)


def test_a_stage_of_several_task_sets_is_planned(tmp_path: Path) -> None:
    """Its prompts are those of all sets."""
    recipe = load(str(write_recipe(tmp_path)), ["stages.after.tasks=[eval_set, demonstrations]"])
    lengths = stage_lengths(recipe, recipe.stages[-1], lambda: _encoder(recipe), None)
    alone = stage_lengths(recipe, recipe.stages[1], lambda: _encoder(recipe), None)
    assert lengths.source == alone.source == "prompts and max_tokens" and abs(lengths.prompt - alone.prompt) <= 1
    plan(recipe, CPU)
