"""One function reads tokenizers everywhere: whatever is told a model's folder reads a text as the tokens the learner saved."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Qwen2Config,
)

from rewards.judge_local import LocalJudge
from rewards.reward_model import RewardModel
from rlcore.errors import ModelError
from rlcore.learner.policy import load_policy
from rlcore.rollout.hf import HfEngine
from rlcore.tokenizer import byte_tokenizer, load_tokenizer

ROOT = Path(__file__).resolve().parent.parent
# An e and an accent as two characters: the tokenizer that AutoTokenizer has for qwen2 joins them.
TEXT = "cafe\u0301 12"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Saved as the learner saves: a qwen2 model with the tokenizer of bytes."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=264, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        max_position_embeddings=128, num_labels=1,
    )  # fmt: skip
    folders = {}
    for model_class in (AutoModelForCausalLM, AutoModelForSequenceClassification):
        folder = tmp_path_factory.mktemp(model_class.__name__)
        model_class.from_config(config).save_pretrained(folder)
        byte_tokenizer().save_pretrained(folder)
        folders[model_class.__name__] = str(folder)
    return folders


READERS: list[Callable[[str, str], Sequence[int]]] = [
    lambda causal, _: load_tokenizer(causal).encode(TEXT),
    lambda causal, _: load_policy(path=causal).tokenizer.encode(TEXT),
    lambda causal, _: HfEngine(causal, max_length=64)._tokenizer.encode(TEXT),
    lambda causal, _: LocalJudge(path=causal).tokenizer.encode(TEXT),
    lambda _, scores: RewardModel(path=scores).tokenizer.encode(TEXT),
]


@pytest.mark.parametrize(
    "read", READERS, ids=["alone", "learner", "hf engine", "judge", "reward model"]
)
def test_everything_reads_a_text_as_the_same_tokens(
    read: Callable, folders: dict[str, str]
) -> None:
    causal, scores = folders.values()
    assert AutoTokenizer.from_pretrained(causal).encode(TEXT) != list(TEXT.encode())
    assert read(causal, scores) == list(TEXT.encode())


def test_the_judge_still_pads_on_the_left(folders: dict[str, str], tmp_path: Path) -> None:
    """A tokenizer may say otherwise, and words generated behind padding would be another model's."""
    tokenizer = byte_tokenizer()
    tokenizer.padding_side = "right"
    causal = folders["AutoModelForCausalLM"]
    AutoModelForCausalLM.from_pretrained(causal).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    batch = LocalJudge(path=str(tmp_path)).tokenizer(["a", "abc"], padding=True)
    assert batch.attention_mask == [[0, 0, 1], [1, 1, 1]]


def test_a_name_of_the_hub_is_read_as_its_folder_is(
    folders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's cache holds the same files under another path."""
    snapshot = tmp_path / "models--someone--tiny" / "snapshots" / ("0" * 40)
    (tmp_path / "models--someone--tiny" / "refs").mkdir(parents=True)
    (tmp_path / "models--someone--tiny" / "refs" / "main").write_text("0" * 40)
    snapshot.parent.mkdir()
    snapshot.symlink_to(folders["AutoModelForCausalLM"])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert load_tokenizer("someone/tiny").encode(TEXT) == list(TEXT.encode())


@pytest.mark.parametrize("text", ["", "[]", "{}", "\0", '{"model": {"type": "BPE"}}'])
@pytest.mark.parametrize("kind", ["TokenizersBackend", "Qwen2Tokenizer"])
def test_a_damaged_tokenizer_is_a_sentence(tmp_path: Path, text: str, kind: str) -> None:
    byte_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(text)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    with pytest.raises(ModelError, match=f"^cannot load a tokenizer from '{tmp_path}': "):
        load_tokenizer(tmp_path)


def test_no_other_code_reads_tokenizers() -> None:
    """But for GGUF files, whose reader is the function's own, and the code that a model card shows."""
    found = subprocess.run(
        ["grep", "-rlE", r"(AutoTokenizer|TokenizerFast)\.from_pretrained", "--include=*.py", "rlcore", "rewards", "recipes"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert sorted(found.stdout.split()) == [
        "rlcore/analysis/model_card.py",
        "rlcore/gguf.py",
        "rlcore/tokenizer.py",
    ]
