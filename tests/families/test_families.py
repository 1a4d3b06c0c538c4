"""Ten families through the whole loop. The table of all is `python -m tests.families`."""

from __future__ import annotations

import pytest

from tests.families.examine import examine

pytestmark = pytest.mark.slow

DENSE = (
    "llama",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "mistral",
    "granite",
    "phi3, longrope",
)
MIXTURES = ("qwen3_moe", "mixtral")


@pytest.mark.parametrize("family", DENSE)
def test_dense_families_are_right_everywhere(family: str) -> None:
    row = examine(family, ("hf", "vllm"))
    assert row == dict.fromkeys(
        ("learner", "hf", "vllm", "lora merged", "lora adapter"), "right"
    )


@pytest.mark.parametrize("family", MIXTURES)
def test_mixtures_are_right_with_merged_adapters(family: str) -> None:
    row = examine(family, ("hf", "vllm"))
    assert row.pop("lora adapter").startswith(
        "refused: the adapter reaches the fused parameters"
    )
    assert row == dict.fromkeys(("learner", "hf", "vllm", "lora merged"), "right")
