"""Rows as files have them: of any type, too long, without what a stage needs."""

from __future__ import annotations

import datetime
import decimal
import json
import sys
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcore.cli.main import main
from rlcore.errors import RecipeError
from rlcore.run.folder import read_rows
from rlcore.run.trackers import check_trackers
from rlcore.scoring.forms import RewardSpec
from rlcore.scoring.scorer import Scorer
from rlcore.types import Rollout, Task
from rlcore.types.plain import plain, whole_text
from tests.run.test_bad_input import sentence

LONE = "half a smile \ud83d, and a whole one \ud83d\ude00"
TASKS = f"""
import datetime, decimal
from rlcore import Task

ANSWERS = [
    datetime.datetime(2026, 11, 28, 5, 0), decimal.Decimal("3.10"), b"raw", b"\\xff\\x00", {{"b", "a"}},
    {{1: datetime.date(2026, 1, 1), "nested": [decimal.Decimal(2)]}}, {LONE!r},
]

def any_type():
    return [
        Task(id=f"{{i}}/" + {LONE!r}, prompt=f"{{i}}+" + {LONE!r}, answer=answer, category={LONE!r})
        for i, answer in enumerate(ANSWERS)
    ]
"""
REWARDS = """
from rlcore import Verdict

def text_part(completion, **columns):
    return Verdict(value=1.0, parts={"judge": "good"})

def dict_part(completion, **columns):
    return Verdict(value=1.0, parts={"judge": {"score": 1}})

def batch_part(prompts, completions, log_metric, **columns):
    log_metric("words", [1, 2])
    return [1.0] * len(completions)

def number_parts(completion, **columns):
    return Verdict(value=1.0, parts={"flag": True, "none": None, "n": 3})

def complains(completion, **columns):
    raise ValueError("no \\ud83d smile")
"""


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime.datetime(2026, 11, 28, 5), "2026-11-28T05:00:00"),
        (decimal.Decimal("3.10"), "3.10"),
        (b"raw", "raw"),
        (b"\xff\x00", "/wA="),
        ({"b", "a"}, ["a", "b"]),
        ({1: (2, datetime.date(2026, 1, 1))}, {"1": [2, "2026-01-01"]}),
        (np.float32(0.5), 0.5),
        (np.arange(3), [0, 1, 2]),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (datetime.timedelta(seconds=90), "0:01:30"),
        ("a\ud83db", "a\ufffdb"),
        ("\ud83d\ude00", "\U0001f600"),
        (True, True),
    ],
)
def test_any_value_can_be_written_down(value: Any, expected: Any) -> None:
    assert plain(value) == expected
    json.dumps(plain(value)).encode("utf-8")


def test_whole_texts_are_left_alone() -> None:
    assert whole_text("héllo 🙂") == "héllo 🙂"


def test_a_run_writes_down_tasks_of_any_type(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "my_tasks.py").write_text(TASKS)
    overrides = [
        f"tasks.demonstrations={{use: '{tmp_path}/my_tasks.py:any_type'}}",
        "stages=[{kind: rl, tasks: demonstrations, steps: 1, groups_per_step: 7, group_size: 2, "
        "curriculum: ordered, rewards: [{use: length, max_tokens: 4}], scoring: {workers: 1}, "
        "sampling: {max_tokens: 4}}]",
        "engine.max_length=64",
    ]
    assert main(["train", str(tiny), *overrides]) == 0
    rows = read_rows(tmp_path / "runs/tiny/rollouts/000001.jsonl")
    answers = [row["answer"] for row in rows[::2]]
    assert len(rows) == 14 and "3.10" in answers and ["a", "b"] in answers
    assert "2026-11-28T05:00:00" in answers


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("text_part", "gave a str as its part 'judge'"),
        ("dict_part", "gave a dict as its part 'judge'"),
        ("batch_part", "gave a list as its part 'words'"),
    ],
)
def test_parts_that_are_no_numbers_are_told_and_cost_no_worker(
    tmp_path: Path, name: str, said: str
) -> None:
    path = tmp_path / "parts.py"
    path.write_text(REWARDS)
    rollout = Rollout.from_tokens(
        id="r", task_id="t", token_ids=[1, 2], mask=[False, True], logprobs=[0.0, 0.0], text="x"
    )
    with Scorer([RewardSpec(f"{path}:{name}")], workers=1) as scorer:
        before = scorer._workers[0].pid
        ((verdict,),) = scorer.score([(Task(id="t", prompt="?"), [rollout])])
        assert scorer._workers[0].pid == before
    assert verdict.status == "crashed" and said in verdict.reason


def test_parts_that_are_numbers_stay(tmp_path: Path) -> None:
    path = tmp_path / "parts.py"
    path.write_text(REWARDS)
    rollout = Rollout.from_tokens(
        id="r", task_id="t", token_ids=[1, 2], mask=[False, True], logprobs=[0.0, 0.0], text="x"
    )
    with Scorer(
        [RewardSpec(f"{path}:number_parts"), RewardSpec(f"{path}:complains")]
    ) as scorer:
        ((verdict,),) = scorer.score([(Task(id="t", prompt="?"), [rollout])])
    assert verdict.parts["number_parts/flag"] == 1.0 and verdict.parts["number_parts/n"] == 3.0
    plain(verdict.reason).encode("utf-8")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """60 rows; number 41 is too long for the model, number 17 has no demonstration."""
    path = tmp_path / "rows.jsonl"
    lines = []
    for i in range(60):
        prompt = "1+" * (60 if i == 41 else 2) + "1="
        lines.append({"prompt": prompt, "answer": "3", "demonstration": "3", "half": "3"})
        if i == 17:
            lines[-1]["half"] = None
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


SFT = "stages=[{kind: sft, tasks: demonstrations, steps: 20, batch_size: 3}]"
RL = (
    "stages=[{kind: rl, tasks: demonstrations, steps: 20, groups_per_step: 3, group_size: 2, "
    "rewards: [{use: length, max_tokens: 4}], scoring: {workers: 1}, sampling: {max_tokens: 4}}]"
)


@pytest.mark.parametrize("stage", [SFT, RL])
def test_a_long_row_is_told_before_the_first_step(
    tiny: Path, rows: Path, stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = f"tasks.demonstrations={{use: dataset, path: {rows}}}"
    said = sentence(capsys, "train", tiny, tasks, stage)
    assert "tasks.demonstrations: 1 of 60 rows are too long, the first is rows/41" in said
    assert ("124" in said if stage is SFT else "122" in said) and "prompt.too_long=drop" in said
    assert not (tmp_path / "runs/tiny/metrics.jsonl").exists()
    # and without a model
    assert sentence(capsys, "recipes", "check", tiny, tasks, stage) == said
    assert main(["recipes", "check", str(tiny), tasks, stage, "prompt.too_long=drop"]) == 0
    assert "tasks demonstrations: 1 of 60 rows are too long and left out" in capsys.readouterr().out


def test_a_check_without_the_tokenizer_measures_no_prompt(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = "model={path: [no/such-folder, ./neither]}"
    assert main(["recipes", "check", str(tiny), model]) == 0
    assert "prompts: not measured" in capsys.readouterr().out


@pytest.mark.parametrize("stage", [SFT, RL])
def test_long_rows_are_left_out_and_counted(
    tiny: Path, rows: Path, stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = f"tasks.demonstrations={{use: dataset, path: {rows}}}"
    steps = stage.replace("steps: 20", "steps: 2")
    arguments = [
        "train",
        str(tiny),
        tasks,
        steps,
        "prompt.too_long=drop",
        "run.checkpoint_every=1",
    ]
    assert main(arguments) == 0
    assert "1 of 60 rows are too long and left out" in capsys.readouterr().out
    # the advice holds for a run that goes on, too
    longer = [word.replace("steps: 2", "steps: 4") for word in arguments]
    assert main([*longer, "--resume"]) == 0
    assert [row["step"] for row in read_rows(tmp_path / "runs/tiny/metrics.jsonl")] == [
        1,
        2,
        3,
        4,
    ]


def test_a_row_without_a_demonstration_is_told_before_the_first_step(
    tiny: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = (
        f"tasks.demonstrations={{use: dataset, path: {rows}, columns: {{demonstration: half}}}}"
    )
    said = sentence(capsys, "train", tiny, tasks, SFT, "prompt.too_long=drop")
    assert "'rows/17' has no demonstration to imitate" in said


def test_a_set_of_long_rows_alone_is_no_empty_run(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps({"prompt": "1+" * 60, "demonstration": "3"}))
    tasks = f"tasks.demonstrations={{use: dataset, path: {path}}}"
    said = sentence(capsys, "train", tiny, tasks, SFT, "prompt.too_long=drop")
    assert "all 1 rows are too long" in said


@pytest.mark.parametrize("name", ["wandb", "trackio", "tensorboard"])
def test_a_tracker_that_is_not_installed_is_named(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "meta_path", [])
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(RecipeError, match=f"run.trackers names {name}, which is not installed"):
        check_trackers([name])
