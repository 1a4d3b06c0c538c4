"""Architectures that the transformers engine serves: fused experts, renamed layers, caps on scores."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlcore.learner.policy import load_policy
from tests.families.configs import LONGEST, make_model
from tests.families.examine import check_engine


@pytest.mark.parametrize(
    "family", ["qwen3_moe", "mixtral", "olmoe", "granitemoe", "gpt_neox", "gemma2"]
)
def test_published_weights_are_served_with_proof(family: str, tmp_path: Path) -> None:
    make_model(family, tmp_path)
    policy = load_policy(path=str(tmp_path), max_length=LONGEST)
    check_engine("hf", policy, tmp_path)
