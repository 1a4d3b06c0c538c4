"""`rlcore models check`: what a folder brings along, said before a run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from rlcore.analysis.model_check import check_model
from rlcore.cli.main import main
from rlcore.errors import ModelError
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


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text)


def without(*names: str) -> Callable[[Path], None]:
    def remove(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return remove


def with_key(key: str, value: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {key: value}))

    return change


TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
BROKEN: list[tuple[Callable[[Path], None], str]] = [
    (without("config.json"), "has no config.json: it holds no model"),
    (write("config.json", '{"model_type": '), "is not a valid JSON file"),
    (write("config.json", "[1, 2]"), "cannot load the config of a model"),
    (write("config.json", "{}"), "Should have a `model_type` key"),
    (with_key("model_type", "qwen99"), "does not recognize this architecture"),
    (with_key("hidden_size", "big"), "Field 'hidden_size' expected int, got str"),
    (with_key("quantization_config", {"quant_method": "gptq"}), "is quantised (gptq)"),
    (without(*TOKENIZER), "has no vocabulary: tokenizer.json"),
    (write("tokenizer.json", '{"a": '), "cannot load a tokenizer from"),
    (write("generation_config.json", "{"), "cannot read generation_config.json"),
    (
        write("chat_template.jinja", "{% for m in messages %}{{ m"),
        "it cannot be used (unexpected",
    ),
    (write("chat_template.jinja", "{{ messages | nofilter }}"), "No filter named 'nofilter'"),
    (
        write("chat_template.jinja", "{{ raise_exception('never') }}"),
        "it cannot be used (never)",
    ),
    (without("model.safetensors"), "no file named model.safetensors"),
    (write("model.safetensors", "version https://git-lfs"), "Error while deserializing header"),
    (
        lambda folder: os.truncate(folder / "model.safetensors", 9000),
        "Error while deserializing",
    ),
]


@pytest.mark.parametrize(("damage", "said"), BROKEN)
def test_a_broken_model_is_one_sentence_and_an_exit_status(
    folder: Path,
    damage: Callable[[Path], None],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(folder)
    status = main(["models", "check", str(folder), "--json"])
    told = capsys.readouterr()
    if status == 2:
        sentences = told.err.splitlines()
    else:
        rows = json.loads(told.out.splitlines()[-1])
        sentences = [row["text"] for row in rows if row["verdict"] == "problem"]
    assert status in (1, 2) and len(sentences) == 1
    assert said in sentences[0]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("absent", None, "the path does not exist"),
        ("absent.gguf", None, "the path does not exist"),
        ("file", b"hello", "is a file: name the folder of a model"),
        ("text.gguf", b"hello", "is not a GGUF file"),
        ("cut.gguf", b"GGUF\x03\x00\x00\x00" + bytes(40), "is the file whole?"),
    ],
)
def test_what_is_no_model_is_one_sentence(
    name: str,
    content: bytes | None,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert main(["models", "check", str(tmp_path / name)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and said in told and told.count("\n") == 1


def test_an_adapter_alone_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="it holds an adapter alone, without its model"):
        check_model(str(tmp_path))


@pytest.mark.parametrize("name", ["", "  ", "a/b/c", "./nothing", "~/nothing-of-that-name"])
def test_a_path_that_is_no_hub_name_is_not_looked_for_on_the_hub(name: str) -> None:
    with pytest.raises(ModelError, match="is empty|the path does not exist"):
        load_policy(path=name)
