"""A model of somebody else runs no code: pickled weights, an adapter, a checkpoint's state, Python files beside the weights."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, Qwen2Config

from rewards.judge_local import LocalJudge
from rewards.reward_model import RewardModel
from rlcore.analysis.model_check import check_model
from rlcore.errors import ModelError, RewardError, RunError
from rlcore.learner.policy import load_policy
from rlcore.rollout.hf import HfEngine
from rlcore.rollout.vllm_config import read_config
from rlcore.run import checkpoint
from rlcore.scoring.forms import RewardSpec
from rlcore.scoring.load import load_reward
from rlcore.tokenizer import byte_tokenizer, load_tokenizer
from tests.run.test_checkpoint import write

Reader = Callable[[Path], Any]
CAUSAL: dict[str, Reader] = {
    "learner": lambda path: load_policy(path=str(path)),
    "hf engine": lambda path: HfEngine(path, max_length=64),
    "judge": lambda path: LocalJudge(path=str(path)),
    "models check": lambda path: _problems(path),
}
CLASSIFIER: dict[str, Reader] = {"reward model": lambda path: RewardModel(path=str(path))}


def _problems(path: Path) -> None:
    """`models check` reports what it does not raise."""
    for finding in check_model(str(path)):
        if finding.verdict == "problem" and "weights" in finding.what:
            raise ModelError(finding.text)


class Malicious:
    """Unpickled, it writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return (os.mknod, (str(self.target),))


def make_model(folder: Path, *, causal: bool) -> Path:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=264, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        max_position_embeddings=128, num_labels=1, tie_word_embeddings=False,
    )  # fmt: skip
    maker = AutoModelForCausalLM if causal else AutoModelForSequenceClassification
    maker.from_config(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def as_pickle(folder: Path, *, extra: Any = None, zipped: bool = True) -> None:
    """Put the weights of a folder into pytorch_model.bin alone, with one value more."""
    from safetensors.torch import load_file

    weights: dict[str, Any] = load_file(folder / "model.safetensors")
    if extra is not None:
        weights["extra"] = extra
    target = folder / "pytorch_model.bin"
    torch.save(weights, target, _use_new_zipfile_serialization=zipped)
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("name", [*CAUSAL, *CLASSIFIER])
@pytest.mark.parametrize("form", ["zip", "legacy", "bare"])
def test_a_malicious_pickle_is_refused_and_does_not_run(
    tmp_path: Path, name: str, form: str
) -> None:
    folder = make_model(tmp_path / "model", causal=name in CAUSAL)
    target = tmp_path / "written"
    pickle.loads(pickle.dumps(Malicious(target)))
    assert target.exists(), "the pickle of this test does what it should not"
    target.unlink()
    as_pickle(folder, extra=Malicious(target), zipped=form == "zip")
    if form == "bare":
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Malicious(target), protocol=2))
    with pytest.raises(ModelError) as raised:
        (CAUSAL | CLASSIFIER)[name](folder)
    assert "might run code; use a copy with .safetensors files" in str(raised.value)
    assert "weights_only" not in str(raised.value) and len(str(raised.value)) < 400
    assert not target.exists()


@pytest.mark.parametrize("name", [*CAUSAL, *CLASSIFIER])
def test_tensors_alone_are_read_from_a_pickle(tmp_path: Path, name: str) -> None:
    """Older models have no other files."""
    folder = make_model(tmp_path, causal=name in CAUSAL)
    as_pickle(folder)
    (CAUSAL | CLASSIFIER)[name](folder)


def test_a_reward_of_such_a_model_is_refused_in_a_sentence(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", causal=False)
    as_pickle(folder, extra=Malicious(tmp_path / "written"))
    with pytest.raises(
        RewardError, match=r"might run code; use a copy with \.safetensors files"
    ):
        load_reward(RewardSpec("reward_model", params={"path": str(folder)}))
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize(
    "known", [True, False], ids=["known architecture", "unknown architecture"]
)
def test_python_files_of_a_model_never_run_and_nobody_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """transformers asks at the terminal whether to run them, unless it is told not to."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    for causal in (True, False):
        folder = make_model(tmp_path / f"{causal}", causal=causal)
        classes = ("AutoConfig", "AutoModelForCausalLM", "AutoModelForSequenceClassification")
        change(folder / "config.json", auto_map={name: "author.Thing" for name in classes})
        change(
            folder / "tokenizer_config.json",
            auto_map={"AutoTokenizer": ["author.Thing", None]},
            tokenizer_class="Unheard",
        )
        if not known:
            change(folder / "config.json", model_type="unheard-of")
        (folder / "author.py").write_text(
            f"open({str(tmp_path / 'written')!r}, 'w')\nThing = None\n"
        )
        readers = {"tokenizer": load_tokenizer, "vllm": lambda path: read_config(path, 1, 64)}
        for read in (readers | (CAUSAL if causal else CLASSIFIER)).values():
            if known:
                read(folder)
            else:
                with pytest.raises(
                    ModelError, match="Python code of its author, which rlcore does not run"
                ):
                    read(folder)
    assert not (tmp_path / "written").exists()


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_an_adapter_that_is_a_malicious_pickle_does_not_run(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    policy = load_policy(
        path=str(make_model(tmp_path / "model", causal=True)), peft={"type": "lora", "r": 2}
    )
    saved = tmp_path / "saved"
    policy.save(saved)
    (saved / "adapter/adapter_model.safetensors").unlink()
    torch.save({"x": Malicious(tmp_path / "written")}, saved / "adapter/adapter_model.bin")
    with pytest.raises(ModelError):
        policy.adapter.load(saved / "adapter")
    with pytest.raises(ModelError):
        load_policy(path=str(saved / "adapter"))
    assert not (tmp_path / "written").exists()


def test_the_state_of_a_foreign_checkpoint_does_not_run(tmp_path: Path) -> None:
    """Under a manifest that is right."""
    write(tmp_path, 3)
    state = tmp_path / "step_000003/trainer/state.pt"
    torch.save({"learner": Malicious(tmp_path / "written")}, state)
    manifest = state.with_name("manifest.json")
    change(manifest, **{"trainer/state.pt": checkpoint.checksum(state)})
    with pytest.raises(RunError, match="is damaged"):
        checkpoint.read(tmp_path / "step_000003")
    assert not (tmp_path / "written").exists()
