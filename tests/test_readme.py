"""The README is true: its commands run, its code works, its links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rlcore.cli.main import main
from rlcore.recipe.load import load, validate
from rlcore.run.folder import read_rows
from tests.run.whole import TINY

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")

WRITER = """
from rlcore.rollout.hf import HfEngine


class Writer(HfEngine):
    def submit(self, requests):
        open("written", "w").write("by Writer")
        super().submit(requests)
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def commands() -> list[str]:
    lines = [line.split("#")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line.startswith("rlcore")]


def run(line: str, folder: Path) -> str:
    binaries = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": binaries, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        line, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_two_commands_are_what_ci_runs() -> None:
    ci = (ROOT / ".ci/run").read_text(encoding="utf-8")
    for script in ("launch/quickstart.sh", "launch/test.sh"):
        assert f"bash {script}" in blocks("bash")[0] and f"bash {script}" in ci


@pytest.mark.slow
def test_every_command_runs_from_anywhere(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    lines = commands()
    assert len(lines) >= 8
    said = {line: run(line, tmp_path) for line in lines}
    assert "accuracy" in said["rlcore eval runs/short"]


def test_the_launchers_in_the_text_start(tmp_path: Path) -> None:
    short = "name=both stages.sft.steps=2 stages.sft.batch_size=8 stages.rl.steps=1"
    short += " stages.rl.groups_per_step=4 stages.before.limit=4 stages.after.limit=4"
    (torchrun,) = re.findall(r"^    (torchrun .*)$", TEXT, flags=re.MULTILINE)
    assert "2 process(es)" in run(f"{torchrun} {short}", tmp_path)
    (accelerate,) = re.findall(r"^    (accelerate launch .*) -m rlcore", TEXT, flags=re.MULTILINE)
    one = accelerate.replace("--num_processes 8", "--num_processes 1 --cpu")
    assert "rl: 200 steps" in run(
        f"{one} -m rlcore recipes show gsm8k && echo 'rl: 200 steps'", tmp_path
    )


def test_the_reward_of_the_text_works(tmp_path: Path) -> None:
    (code,) = [block for block in blocks("python") if "@reward" in block]
    (tmp_path / "my_rewards.py").write_text(code)
    (line,) = re.findall(r"`(rlcore rewards test my_rewards.py:brief [^`]*)`", TEXT)
    (tmp_path / "cases.jsonl").write_text(
        '{"answer": "4", "completion": "it is 4", "expected": 1}\n'
        '{"answer": "4", "completion": "5", "expected": 0}\n'
    )
    out = run(f"{line} --cases cases.jsonl", tmp_path)
    assert out.count("yes") == 2 and "NO" not in out


def test_the_script_of_the_text_trains_a_model(tmp_path: Path) -> None:
    (code,) = [block for block in blocks("python") if "rlcore.train" in block]
    (tmp_path / "my_run.py").write_text(code.replace('"quickstart"', '"tiny.yaml"'))
    (tmp_path / "tiny.yaml").write_text(TINY)
    printed = run("python my_run.py", tmp_path)
    rows = read_rows(tmp_path / "runs/concise/metrics.jsonl")
    rl = [row for row in rows if row["stage"] == "rl"]
    assert len(rl) == 6 and f"{rl[0]['step']} {rl[0]['reward/concise']}" in printed


def test_the_parts_of_the_text_train_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = [block for block in blocks("python") if "def my_loss" in block]
    (tmp_path / "my_parts.py").write_text(code + WRITER)
    named = re.findall(r"^\| [^|]+ \| `(\w+: \{.*?\})` \|", TEXT, flags=re.MULTILINE)
    said: dict = {}
    for part in named:
        if any(name in part for name in ("puzzles", "my_loss", "above_best", "Writer")):
            said |= yaml.safe_load(part)
    assert set(said) == {"tasks", "objective", "credit", "engine"}
    (metrics,) = re.findall(r"`(metrics: \[.*?\])`", TEXT)
    recipe = yaml.safe_load(TINY) | {"tasks": said["tasks"]}
    stage = next(stage for stage in recipe["stages"] if stage["kind"] == "rl")
    recipe["stages"] = [
        stage
        | {"tasks": "mine", "steps": 2, "objective": said["objective"], "credit": said["credit"]}
        | yaml.safe_load(metrics)
    ]
    recipe["engine"] |= said["engine"]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.chdir(tmp_path)
    assert main(["train", "mine.yaml"]) == 0
    rows = read_rows(tmp_path / "runs/tiny/metrics.jsonl")
    assert len(rows) == 2 and all(row["grad_norm"] > 0 for row in rows)
    assert all(row["metric/words"] >= 0 for row in rows)
    assert (tmp_path / "written").read_text() == "by Writer"


def test_the_recipes_of_the_text_are_valid(tmp_path: Path) -> None:
    whole, child = blocks("yaml")
    assert validate(yaml.safe_load(whole), where="the README").stages[0].kind == "rl"
    (tmp_path / "child.yaml").write_text(child)
    assert load(str(tmp_path / "child.yaml")).stages[2].steps == 100


def test_links_and_the_tree_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / target).exists(), target
    tree = TEXT[TEXT.index("## Layout") :]
    for folder in re.findall(r"^      (\w+/)", tree, flags=re.MULTILINE):
        assert (ROOT / "rlcore" / folder).is_dir(), folder
    for folder in sorted(
        path.name
        for path in (ROOT / "rlcore").iterdir()
        if path.is_dir() and any(path.glob("*.py"))
    ):
        assert f"      {folder}/" in tree, f"rlcore/{folder} is missing in the README's tree"
