from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from rlcore import Rollout


@pytest.fixture
def rollout() -> Callable[..., Rollout]:
    """Rollouts from their text; token i of the answer is 10 + i."""

    def make(text: str, finish: str = "stop", tokens: int = 3) -> Rollout:
        return Rollout.from_tokens(
            id=f"r/{text[:20]}",
            task_id="t",
            token_ids=[1, *range(10, 10 + tokens)],
            mask=[False] + [True] * tokens,
            logprobs=[0.0] * (tokens + 1),
            text=text,
            finish=finish,
            version=0,
        )

    return make


@pytest.fixture
def plugin(tmp_path: Path) -> Callable[[str], str]:
    """Write a reward file; returns its path, to be followed by `:function`."""

    def write(source: str, name: str = "my_rewards.py") -> str:
        (tmp_path / name).write_text(textwrap.dedent(source))
        return str(tmp_path / name)

    return write
