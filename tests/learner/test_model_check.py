"""`rlcore models check`: what a folder brings along, said before a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from rlcore.cli.main import main
from rlcore.learner.policy import load_policy
from tests.learner.test_load_check import LONGROPE, SIZES
from tests.learner.tiny_model import TINY
from tests.rollout.test_chat_templates import (
    CHATML,
    DEEPSEEK_R1,
    MISTRAL,
    QWEN3,
    tokenizer_with,
)


def findings(
    capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, dict[str, dict[str, str]]]:
    status = main(["models", "check", *map(str, arguments), "--json"])
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])
    return status, {row["what"]: row for row in rows}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    load_policy(config=TINY | {"vocab_size": 280}, tokenizer="bytes").save(tmp_path)
    return tmp_path


def test_a_sound_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = findings(capsys, folder)
    assert status == 0
    assert found["end of a completion"]["text"] == "<|eos|> (258)"
    assert found["weights and packed forward"]["verdict"] == "ok"
    assert found["longest sequence"]["text"] == "256 tokens"
    assert "0.1M parameters" in found["memory"]["text"]


def test_a_base_model_with_a_chat_template(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer_with(CHATML, "<|im_start|>", "<|im_end|>").save_pretrained(folder)
    status, found = findings(capsys, folder, "--no-weights")
    assert status == 0 and found["end of a turn"]["verdict"] == "note"
    assert "<|im_end|>" in found["end of a turn"]["text"]
    assert "<|im_end|>" in found["end of a completion"]["text"]


@pytest.mark.parametrize(
    ("template", "added", "what", "text"),
    [
        (DEEPSEEK_R1, ("<think>",), "thinking", "opens <think>"),
        (QWEN3, ("<think>",), "template arguments", "enable_thinking"),
        (QWEN3, ("<think>",), "earlier turns", "thinking is dropped"),
        (MISTRAL, (), "system message", "leave prompt.system out"),
    ],
)
def test_templates(
    folder: Path,
    template: str,
    added: tuple[str, ...],
    what: str,
    text: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tokenizer_with(template, "<|im_start|>", "<|im_end|>", added=added).save_pretrained(folder)
    assert text in findings(capsys, folder, "--no-weights")[1][what]["text"]


def test_problems_are_an_exit_status(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.6}))
    status, found = findings(capsys, folder)
    assert status == 1
    assert found["weights and packed forward"]["verdict"] == "problem"
    assert "lack model.norm.weight" in found["weights and packed forward"]["text"]
    assert found["generation config"]["verdict"] == "note"


def test_the_limit_of_a_rope(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_policy(config=SIZES | LONGROPE, tokenizer="bytes").save(tmp_path)
    found = findings(capsys, tmp_path, "--no-weights")[1]
    assert "change beyond 32 tokens" in found["rope"]["text"]


def test_what_is_no_model_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "check", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: cannot load a model from") and said.count("\n") == 1
