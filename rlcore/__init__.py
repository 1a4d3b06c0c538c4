"""rlcore: an RL post-training engine for language models.

    task -> curriculum -> rollout -> reward -> credit -> pack -> objective -> step -> sync

`rlcore train RECIPE` runs a recipe; the wings (`rlcore.tasks`, `rlcore.rollout`, `rlcore.credit`, `rlcore.objective`,
`rlcore.learner`) are its Python API. Importing this package needs neither torch nor vllm.
"""

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
    "reward",
]
