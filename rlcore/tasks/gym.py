"""Procedural tasks of the reasoning-gym library, over a hundred kinds, each with its own way to score an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlcore.errors import TaskError
from rlcore.plugin import did_you_mean
from rlcore.tasks.lazy import LazyTasks, check_size
from rlcore.types import Task


def gym(
    name: str, *, size: int, seed: int = 0, params: Mapping[str, Any] | None = None
) -> Sequence[Task]:
    """Tasks of one reasoning-gym data set, such as "leg_counting"; score them with the reward `gym`.

    params: settings of that data set, such as `{"max_animals": 5}`. The column `entry` carries what its scorer needs.
    Raises `TaskError` if reasoning-gym is absent, or does not know the name or a setting.
    """
    try:
        from reasoning_gym import create_dataset
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise TaskError("gym tasks need reasoning-gym: pip install 'rlcore[gym]'") from error
    if name not in DATASETS:
        raise TaskError(f"reasoning-gym has no data set {name!r}{did_you_mean(name, DATASETS)}")
    check_size("gym", size)
    settings = dict(params or {})
    try:
        data = create_dataset(name, size=size, seed=seed, **settings)
    except (TypeError, ValueError, AssertionError) as error:
        raise TaskError(
            f"reasoning-gym's {name!r} does not take the params {settings}: {error}"
        ) from error

    def make(i: int) -> Task:
        entry = data[i]
        return Task(
            id=f"gym/{name}/{seed}/{i}",
            prompt=entry["question"],
            answer=entry["answer"],
            category=name,
            columns={"entry": entry, "params": settings},
        )

    def column(column_name: str) -> list[str] | None:
        return [name] * size if column_name == "category" else None

    return LazyTasks(size, make, column=column)
