"""Reward files written for other trainers train a step here as they are: TRL's batch form, verifiers' async form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlcore.run.folder import read_rows
from tests.run.whole import TINY, finish, start

TRL = '''
import re


def format_reward_func(completions, **kwargs):
    """Reward function that checks if the completion holds a letter that is not a digit."""
    contents = [completion[0]["content"] for completion in completions]
    return [1.0 if re.search(r"[^0-9]", content) else 0.0 for content in contents]


def even_tasks_only(prompts, completions, level, trainer_state=None, **kwargs):
    assert all(prompt[-1]["role"] == "user" for prompt in prompts)
    assert len(kwargs["completion_ids"]) == len(completions)
    kwargs["log_metric"]("mean_level", sum(level) / len(level))
    return [len(completion[0]["content"]) if l % 2 == 0 else None for completion, l in zip(completions, level)]
'''
VERIFIERS = """
import asyncio


async def correct_answer(prompt, completion, answer, state, **kwargs) -> float:
    await asyncio.sleep(0.01)
    assert state["completion"] == completion and state["level"] == kwargs["level"]
    return float(answer in completion[-1]["content"]) + 0.01 * len(completion[-1]["content"])
"""


def test_files_of_other_trainers_train_a_step(tmp_path: Path) -> None:
    (tmp_path / "trl_file.py").write_text(TRL)
    (tmp_path / "verifiers_file.py").write_text(VERIFIERS)
    rows = [
        {"prompt": [{"role": "user", "content": f"{n}+1="}], "answer": str(n + 1), "level": n % 4}
        for n in range(8)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    head = TINY[: TINY.index("tasks:")].replace("name: tiny", "name: others")
    (tmp_path / "others.yaml").write_text(f"""{head}
prompt: {{format: chat}}
tasks:
  rows: {{use: dataset, path: {tmp_path}/rows.jsonl}}
stages:
  - kind: rl
    tasks: rows
    steps: 1
    groups_per_step: 8
    group_size: 4
    sampling: {{max_tokens: 12}}
    scoring: {{workers: 1}}
    rewards:
      - {{use: "{tmp_path}/trl_file.py:format_reward_func"}}
      - {{use: "{tmp_path}/verifiers_file.py:correct_answer", weight: 0.5}}
      - {{use: "{tmp_path}/trl_file.py:even_tasks_only", weight: 0.1, optional: true}}
run: {{folder: {tmp_path}/runs}}
""")
    finish(start("train", tmp_path / "others.yaml"))
    (step,) = read_rows(tmp_path / "runs/others/metrics.jsonl")
    assert step["tokens/trained"] > 0 and step["reward/frac_unscored"] == 0
    written = read_rows(tmp_path / "runs/others/rollouts/000001.jsonl")
    assert len(written) == 32
    for row in written:
        parts = row["parts"]
        assert (parts["even_tasks_only"] is None) == (parts["even_tasks_only/mean_level"] % 2 == 1)
        value = (
            parts["format_reward_func"]
            + 0.5 * parts["correct_answer"]
            + 0.1 * (parts["even_tasks_only"] or 0.0)
        )
        assert row["value"] == pytest.approx(value)
    assert {row["parts"]["even_tasks_only"] is None for row in written} == {True, False}
