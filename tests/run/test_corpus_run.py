"""Corpus recipes as wholes: the papers' settings are valid, and small runs go through vLLM, rewards, learner and resume."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from rlcore.cli.main import main
from rlcore.recipe.check import check
from rlcore.recipe.load import load
from rlcore.run.folder import read_rows
from tests.run.whole import finish, start, untimed
from tests.tasks.test_corpus import story, write

ROOT = Path(__file__).resolve().parents[2]
REAL = Path(os.environ.get("RLCORE_DATA", ROOT.parent / "shared" / "data")) / "corpus.jsonl.gz"
LARGE = {
    "papers/rlpt/qwen3_4b": (512, 8, 1e-6), "papers/rlp/qwen3_1.7b": (512, 16, 1e-6),
    "papers/pretrain_zero/qwen3_4b": (32, 8, 5e-7), "papers/rmt/deepseek_r1_14b": (128, 8, 1e-6),
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLCORE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", LARGE)
def test_the_papers_settings_are_valid(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, [story(i) for i in range(30)])
    here = [f"tasks.read.path={path}", "tasks.read.entropy_model=null"]
    here += (
        ["tasks.read.tokenizer=bytes"]
        if "tokenizer" in (ROOT / f"recipes/{name}.yaml").read_text()
        else []
    )
    if "rmt" in name:  # without a model there are no bins
        here += ["stages.rl.curriculum=uniform"]
    recipe = load(name, here)
    stage = recipe.stages[-1]
    assert (stage.groups_per_step, stage.group_size, stage.optim.lr) == LARGE[name]
    assert any("completions a step" in fact for fact in check(recipe))


@pytest.mark.parametrize("name", ["rlpt/rlpt", "rlp/rlp", "pretrain_zero/blanks", "rmt/rmt"])
def test_the_small_recipes_are_valid(name: str) -> None:
    assert any("rl: " in fact for fact in check(load(f"papers/{name}")))


SHORT = [
    "model.config.hidden_size=64",
    "engine.use=hf",
    "stages.rl.groups_per_step=4",
    "stages.rl.group_size=4",
]


def train(name: str, folder: Path, *overrides: str) -> list[dict]:
    assert main(["train", name, *SHORT, f"run.folder={folder}", *overrides]) == 0
    return read_rows(folder / load(name).name / "metrics.jsonl")


def test_a_run_for_information_gain_resumes_with_its_slow_copy(tmp_path: Path) -> None:
    only = (
        "stages=[{kind: rl, tasks: read, steps: 4, rewards: [{use: information_gain, close: '>'}], "
        "sampling: {max_tokens: 8}, credit: {baseline: leave_one_out}, optim: {lr: 1e-3, ema: 0.5}}]"
    )
    whole = train("papers/rlp/rlp", tmp_path, only, "run.checkpoint_every=2")
    before, last = sorted((tmp_path / "rlp/checkpoints").glob("step_*"))
    shutil.rmtree(last)  # as if killed after step 2 or later
    assert (
        main(
            [
                "train",
                "papers/rlp/rlp",
                *SHORT,
                f"run.folder={tmp_path}",
                only,
                "run.checkpoint_every=2",
                "--resume",
            ]
        )
        == 0
    )
    parts = read_rows(tmp_path / "rlp/metrics.jsonl")
    assert before.name == "step_000002" and len(whole) == len(parts) == 4

    assert untimed(whole) == untimed(parts)
    for row in whole:
        gain = row["reward/information_gain/thought"] - row["reward/information_gain/plain"]
        assert row["reward/mean"] == pytest.approx(
            row["reward/information_gain"]
        ) and gain == pytest.approx(row["reward/mean"])
        assert row["reward/frac_zero_std"] == 0 and row["loss"] != 0


def test_text_is_learned_beside_rl(tmp_path: Path) -> None:
    only = (
        "stages=[{kind: rl, tasks: read, steps: 2, rewards: [{use: 'rewards.segment:next_token'}], sampling: {max_tokens: 8}, "
        "objective: {use: grpo, next_token: 0.1}}]"
    )
    rows = train("papers/rmt/rmt", tmp_path, only)
    assert rows[-1]["loss/next_token"] > 0.01 and rows[-1]["tokens/trained"] > 20


def test_a_follow_up_is_part_of_the_step(tmp_path: Path) -> None:
    """A model from scratch writes no mask: every mask task is wrong-format, and nothing breaks."""
    rows = train(
        "papers/pretrain_zero/blanks", tmp_path,
        "stages=[{kind: rl, tasks: read, steps: 1, rewards: [{use: 'rewards.segment:span'}], follow_up: guess_masks, "
        "sampling: {max_tokens: 8}}]",
    )  # fmt: skip
    assert rows[0]["reward/frac_wrong_format"] == 1 and rows[0]["reward/mean"] == 0


@pytest.mark.skipif(not REAL.exists(), reason="the corpus is not here; set RLCORE_DATA")
def test_the_real_corpus_goes_through_vllm(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    small = [
        "stages.sft.steps=2",
        "stages.rl.steps=3",
        f"tasks.read.path={REAL}",
        "tasks.read.keep.documents=60",
    ]
    finish(start("train", "papers/rlpt/corpus", *small, f"run.folder={tmp_path}"))
    metrics = read_rows(tmp_path / "rlpt-corpus" / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [1, 2, 3, 4, 5]
    rollouts = read_rows(tmp_path / "rlpt-corpus/rollouts/000005.jsonl")
    assert len(rollouts) == 8 * 4 and {row["category"] for row in rollouts} == {"asr", "msr"}
    assert all(
        row["answer"] not in row["prompt"] and row["status"] in ("ok", "wrong-format")
        for row in rollouts
    )
