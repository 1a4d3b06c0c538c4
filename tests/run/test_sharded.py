"""A run sharded over two processes leaves what a run in one process does, and resumes in either."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from rlcore.run.checkpoint import all_checkpoints
from rlcore.run.folder import read_rows
from tests.run.whole import TINY, finish, run_folder, start, untimed

SHARDED: dict[str, Any] = {"script": Path(__file__).with_name("sharded.py"), "processes": 2}

AFTER = next(line for line in TINY.splitlines() if "name: after" in line)
SECOND_RL = (
    "  - {kind: rl, name: second, tasks: demonstrations, steps: 4, groups_per_step: 4, "
    "group_size: 4, rewards: *length, sampling: *short, optim: {lr: 3e-3}, "
    "objective: {use: grpo, kl: 0.5}}"
)


def metrics(recipe: Path, name: str) -> list[dict[str, Any]]:
    return untimed(read_rows(run_folder(recipe).parent / name / "metrics.jsonl"))


def assert_equal_training(
    alone: list[dict[str, Any]],
    sharded: list[dict[str, Any]],
    keys: tuple[str, ...],
) -> None:
    assert [row["step"] for row in sharded] == [row["step"] for row in alone]
    for expected, row in zip(alone, sharded, strict=True):
        for key in keys:
            if key in expected:
                close = pytest.approx(expected[key], rel=2e-3, abs=1e-5)
                assert row[key] == close, (row["step"], key)


def no_file_has_it_all(saved: Path) -> None:
    """Each process wrote its half of the trainer's state, and the model is in several files that transformers reads."""
    halves = [path.stat().st_size for path in (saved / "trainer/shards").iterdir()]
    model = AutoModelForCausalLM.from_pretrained(saved)
    weights = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert len(halves) == 2 and sum(halves) > weights and max(halves) < 0.6 * sum(halves)
    assert (saved / "trainer/state.pt").stat().st_size < 0.2 * sum(halves)
    files = [path.stat().st_size for path in saved.glob("model-*.safetensors")]
    assert len(files) > 1 and weights <= sum(files) < 1.2 * weights


@pytest.mark.parametrize(
    ("optim", "resumed", "offloaded"),
    [
        ("{lr: 1e-3, ema: 0.9}", SHARDED, True),
        ("{lr: 1e-3, ema: 0.9}", SHARDED | {"processes": 3}, False),
        ("{lr: 1e-3, use: muon}", {}, False),
    ],
    ids=["two", "three", "whole"],
)
def test_a_sharded_run_resumes_and_trains_as_a_whole_one(
    tiny: Path, optim: str, resumed: dict[str, Any], offloaded: bool
) -> None:
    """The first steps with the optimiser's states on the host; the resumed run has them there or not."""
    overrides = (f"stages.rl.optim={optim}", "run.checkpoint_every=1")
    offload = "stages.rl.optim.offload=true"
    finish(start("train", tiny, *overrides, "name=alone"))
    finish(start("train", tiny, *overrides, offload, "stages.rl.steps=3", **SHARDED))
    no_file_has_it_all(all_checkpoints(run_folder(tiny) / "checkpoints")[-1])
    finish(start("train", tiny, *overrides, *[offload] * offloaded, "--resume", **resumed))
    assert_equal_training(
        metrics(tiny, "alone"),
        metrics(tiny, "tiny"),
        ("loss", "grad_norm", "tokens/trained"),
    )


@pytest.mark.parametrize("resumed", [False, True])
def test_the_reference_of_a_later_stage_is_sharded_too(tiny: Path, resumed: bool) -> None:
    """The second stage begins with a sharded policy; resumed, its reference comes from the disk."""
    tiny.write_text(tiny.read_text().replace(AFTER, SECOND_RL))
    overrides = ("stages.rl.objective={use: grpo, kl: 0.5}", "stages.rl.steps=3")
    finish(start("train", tiny, *overrides, "name=alone"))
    if resumed:
        finish(start("train", tiny, *overrides, "stages.second.steps=2", **SHARDED))
        finish(start("train", tiny, *overrides, "--resume", **SHARDED))
    else:
        finish(start("train", tiny, *overrides, **SHARDED))
    alone = metrics(tiny, "alone")
    assert_equal_training(
        alone,
        metrics(tiny, "tiny"),
        ("loss", "grad_norm", "tokens/trained", "loss/kl"),
    )
    first_step_of_second = next(row for row in alone if row["stage"] == "second")
    assert first_step_of_second["loss/kl"] == pytest.approx(0, abs=1e-6)
    assert alone[-1]["loss/kl"] > 1e-4


PREFER = (
    "  - {kind: sample, name: pairs, tasks: demonstrations, num_samples: 4, rewards: *length, sampling: *short}\n"
    "  - {kind: prefer, data: pairs, pairs: best_worst, method: dpo, steps: 3, batch_size: 4, optim: {lr: 1e-3}}"
)


@pytest.mark.parametrize("adapter", ["", "model.peft={type: lora, r: 4, target_modules: [q_proj]}"], ids=["full", "lora"])
def test_preferences_train_a_sharded_policy(tiny: Path, adapter: str) -> None:
    """TRL gets a copy of its own, and the policy what came of it: a policy that SFT has sharded, or the start."""
    rl = "  - {kind: rl,"
    tiny.write_text(tiny.read_text().replace(rl, f"{PREFER}\n{rl} objective: {{use: grpo, kl: 0.1}},"))
    overrides = [adapter] if adapter else []
    finish(start("train", tiny, *overrides, "name=alone"))
    finish(start("train", tiny, *overrides, **SHARDED))
    alone, sharded = metrics(tiny, "alone"), metrics(tiny, "tiny")
    assert sum("rewards/margins" in row or "margin" in row for row in sharded) == 3, sharded[-4:]
    # of an adapter that has just begun, the gradients of a pair almost cancel each other
    assert_equal_training(alone, sharded, ("loss",) if adapter else ("loss", "grad_norm"))
    assert not list(run_folder(tiny).glob(".whole*"))


def test_a_process_that_hangs_ends_the_others_in_time(tiny: Path) -> None:
    """Rank 1 is stopped in the middle of a stage, as a frozen machine would stop it."""
    run = start("train", tiny, "run.timeout_s=5", "stages.rl.steps=500", processes=2)
    first, second = run._ranks
    rows = run_folder(tiny) / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while len(read_rows(rows)) < 8:
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(0.05)
    second.send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    while first.poll() is None and time.monotonic() < stopped + 60:
        time.sleep(0.05)
    second.send_signal(signal.SIGKILL)
    out, err = first.communicate(5)
    second.communicate(5)
    assert time.monotonic() < stopped + 30
    assert first.returncode == 2
    assert "has not answered within run.timeout_s=5 seconds" in out + err
    assert "--resume" in out + err and "rlcore train" in out + err
    assert "Traceback" not in out + err
