"""Bad input ends in one clear sentence and a non-zero exit, through the real command."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from rlcore.cli.main import main
from rlcore.run.folder import read_rows
from tests.run.whole import start

REWARDS = """
def raising(prompts, completions, **columns):
    raise ZeroDivisionError("the plugin is wrong")

def hanging(prompts, completions, **columns):
    while True:
        pass
"""


def sentence(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line a refused command prints; nothing else may look like an error."""
    assert main([str(argument) for argument in arguments]) == 2
    lines = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")
    ]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture
def rewards(tmp_path: Path) -> Path:
    path = tmp_path / "my_rewards.py"
    path.write_text(REWARDS)
    return path


def test_unknown_key(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown key 'stages.rl.group_sise'; did you mean 'group_size'?" in sentence(
        capsys, "train", tiny, "stages.rl.group_sise=3"
    )


def test_missing_column(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.jsonl").write_text('{"question": "1+1=", "answer": "2"}\n')
    tasks = f"tasks.eval_set={{use: dataset, path: {tmp_path / 'rows.jsonl'}, columns: {{prompt: questoin}}}}"
    said = sentence(capsys, "train", tiny, tasks)
    assert "questoin" in said and "question" in said and "rows.jsonl" in said


def test_empty_dataset(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.jsonl").write_text("")
    said = sentence(
        capsys,
        "train",
        tiny,
        f"tasks.eval_set={{use: dataset, path: {tmp_path / 'rows.jsonl'}, columns: {{prompt: q}}}}",
    )
    assert "rows.jsonl" in said


def test_prompt_longer_than_the_model(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"q": "' + "1+" * 200 + '1="}\n')
    tasks = f"tasks.eval_set={{use: dataset, path: {tmp_path / 'rows.jsonl'}, columns: {{prompt: q}}}}"
    said = sentence(capsys, "train", tiny, tasks, "stages.sft.steps=1")
    assert "402" in said and "48" in said, "both lengths are named"


def test_reward_raising(tiny: Path, rewards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = sentence(
        capsys,
        "train",
        tiny,
        "stages.sft.steps=1",
        f"stages.rl.rewards=[{{use: '{rewards}:raising'}}]",
    )
    assert (
        "none of the 16 completions" in said
        and "ZeroDivisionError: the plugin is wrong" in said
    )


def test_reward_hanging(tiny: Path, rewards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    override = f"stages.rl.rewards=[{{use: '{rewards}:hanging'}}]"
    said = sentence(
        capsys,
        "train",
        tiny,
        "stages.sft.steps=1",
        override,
        "stages.rl.scoring.deadline_s=0.5",
    )
    assert "none of the 16 completions" in said and "timed-out" in said


def test_reward_that_does_not_exist(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean" in sentence(
        capsys, "train", tiny, "stages.rl.rewards=[{use: lenght}]"
    )


def test_model_path_wrong(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = sentence(capsys, "train", tiny, f"model={{path: {tmp_path / 'no_model'}}}")
    assert "no_model" in said


def test_vllm_absent(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    said = sentence(capsys, "train", tiny, "engine.use=vllm_local", "stages.sft.steps=1")
    assert "rlcore[vllm]" in said and "hf" in said


def test_unwritable_run_folder(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "blocked").write_text("a file where a folder is wanted")
    said = sentence(capsys, "train", tiny, f"run.folder={tmp_path / 'blocked'}")
    assert "cannot be written" in said and "run.folder" in said
    if os.geteuid() != 0:  # root writes everywhere
        (tmp_path / "locked").mkdir(mode=0o555)
        assert "cannot be written" in sentence(
            capsys, "train", tiny, f"run.folder={tmp_path / 'locked'}"
        )


def test_corrupt_checkpoint(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ("stages.sft.steps=2", "stages.rl.steps=1")
    assert main(["train", str(tiny), *short]) == 0
    last = sorted((tmp_path / "runs/tiny/checkpoints").glob("step_*"))[-1] / "model.safetensors"
    last.write_bytes(last.read_bytes()[:-100])
    said = sentence(capsys, "train", tiny, *short, "--resume")
    assert (
        "is damaged: model.safetensors" in said
        and "delete that folder to resume from step_000002" in said
    )


@pytest.fixture
def finished(tiny: Path, tmp_path: Path) -> tuple[Path, tuple[str, ...]]:
    """A run folder with checkpoints of steps 2 and 3, and the overrides that it was made with."""
    short = ("stages.sft.steps=2", "stages.rl.steps=1")
    assert main(["train", str(tiny), *short]) == 0
    return tmp_path / "runs/tiny", short


def test_what_was_lost_from_a_run_folder_is_said(
    tiny: Path, finished: tuple[Path, tuple[str, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, short = finished
    resume = ("train", tiny, *short, "--resume")
    newest, oldest = folder / "checkpoints/step_000003", folder / "checkpoints/step_000002"
    cursor = newest / "trainer/cursor.json"
    content = cursor.read_text()
    for damage in ("", "[]", '{"unheard": 1}', content[:-5]):
        cursor.write_text(damage)
        said = sentence(capsys, *resume, "stages.rl.steps=2")
        assert "step_000003 is damaged: " in said and "resume from step_000002" in said
        assert "Expecting" not in said and "delimiter" not in said
    (oldest / "trainer/state.pt").write_bytes(b"")
    assert "start again with --overwrite" in sentence(capsys, *resume), "both are damaged"
    shutil.rmtree(folder / "checkpoints")
    said = sentence(capsys, *resume)
    assert "holds no checkpoint, but step_000003 was saved there: put it back" in said
    assert len(read_rows(folder / "metrics.jsonl")) == 3
    assert main(["train", str(tiny), *short, "--overwrite"]) == 0
    (folder / "metrics.jsonl").unlink()
    capsys.readouterr()
    assert main(list(map(str, resume))) == 0
    assert "metrics.jsonl has 0 rows of 3 steps: some were lost" in capsys.readouterr().out


def test_a_refused_folder_is_one_sentence_of_one_process(
    tiny: Path, finished: tuple[Path, tuple[str, ...]]
) -> None:
    """The others end without a traceback, which would scroll it away."""
    _, short = finished
    process = start("train", tiny, *short, processes=2)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "Traceback" not in err and err.count("already holds a run") == 1


def test_a_run_that_is_not_there_yet_is_said(
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    short = ["stages=[{kind: sft, tasks: demonstrations, steps: 1}]", "run.folder=~/runs"]
    assert main(["train", str(tiny), *short, "--resume"]) == 0
    assert f"there is no run in {tmp_path}/home/runs/tiny yet" in capsys.readouterr().out
    assert (tmp_path / "home/runs/tiny/metrics.jsonl").exists() and not Path("~").exists()
