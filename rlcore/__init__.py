"""rlcore: an RL post-training engine for language models.

    task -> curriculum -> rollout -> reward -> credit -> batch -> updates -> publish

`rlcore train RECIPE` runs a recipe, and so does `rlcore.train(...)` from Python, with functions and classes where a recipe names
them. Importing this package needs neither torch nor vllm.
"""

from typing import Any

from rlcore.plugin import find
from rlcore.scoring.forms import RewardSpec, reward
from rlcore.types import (
    Completion,
    Group,
    Message,
    Outcome,
    Request,
    Rollout,
    Sample,
    Sampling,
    StepReport,
    Task,
    Verdict,
)

__version__ = "0.1.0"
__all__ = [
    "Completion",
    "Group",
    "Message",
    "Outcome",
    "Request",
    "RewardSpec",
    "Rollout",
    "Sample",
    "Sampling",
    "StepReport",
    "Task",
    "Verdict",
    "find",
    "load_model",
    "load_tokenizer",
    "reward",
    "train",
]


_HEAVY = {
    "load_model": "rlcore.pretrained",
    "load_tokenizer": "rlcore.tokenizer",
    "train": "rlcore.api",
}
"""Names that need torch or transformers: each is imported from its module when it is first used."""


def __getattr__(name: str) -> Any:
    if name in _HEAVY:
        import importlib

        return getattr(importlib.import_module(_HEAVY[name]), name)
    raise AttributeError(f"module 'rlcore' has no attribute {name!r}")
