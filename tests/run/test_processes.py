"""Layouts of the learner that accelerate offers and rlcore does not follow are refused before anything is loaded."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from accelerate import Accelerator
from accelerate.utils import DistributedType

from rlcore.errors import RunError
from rlcore.run.processes import refuse_other_layouts
from tests.run.whole import write_recipe


def accelerator(
    kind: str = "MULTI_GPU", *, fsdp_version: int = 2, activation_checkpointing: bool = False, **sizes: int
) -> object:
    """What is read of an Accelerator; the real ones need GPUs, and their own packages."""
    layout = SimpleNamespace(**sizes) if sizes else None
    plugin = SimpleNamespace(
        fsdp_version=fsdp_version, activation_checkpointing=activation_checkpointing
    )
    state = SimpleNamespace(fsdp_plugin=plugin)
    return SimpleNamespace(
        distributed_type=DistributedType(kind), state=state, parallelism_config=layout
    )


@pytest.mark.parametrize(
    ("refused", "sentence"),
    [
        (accelerator("DEEPSPEED"), "set to DEEPSPEED, which rlcore has no code for: use DDP"),
        (accelerator("MEGATRON_LM"), "set to MEGATRON_LM"),
        (accelerator("FSDP", fsdp_version=1), "the first version of FSDP: use DDP"),
        (accelerator("FSDP", activation_checkpointing=True), "set model.gradient_checkpointing in the recipe"),
        (accelerator("FSDP", tp_size=2), r"tensor parallelism \(tp_size=2\)"),
        (accelerator("FSDP", cp_size=4), r"context parallelism \(cp_size=4\)"),
        (accelerator("FSDP", sp_size=2), r"sequence parallelism \(sp_size=2\)"),
        (accelerator("FSDP", dp_replicate_size=2), r"replicated shards \(HSDP\)"),
    ],
)
def test_layouts_without_code_are_refused(refused: object, sentence: str) -> None:
    with pytest.raises(RunError, match=sentence):
        refuse_other_layouts(refused)


@pytest.mark.parametrize(
    "followed",
    [accelerator(), accelerator("FSDP", dp_shard_size=8, tp_size=1), Accelerator(cpu=True)],
)
def test_layouts_with_code_are_not(followed: object) -> None:
    refuse_other_layouts(followed)


def test_the_command_says_it(tmp_path: Path) -> None:
    """The real Accelerator, told by the variables that `accelerate launch` sets."""
    recipe = write_recipe(tmp_path)
    run = subprocess.run(
        [sys.executable, "-m", "rlcore", "train", str(recipe)],
        env=os.environ | {"ACCELERATE_USE_MEGATRON_LM": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 2, run.stderr[-500:]
    # accelerate itself stops where the package is absent
    assert re.search("MEGATRON_LM, which|cannot start as it is configured", run.stderr)
