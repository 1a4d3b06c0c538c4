"""The GSM8K recipe on the real rows, where they are at hand: data, rewards and three steps with a tiny model."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rlcore.cli.main import main
from rlcore.run.folder import read_rows
from tests.run.whole import finish, start

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("RLCORE_DATA", ROOT.parent / "shared" / "data"))
TRAIN = FOLDER / "gsm8k_train.jsonl"
TEST = FOLDER / "gsm8k_test.first_half.jsonl"
PATHS = (f"tasks.train.path={TRAIN}", f"tasks.test.path={TEST}", "tasks.train.subset=null", "tasks.test.subset=null",
         "tasks.test.split=train")  # fmt: skip

SHAPE = (
    "model_type: qwen2, hidden_size: 64, intermediate_size: 64, num_hidden_layers: 2, "
    "num_attention_heads: 2, num_key_value_heads: 1"
)

pytestmark = pytest.mark.skipif(
    not (TRAIN.exists() and TEST.exists()), reason="the GSM8K files are not here; set RLCORE_DATA"
)


def test_reference_answers_pass_and_corrupted_ones_do_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["recipes", "check", "gsm8k", *PATHS, "--rows", "200"]) == 0
    out = capsys.readouterr().out
    assert "tasks train: 7,473" in out
    assert (
        "reference answers of train with math: 200 checked, reference rate 1, corrupted rate 0"
        in out
    )


def test_three_steps_on_real_questions(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    model = f"model={{config: {{{SHAPE}, max_position_embeddings: 2048}}, tokenizer: bytes}}"
    small = [f"stages.{stage}.sampling.max_tokens=32" for stage in ("before", "rl", "after")]
    small += [
        "stages.before.limit=4",
        "stages.after.limit=4",
        "stages.rl.steps=3",
        "stages.rl.groups_per_step=4",
        "stages.rl.group_size=4",
    ]
    finish(start("train", "gsm8k", *PATHS, model, *small, f"run.folder={tmp_path}"))
    metrics = read_rows(tmp_path / "gsm8k" / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [1, 2, 3]
    rollouts = read_rows(tmp_path / "gsm8k/rollouts/000003.jsonl")
    questions = {row["question"] for row in read_rows(TRAIN)}
    assert len(rollouts) == 16 and {row["prompt"] for row in rollouts} <= questions
    assert all(row["status"] in ("ok", "wrong-format") for row in rollouts)
