"""Scores an answer to a reasoning-gym task by the rule of its data set."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from reasoning_gym import create_dataset
from reasoning_gym.utils import extract_answer

from rewards.thoughts import after_thoughts
from rlcore import reward


@reward
def gym_answer(
    completion: str,
    answer: Any,
    *,
    entry: Mapping[str, Any],
    params: Mapping[str, Any] | None = None,
    finished: bool = True,
    tag: str = "answer",
) -> float:
    """The data set's own score, 0 to 1, of the last `<answer>...</answer>` or the whole completion.

    What stands before the last `</think>` is ignored. A completion that was cut off before its end counts only if its tag is closed. `entry` and
    `params` are columns that the task source `gym` provides. Source: reasoning-gym (arXiv
    2505.24760).

    >>> entry = {"answer": "4", "metadata": {"source_dataset": "chain_sum"}}
    >>> gym_answer("so <answer>4</answer>", "4", entry=entry)
    1.0
    """
    completion = after_thoughts(completion)
    tagged = extract_answer(completion, tag)
    if tagged is None and not finished:
        return 0.0
    text = completion.strip() if tagged is None else tagged
    dataset = _dataset(entry["metadata"]["source_dataset"], json.dumps(params or {}))
    return float(dataset.score_answer(text, dict(entry)))


@lru_cache(maxsize=64)
def _dataset(name: str, params: str) -> Any:
    return create_dataset(name, size=1, seed=0, **json.loads(params))
