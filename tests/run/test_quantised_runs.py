"""Runs that train an adapter on a model in 4 bits: stopped, resumed, and in two processes, sharded or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.run.test_sharded import SHARDED, assert_equal_training, metrics
from tests.run.test_train_options import everything
from tests.run.whole import finish, run_folder, start

QUANTISED = (
    "model.peft={type: lora, r: 4, target_modules: all-linear}",
    "model.quantize=nf4",
    "stages.rl.optim={lr: 1e-2}",
    "stages.rl.objective={use: grpo, kl: 0.1}",
    "stages.sft.steps=2",
)


def test_resumed_it_is_the_same_run_bit_for_bit(tiny: Path) -> None:
    finish(start("train", tiny, *QUANTISED, "name=whole"))
    finish(start("train", tiny, *QUANTISED, "stages.rl.steps=4", "stages.after=null"))
    finish(start("train", tiny, *QUANTISED, "--resume"))
    whole = everything(run_folder(tiny).parent / "whole")
    assert everything(run_folder(tiny)) == whole
    finish(start("train", tiny, *QUANTISED, "model.quantize=null", "name=plain"))
    assert everything(run_folder(tiny).parent / "plain")["weights"] != whole["weights"]


@pytest.mark.parametrize("processes", [{"processes": 2}, SHARDED], ids=["copies", "sharded"])
def test_in_two_processes_it_trains_as_in_one(tiny: Path, processes: dict[str, Any]) -> None:
    finish(start("train", tiny, *QUANTISED, "name=alone"))
    finish(start("train", tiny, *QUANTISED, **processes))
    keys = ("loss", "grad_norm", "tokens/trained", "loss/kl")
    assert_equal_training(metrics(tiny, "alone"), metrics(tiny, "tiny"), keys)
