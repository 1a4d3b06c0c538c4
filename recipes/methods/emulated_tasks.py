"""Words to be written backwards, always: what the small model of the emulated fine-tuning toy is tuned on."""

from collections.abc import Sequence
from dataclasses import replace

from opd_tasks import words

from rlcore import Task


def backwards(*, seed: int = 0, size: int = 20_000) -> Sequence[Task]:
    """As `words`, of which base models see 40% backwards and the others as they stand."""
    return [replace(task, demonstration=task.answer) for task in words(seed=seed, size=size)]
