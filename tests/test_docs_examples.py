"""The longer examples of docs/ do what their pages say: they train models."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from rlcore.cli.main import main
from rlcore.recipe.load import load, validate
from rlcore.run.folder import read_rows
from tests.run.whole import TINY
from tests.test_docs import run_command

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"

WRITER = """
from rlcore.rollout.hf import HfEngine


class Writer(HfEngine):
    def submit(self, requests):
        open("written", "w").write("by Writer")
        super().submit(requests)
"""


def text_of(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text_of(page), flags=re.DOTALL)


def test_accelerate_starts(tmp_path: Path) -> None:
    lines = "\n".join(blocks("guides/scale_out.md", "bash"))
    (accelerate,) = re.findall(r"^(accelerate launch .*) -m rlcore", lines, flags=re.MULTILINE)
    one = accelerate.replace("--num_processes 8", "--num_processes 1 --cpu")
    said = run_command(f"{one} -m rlcore recipes show gsm8k", tmp_path, 100)
    assert "name: gsm8k" in said


def test_the_reward_of_the_readme_works(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(# my_rewards.*?)```", text, flags=re.DOTALL)
    (tmp_path / "my_rewards.py").write_text(code)
    (line,) = re.findall(r"^(rlcore rewards test my_rewards.py:brief [^#]*)", text, flags=re.MULTILINE)
    (tmp_path / "cases.jsonl").write_text(
        '{"answer": "4", "completion": "it is 4", "expected": 1}\n'
        '{"answer": "4", "completion": "5", "expected": 0}\n'
    )
    out = run_command(f"{line} --cases cases.jsonl", tmp_path, 100)
    assert out.count("yes") == 2 and "NO" not in out


def test_the_script_trains_a_model(tmp_path: Path) -> None:
    (code,) = [block for block in blocks("recipes.md", "python") if "rlcore.train" in block]
    (tmp_path / "my_run.py").write_text(code.replace('"quickstart"', '"tiny.yaml"'))
    (tmp_path / "tiny.yaml").write_text(TINY)
    printed = run_command("python my_run.py", tmp_path, 300)
    rows = read_rows(tmp_path / "runs/concise/metrics.jsonl")
    rl = [row for row in rows if row["stage"] == "rl"]
    assert len(rl) == 6 and f"{rl[0]['step']} {rl[0]['reward/concise']}" in printed


def test_the_parts_train_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = text_of("guides/parts.md")
    (code,) = [block for block in blocks("guides/parts.md", "python") if "def my_loss" in block]
    (tmp_path / "my_parts.py").write_text(code + WRITER)
    named = re.findall(r"^\| [^|]+ \| `(\w+: \{.*?\})` \|", text, flags=re.MULTILINE)
    said: dict = {}
    for part in named:
        if any(name in part for name in ("puzzles", "my_loss", "above_best", "Writer")):
            said |= yaml.safe_load(part)
    assert set(said) == {"tasks", "objective", "credit", "engine"}
    (metrics,) = re.findall(r"`(metrics: \[.*?\])`", text)
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


def test_the_output_of_the_loss_is_what_it_prints(tmp_path: Path) -> None:
    for code in blocks("guides/loss.md", "python"):
        (tmp_path / code.split()[1]).write_text(code)
    said = run_command("python try_my_clip.py", tmp_path, 100)
    assert said.strip() in blocks("guides/loss.md", "text")[0]


def test_the_recipes_are_valid(tmp_path: Path) -> None:
    whole, child = blocks("recipes.md", "yaml")
    assert validate(yaml.safe_load(whole), where="the page").stages[0].kind == "rl"
    (tmp_path / "child.yaml").write_text(child)
    assert load(str(tmp_path / "child.yaml")).stages[2].steps == 100


def test_the_tree_is_complete() -> None:
    text = text_of("data_flow.md")
    tree = text[text.index("## Layout") :]
    for folder in re.findall(r"^      (\w+/)", tree, flags=re.MULTILINE):
        assert (ROOT / "rlcore" / folder).is_dir(), folder
    for path in sorted((ROOT / "rlcore").iterdir()):
        if path.is_dir() and any(path.glob("*.py")):
            assert f"      {path.name}/" in tree, f"rlcore/{path.name} is missing in the tree"
