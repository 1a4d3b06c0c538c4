"""What a CPU can know of the sections' real sizes: their cases can be listed, and their recipes pass the check of recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoConfig

from rlcore.bench.device import attention, instruct, step
from rlcore.bench.device.case import CheckError, Needs, check_close
from rlcore.bench.device.sections import SECTIONS
from rlcore.bench.workload import MODELS, Shape, model_flops
from rlcore.recipe.check import check
from rlcore.recipe.load import load


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)
def test_cases_of_both_sizes(section) -> None:
    for tiny in (True, False):
        cases = list(section.cases(tiny))
        names = [case.name for case in cases]
        assert names and len(set(names)) == len(names)
        assert all(case.seconds <= 300 for case in cases)
    assert section.name == "correctness" or all(case.needs.gpus >= 1 for case in cases)


@pytest.mark.parametrize("staleness", [0, 1])
@pytest.mark.parametrize("tiny", [True, False])
def test_recipes_of_steps(tmp_path: Path, tiny: bool, staleness: int) -> None:
    for engine in ("use: vllm_server, servers: ['http://127.0.0.1:8000']", "use: vllm_server, memory_gb: 20"):
        check(load(str(step._recipe(tmp_path, "run", engine, staleness=staleness, tiny=tiny))))


@pytest.mark.parametrize("overrides", [instruct.TINY, ("model.dtype=bfloat16",)])
def test_overrides_of_instruct(overrides, tmp_path: Path) -> None:
    recipe = load("instruct", [*overrides, "name=device", f"run.folder={tmp_path}"])
    assert recipe.name == "device"


def test_who_may_read_whom_in_a_tree() -> None:
    """By hand: two tokens of a root, one of each of two children."""
    layout = attention.Layout((2, 1, 1), (-1, 0, 0))
    assert attention.may_read(layout, None).int().tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [1, 1, 1, 0],
        [1, 1, 0, 1],
    ]
    assert attention.may_read(layout, 2).int().tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [0, 1, 1, 0],
        [0, 1, 0, 1],
    ]


def test_flops_of_frozen_weights_are_two_thirds() -> None:
    """Attention's own operations stay: 6 n^2 for each head's width."""
    config = AutoConfig.for_model(**{**MODELS["tiny"], "vocab_size": 300})
    shape = Shape(prompts=1, group_size=2, prompt_tokens=10, answer_min=6, answer_max=6)
    attended = 4 * 2 * 6 * 16 * 16 * 256  # layers, sequences
    whole, frozen = (model_flops(config, shape, frozen=f) - attended for f in (False, True))
    assert frozen == pytest.approx(whole * 2 / 3)


def test_limits_and_needs_in_words() -> None:
    assert check_close("error", 0.0123456, 0.1) == 0.0123
    for value in (0.2, float("nan")):
        with pytest.raises(CheckError, match="error is .* which must be at most 0.1"):
            check_close("error", value, 0.1)
    needs = Needs(gpus=2, memory_gb=70, capability=(9, 0), packages=("vllm",))
    assert needs.words() == "2 GPU, 70 GB of its memory, compute capability 9.0, vllm"
    assert Needs(packages=("json",)).missing() is None
    assert json.dumps(Needs().words())
