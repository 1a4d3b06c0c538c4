"""Whole runs with an adapter, averaged weights and float32 masters: resumed exactly after a kill, published with proof."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

import pytest
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rlcore.errors import EngineError, ModelError, RecipeError, RunError
from rlcore.recipe.load import load
from rlcore.rollout.server_process import _free_ports
from rlcore.run.driver import train
from rlcore.run.folder import read_rows
from rlcore.run.same_recipe import check_same_recipe
from rlcore.run.servers import silent_servers
from tests.run.test_train import needs_vllm
from tests.run.whole import finish, run_folder, start, story, untimed, write_recipe

ADAPTER = (
    "model.peft={type: lora, r: 4, target_modules: all-linear}",
    "stages.rl.optim={lr: 1e-2, ema: 0.5, schedule: {use: wsd, decay_fraction: 0.5}}",
    "stages.rl.objective={use: grpo, kl: 0.1}",
    "stages.after.weights=ema",
    "stages.sft.steps=2",
)
MASTERS = (
    "model.dtype=bfloat16",
    "model.gradient_checkpointing=true",
    "stages.sft.steps=2",
    "stages.rl.optim={use: muon, lr: 1e-4}",
)


def everything(folder: Path) -> dict[str, object]:
    """The story, with every tensor of the last checkpoint's models."""
    last = sorted((folder / "checkpoints").glob("step_*"))[-1]
    tensors = {
        f"{path.relative_to(last)}/{name}": tensor.numpy().tobytes()
        for path in last.rglob("*.safetensors")
        for name, tensor in load_file(path).items()
    }
    return {**story(folder), "tensors": tensors}


@pytest.fixture(scope="module", params=[ADAPTER, MASTERS], ids=["adapter", "masters"])
def told(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, tuple[str, ...]]:
    recipe = write_recipe(tmp_path_factory.mktemp("options"))
    finish(start("train", recipe, *request.param, cold=True))
    return recipe, request.param


def test_a_killed_run_resumes_bit_for_bit(
    tmp_path: Path, told: tuple[Path, tuple[str, ...]]
) -> None:
    whole, overrides = told
    recipe = write_recipe(tmp_path)
    folder = run_folder(recipe)
    process = start("train", recipe, *overrides)
    deadline = time.monotonic() + 120
    while (
        len(read_rows(folder / "metrics.jsonl")) < 7
    ):  # in the middle of RL: five steps done, four of them in a checkpoint
        assert time.monotonic() < deadline and process.poll() is None, (
            "the run ended before it could be killed"
        )
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finish(start("train", recipe, *overrides, "--resume"))
    wanted = everything(run_folder(whole))
    for part, left in everything(folder).items():
        assert left == wanted[part], f"{part} differ after kill and resume"


def test_the_last_checkpoint_holds_what_it_says(
    told: tuple[Path, tuple[str, ...]], tmp_path: Path
) -> None:
    whole, overrides = told
    last = sorted((run_folder(whole) / "checkpoints").glob("step_*"))[-1]
    merged = AutoModelForCausalLM.from_pretrained(last).state_dict()
    if overrides is MASTERS:
        assert not (last / "ema").exists() and not (last / "adapter").exists()
        assert {str(tensor.dtype) for tensor in merged.values()} == {"torch.float32"}
        return
    averaged = AutoModelForCausalLM.from_pretrained(last / "ema").state_dict()
    name = "model.layers.0.mlp.up_proj.weight"
    assert merged.keys() == averaged.keys() and not merged[name].equal(averaged[name])
    for folder in (last, last / "ema"):
        assert isinstance(
            PeftModel.from_pretrained(
                AutoModelForCausalLM.from_pretrained(last), folder / "adapter"
            ),
            PeftModel,
        )
    rates = [row["lr"] for row in read_rows(run_folder(whole) / "metrics.jsonl")][2:]
    assert rates[:3] == [1e-2] * 3 and rates[-1] < 0.7e-2


def test_averaged_weights_are_evaluated_alike_in_the_run_resumed_and_from_the_checkpoint(
    told: tuple[Path, tuple[str, ...]], tmp_path: Path
) -> None:
    whole, overrides = told
    if overrides is not ADAPTER:
        pytest.skip("this run keeps no average")
    folder = shutil.copytree(run_folder(whole), tmp_path / "tiny")
    [in_run] = untimed([row for row in read_rows(folder / "eval.jsonl") if row["stage"] == "after"])
    (folder / "eval.jsonl").write_text("")
    finish(start("train", whole, *overrides, f"run.folder={tmp_path}", "--resume"))
    assert untimed(read_rows(folder / "eval.jsonl")) == [in_run]
    finish(start("eval", folder, f"run.folder={tmp_path}"))
    [alone] = read_rows(tmp_path / "tiny-eval" / "eval.jsonl")
    assert alone["accuracy"] == in_run["accuracy"]
    first = (tmp_path / "tiny-eval/eval.jsonl").read_bytes()
    for _ in range(2):  # another evaluation is put beside it; the same one again takes its place
        finish(start("eval", folder, f"run.folder={tmp_path}", "tasks.eval_set.size=4"))
    assert (tmp_path / "tiny-eval/eval.jsonl").read_bytes() == first
    [other] = read_rows(tmp_path / "tiny-eval-2/eval.jsonl")
    assert other["tasks"] == 4 and not (tmp_path / "tiny-eval-3").exists()


@needs_vllm
@pytest.mark.parametrize(
    "overrides",
    [ADAPTER, (*ADAPTER, "engine.sync=adapter"), MASTERS],
    ids=["merged", "adapter alone", "masters"],
)
def test_real_vllm_serves_it_with_proof(tiny: Path, overrides: tuple[str, ...]) -> None:
    finish(
        start(
            "train",
            tiny,
            *overrides,
            "engine.use=vllm_local",
            "stages.rl.steps=3",
            "stages.rl.objective=grpo",
        )
    )
    rl = [row for row in read_rows(run_folder(tiny) / "metrics.jsonl") if row["stage"] == "rl"]
    limit = 0.1 if overrides is MASTERS else 1e-3
    # a step whose groups all have equal rewards trains nothing
    ratios = [row["mismatch/ratio_max"] for row in rl if "mismatch/ratio_max" in row]
    assert len(rl) == 3 and ratios and all(abs(ratio - 1) < limit for ratio in ratios)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "stages.after.weights=ema",
            "stages.after.weights is ema, but the last training stage before it has no optim.ema",
        ),
        ("model.peft={r: 4}", "peft needs a type"),
        ("engine.sync=adapter", "needs engine.use vllm_local or vllm_server, and model.peft of type lora"),
        ("stages.rl.optim={schedule: {use: wsd, decay_shape: inverse_linear}}", "set min_lr_ratio"),
        ("stages.rl.optim.shedule=wsd", "did you mean 'schedule'"),
    ],
)
def test_bad_recipes_are_met_with_a_sentence(tiny: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load(str(tiny), [override])


def test_wrong_addresses_of_servers_end_a_run_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load(str(write_recipe(tmp_path)), ["engine.use=vllm_server"])
    for value, sentence in (("", "has no server: set"), ("node1:8000", "no address of a server")):
        monkeypatch.setenv("RLCORE_SERVERS", value)
        with pytest.raises(EngineError, match=sentence):
            train(recipe)
    assert not (tmp_path / "runs").exists()


def test_servers_that_do_not_answer_yet_are_named() -> None:
    [port] = _free_ports(1)
    [silent] = silent_servers([f"http://127.0.0.1:{port}"])
    assert silent.startswith(f"http://127.0.0.1:{port} (ConnectError")


def test_a_run_that_has_ended_says_so_and_may_change_where_its_servers_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(write_recipe(tmp_path))
    keys = ["stages.sft=null", "stages.rl.steps=1"]
    train(load(path, keys))
    capsys.readouterr()
    train(load(path, keys), resume=True)
    assert "this run has ended; stages.<stage>.steps" in capsys.readouterr().out
    folder = next((tmp_path / "runs").iterdir())
    evals = read_rows(folder / "eval.jsonl")
    check_same_recipe(folder, load(path, [*keys, "engine.reconnect_s=5", "engine.servers=[http://a:1]"]), evals)
    with pytest.raises(RunError, match=r"difference: stages.rl.optim.lr \("):
        check_same_recipe(folder, load(path, [*keys, "stages.rl.optim.lr=0.5"]), evals)


def test_the_model_that_a_run_began_with_may_be_gone_when_it_goes_on(tmp_path: Path) -> None:
    """It goes on from its own checkpoint; a new run says that the model is not there."""
    recipe = write_recipe(tmp_path)
    train(load(str(recipe), ["stages.rl=null", "name=base"]))
    start = max((tmp_path / "runs/base/checkpoints").iterdir())
    keys = [f"model={{path: {start}}}", "stages.sft.steps=2", "stages.rl=null"]
    train(load(str(recipe), keys))
    shutil.rmtree(start)
    longer = [*keys, "stages.sft.steps=3"]
    train(load(str(recipe), longer), resume=True)
    with pytest.raises(ModelError, match="model.path: there is no model at"):
        train(load(str(recipe), longer), overwrite=True)
