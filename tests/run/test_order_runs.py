"""Stage `sft` over pieces of documents in buckets, and schedules that go on after their end."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from rlcore.errors import RlcoreError
from rlcore.recipe.check import check
from rlcore.recipe.load import load
from rlcore.run.checkpoint import all_checkpoints
from rlcore.run.driver import train
from rlcore.run.folder import RunFolder, read_rows
from tests.run.whole import weights

MODEL = """
model:
  tokenizer: bytes
  config: {model_type: qwen2, hidden_size: 32, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2,
           num_key_value_heads: 1, max_position_embeddings: 64, tie_word_embeddings: true}
engine: {use: hf, max_length: 48, max_sequences: 64}
"""
PIECES = """
tasks:
  pieces: {use: corpus, path: FOLDER/texts.jsonl, unit: paragraph, tokenizer: bytes, form: {use: pieces, shortest: 4, longest: 32},
           keep: {min_chars: 1, min_segments: 1, target_chars: 1, capacity: 0, quality: false}}
stages:
  - {kind: sft, tasks: pieces, steps: 8, batch_size: 1, curriculum: buckets, optim: {lr: 1e-2}}
"""
SUMS = """
tasks: {sums: {use: arithmetic, split: train, size: 64, max_number: 4, terms: [2]}}
stages:
  - {kind: sft, tasks: sums, steps: 8, batch_size: 8, optim: {lr: 1e-2, schedule: {use: wsd, decay_fraction: 0.5}}}
"""


def recipe_in(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    lines = ["The river is long and the " + "old " * (i % 7) + f"bridge of year {i} is not." for i in range(40)]
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    path = folder / "tiny.yaml"
    head = f"name: tiny\nrun: {{folder: {folder / 'runs'}, checkpoint_every: 2, keep_checkpoints: 20}}\n"
    path.write_text(head + MODEL + text.replace("FOLDER", str(folder)))
    return path


def run(path: Path, *overrides: str, resume: bool = False) -> RunFolder:
    recipe = load(str(path), overrides)
    train(recipe, resume=resume, console=Console(file=io.StringIO()))
    return RunFolder(Path(recipe.run.folder) / recipe.name)


def test_batches_of_pieces_have_equal_tokens_and_resume_is_exact(tmp_path: Path) -> None:
    whole = run(recipe_in(tmp_path / "whole", PIECES))
    parts = recipe_in(tmp_path / "parts", PIECES)
    run(parts, "stages.sft.steps=3")
    resumed = run(parts, resume=True)
    rows = read_rows(whole.metrics)
    assert [row["tokens/trained"] for row in rows] == [32] * 8
    fractions = [{key: value for key, value in row.items() if key.startswith("curriculum/")} for row in rows]
    assert all(len(row) == 1 for row in fractions)
    assert len({key for row in fractions for key in row}) >= 2  # buckets
    assert [row["loss"] for row in rows] == [row["loss"] for row in read_rows(resumed.metrics)]
    assert weights(whole.path) == weights(resumed.path)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("curriculum={use: buckets, by: category}", None),
        ("curriculum={use: buckets, odds: 0}", "odds above 0"),
        ("curriculum={use: buckets, by: level}", "column 'level'"),
    ],
)
def test_what_is_checked_before_a_run(tmp_path: Path, override: str, said: str | None) -> None:
    recipe = load(str(recipe_in(tmp_path, PIECES)), [f"stages.sft.{override}"])
    if said is None:
        assert check(recipe)
        return
    with pytest.raises(RlcoreError, match=said):
        check(recipe)


def test_a_chat_template_does_not_frame_pieces(tmp_path: Path) -> None:
    from rlcore.rollout.demonstration import encode_demonstration
    from rlcore.rollout.prompt import PromptEncoder
    from rlcore.tokenizer import load_tokenizer
    from rlcore.types import Task

    tokenizer = load_tokenizer("bytes")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(RlcoreError, match="set prompt.format=plain"):
        encode_demonstration(PromptEncoder(tokenizer, format="chat"), Task(id="1", prompt="?", demonstration=[65]))
    with pytest.raises(RlcoreError, match="has the token 100000"):
        encode_demonstration(PromptEncoder(tokenizer), Task(id="1", prompt="?", demonstration=[100000]))


def test_wsd_s_goes_on_from_the_decayed_weights_at_the_peak_rate(tmp_path: Path) -> None:
    """arXiv 2410.05192: one run serves several budgets. Factors by hand: 8 updates, then 16."""
    path = recipe_in(tmp_path, SUMS)
    first = run(path)
    before = read_rows(first.metrics)
    decayed = weights(first.path)
    run(path, "stages.sft.steps=16", resume=True)
    rows = read_rows(first.metrics)
    factors = [row["lr"] / 1e-2 for row in rows]
    short = [1, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    assert factors[:8] == pytest.approx(short) and rows[:8] == before
    assert factors[8:] == pytest.approx([1 - i / 8 for i in range(8)])
    kept = {int(path.name.removeprefix("step_")): path for path in all_checkpoints(first.checkpoints)}
    assert decayed != weights(first.path) and {8, 16} <= kept.keys()
    state = torch.load(kept[16] / "trainer/state.pt", weights_only=True)["learner"]["optimizer"]["state"]
    assert {int(moments["step"]) for moments in state.values()} == {16}  # AdamW's moments were kept
