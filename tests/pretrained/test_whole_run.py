"""Two steps of GRPO on the pretrained model through vLLM in bfloat16: saved, killed, resumed, and read by transformers."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

from rlcore.recipe.load import load
from rlcore.run.driver import train
from rlcore.run.folder import read_rows

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

TASKS = [
    {
        "prompt": f"Write two sentences about {topic}. Use no commas.",
        "instruction_id_list": ["punctuation:no_comma"],
        "kwargs": [{}],
    }
    for topic in ("bees", "the sea", "winter", "bread")
]


def recipe(folder: Path, model: Path) -> Path:
    (folder / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TASKS))
    path = folder / "tiny.yaml"
    path.write_text(f"""
name: tiny
model: {{path: ["{folder}/absent", "{model}"], dtype: bfloat16}}
engine: {{use: vllm_local, max_length: 128, max_sequences: 8}}
prompt: {{format: chat}}
tasks:
  train: {{use: dataset, path: tasks.jsonl, columns: {{prompt: prompt}}}}
rewards: [{{use: instructions}}]
stages:
  - kind: rl
    tasks: train
    steps: 2
    groups_per_step: 2
    group_size: 4
    sampling: {{max_tokens: 24, temperature: 0.8}}
    optim: {{lr: 1.0e-5}}
run: {{folder: "{folder}/runs", checkpoint_every: 1, keep_checkpoints: 1}}
""")
    return path


def test_two_steps_and_a_resume(smollm2: Path, tmp_path: Path) -> None:
    path = str(recipe(tmp_path, smollm2))
    process = subprocess.Popen([sys.executable, "-m", "rlcore", "train", path])
    first = tmp_path / "runs/tiny/checkpoints/step_000001"
    deadline = time.monotonic() + 240
    while not first.is_dir():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    train(load(path), resume=True, console=Console(quiet=True))
    rows = read_rows(tmp_path / "runs/tiny/metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        if row["updates"]:
            assert 0 < row["publish/gap"] < 0.7 * row["publish/gap_limit"]
        assert row["mismatch/kl"] < 0.05

    from transformers import AutoModelForCausalLM, AutoTokenizer

    (saved,) = (tmp_path / "runs/tiny/checkpoints").glob("step_*")
    model = AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(saved)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(smollm2).chat_template
    assert model.generation_config.eos_token_id == 2
    start = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    changed = [
        name
        for (name, a), b in zip(model.named_parameters(), start.parameters(), strict=True)
        if not torch.equal(a, b)
    ]
    assert len(changed) > 200 or not any(row["updates"] for row in rows)
