"""`rlcore push`: what it writes loads as the checkpoint does, and its card says what the run was."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from rlcore.analysis.push import push
from rlcore.cli.main import main
from rlcore.errors import RunError
from rlcore.measures.intervals import wilson
from rlcore.recipe.load import load
from rlcore.run.driver import train
from rlcore.run.folder import read_rows
from rlcore.terminal import SafeConsole
from tests.push.fake_hub import TOKEN, fake_hub
from tests.run.whole import TINY

TOKENS = torch.tensor([[49, 43, 50, 61, 51]])


def trained_run(folder: Path, recipe: dict, name: str) -> Path:
    recipe = recipe | {"name": name, "run": {"keep_checkpoints": 5}}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    with contextlib.chdir(folder):
        train(load(f"{name}.yaml"), console=SafeConsole(quiet=True))
    return folder / "runs" / name


def short(kinds: tuple[str, ...], **keys: object) -> dict:
    """The tiny recipe with two steps of its training stages, on chat prompts."""
    recipe = yaml.safe_load(TINY)
    recipe["prompt"] = {"format": "chat", "system": "Add | <b>up</b>."}
    recipe["engine"]["max_length"] = 64
    stages = [stage for stage in recipe["stages"] if stage["kind"] in kinds]
    recipe["stages"] = [stage | ({"steps": 2} if "steps" in stage else {}) for stage in stages]
    return recipe | keys


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_run(tmp_path_factory.mktemp("push"), short(("sft", "eval", "rl")), "whole")


@pytest.fixture(scope="module")
def pushed(run: Path) -> Path:
    return Path(push(run, str(run.parent / "pushed")))


@pytest.fixture(scope="module")
def adapted(run: Path, pushed: Path) -> Path:
    """A run that trains an adapter on what the first run pushed, with averaged weights."""
    recipe = short(("rl", "eval"), model={"path": str(pushed), "peft": {"type": "lora", "r": 4}})
    _, rl, after = recipe["stages"]
    rl["optim"]["ema"] = 0.5
    recipe["stages"] = [rl, after | {"weights": "ema"}]
    return trained_run(run.parent.parent, recipe, "adapted")


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS).logits


def logits_of(folder: Path) -> torch.Tensor:
    return logits(AutoModelForCausalLM.from_pretrained(folder))


def test_it_loads_as_the_checkpoint_does(run: Path, pushed: Path) -> None:
    last = run / "checkpoints/step_000004"
    assert torch.equal(logits_of(pushed), logits_of(last))
    chat = [{"role": "user", "content": "1+2="}]
    tokenizer = AutoTokenizer.from_pretrained(pushed)
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    original = AutoTokenizer.from_pretrained(last)
    assert "1+2=" in text and "assistant" in text
    assert text == original.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    settings = GenerationConfig.from_pretrained(pushed)
    assert settings.eos_token_id and settings.eos_token_id == GenerationConfig.from_pretrained(last).eos_token_id
    assert not (pushed / "trainer").exists()
    assert load(str(pushed / "recipe.yaml")).name == "whole"


def test_the_card_has_the_evaluations_of_these_weights(run: Path, pushed: Path) -> None:
    before, after = read_rows(run / "eval.jsonl")
    card = ModelCard.load(pushed / "README.md")
    (result,) = card.data.eval_results
    assert result.metric_value == round(after["accuracy"], 4)
    interval = wilson(after["accuracy"], after["tasks"])
    assert result.metric_args["interval_95"] == [round(end, 4) for end in interval]
    assert (result.dataset_type, result.dataset_name) == ("arithmetic", "eval_set")
    assert card.data.to_dict()["library_name"] == "transformers" and card.data.base_model is None
    for row in (before, after):
        low, high = wilson(row["accuracy"], row["tasks"])
        assert f"| {row['accuracy']:.1%} | {low:.1%} to {high:.1%} |" in card.text
    assert re.search(r"\| optim.lr \| 0.01 \| 0.001 \|", card.text)
    assert re.search(r"\| method \|  \| grpo \|", card.text)
    start = read_rows(run / "starts.jsonl")[0]
    assert f"rlcore {start['rlcore']}, commit {start['commit']}" in card.text


def test_an_earlier_checkpoint_has_its_own_evaluations(run: Path, tmp_path: Path) -> None:
    folder = push(run, str(tmp_path / "early"), checkpoint="step_000002")
    card = ModelCard.load(Path(folder) / "README.md")
    (result,) = card.data.eval_results
    assert result.metric_name == "accuracy, stage before"
    assert "stages `sft`, after step 2" in card.text and "| optim.lr | 0.01 |" in card.text
    assert torch.equal(logits_of(Path(folder)), logits_of(run / "checkpoints/step_000002"))


def test_an_interval_of_the_row_is_kept(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    rows = read_rows(copy / "eval.jsonl")
    rows[-1] |= {"intervals": {"accuracy": [0.125, 0.875]}}
    (copy / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    card = ModelCard.load(Path(push(copy, str(tmp_path / "out"))) / "README.md")
    assert card.data.eval_results[0].metric_args["interval_95"] == [0.125, 0.875]


def code_of(folder: Path) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.S)
    return code.replace('path = "."', f"path = {str(folder)!r}")


def test_the_code_of_the_card_runs(pushed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = code_of(pushed)
    assert "Add | <b>up</b>." in code
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out


def test_an_adapter_alone_and_merged(adapted: Path, pushed: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    merged = Path(push(adapted, str(tmp_path / "merged")))
    alone = Path(push(adapted, str(tmp_path / "alone"), weights="adapter"))
    averaged = Path(push(adapted, str(tmp_path / "averaged"), weights="ema"))
    model = peft.AutoPeftModelForCausalLM.from_pretrained(alone)
    assert torch.allclose(logits(model), logits_of(merged), atol=1e-5)
    assert not torch.allclose(logits_of(merged), logits_of(pushed), atol=1e-5)
    assert not torch.equal(logits_of(averaged), logits_of(merged))
    assert not (alone / "model.safetensors").exists() and (alone / "chat_template.jinja").exists()
    card = ModelCard.load(alone / "README.md")
    assert card.data.to_dict()["library_name"] == "peft" and "type=lora, r=4" in card.text
    exec(compile(code_of(alone), "README.md", "exec"), {})
    assert card.data.eval_results is None  # the evaluation after training measured averaged weights
    results = ModelCard.load(averaged / "README.md").data.eval_results
    assert [result.metric_name for result in results] == ["accuracy, stage after"]


def test_a_base_model_of_the_hub_is_named(adapted: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(adapted, copy)
    recipe = yaml.safe_load((copy / "recipe.yaml").read_text())
    recipe["model"]["path"] = ["~/.cache/rlcore/models/smollm2", "else/where"]
    (copy / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    alone = Path(push(copy, str(tmp_path / "alone"), weights="adapter"))
    name = "HuggingFaceTB/SmolLM2-135M-Instruct"
    card = ModelCard.load(alone / "README.md")
    assert card.data.base_model == name
    assert card.data.to_dict()["base_model_relation"] == "adapter"
    assert json.loads((alone / "adapter_config.json").read_text())["base_model_name_or_path"] == name


def command(*arguments: object, endpoint: str, token: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_TOKEN": token,
        "HF_HUB_OFFLINE": "0",
        "TRANSFORMERS_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    return subprocess.run(
        [sys.executable, "-m", "rlcore", "push", *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_to_the_hub(run: Path, pushed: Path) -> None:
    with fake_hub() as hub:
        done = command(run, "someone/adder", "--private", endpoint=hub.address, token=TOKEN)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == [f"{hub.address}/someone/adder"]
        assert hub.repositories["someone/adder"]["visibility"] == "private"
        ((name, message, files),) = hub.commits
        assert (name, message) == ("someone/adder", "whole, step 4")
        assert files == {path.name: path.read_bytes() for path in pushed.iterdir()}
        assert hub.large.keys() == {hashlib.sha256(files["model.safetensors"]).hexdigest()}
        assert hub.cards == [files["README.md"].decode()]

        refused = command(run, "someone/adder", endpoint=hub.address, token="hf_of_a_stranger")
        assert refused.returncode == 2 and "Traceback" not in refused.stderr
        assert refused.stderr.startswith("error: cannot push to someone/adder at") and "HF_TOKEN" in refused.stderr
        assert len(hub.commits) == 1


def test_a_hub_that_is_not_there(run: Path) -> None:
    done = command(run, "someone/adder", endpoint="http://127.0.0.1:9", token=TOKEN)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: cannot push to someone/adder at http://127.0.0.1:9")


@pytest.mark.parametrize(
    "target, options, words",
    [
        ("out/model", {}, "write ./out/model or hf://out/model"),
        ("hf://model", {}, "no repository of the hub"),
        ("./out", {}, "is not an empty folder"),
        ("./new", {"checkpoint": "step_000003"}, "it has step_000002, step_000004"),
        ("./new", {"weights": "adapter"}, "no adapter weights, since its recipe has no model.peft"),
        ("./new", {"weights": "ema"}, "no optim.ema"),
        ("./out/file/new", {}, "cannot write"),
    ],
)
def test_bad_input(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, options: dict, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/file").write_text("kept")
    with pytest.raises(RunError, match=re.escape(words)):
        push(run, target, **options)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "file"]


def test_a_damaged_checkpoint_is_not_pushed(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    with (copy / "checkpoints/step_000004/model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    with pytest.raises(RunError, match="damaged"):
        push(copy, str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_no_run_and_no_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(tmp_path), "./new"]) == 2
    assert "is no run folder" in capsys.readouterr().err
    (tmp_path / "recipe.yaml").write_text("name: empty\n")
    with pytest.raises(RunError, match="no checkpoint to push yet"):
        push(tmp_path, "./new")
