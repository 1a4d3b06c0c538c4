"""Batches that are generated and not trained yet, as plain values for a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from rlcore.credit.estimator import Cost
from rlcore.rollout.collector import CollectedBatch
from rlcore.rollout.open_group import TaskDraw
from rlcore.rollout.state import group_state, load_group, task_state
from rlcore.run.rollout_batch import RolloutBatch
from rlcore.types import Group, Task


def batch_state(batch: RolloutBatch) -> dict[str, Any]:
    collected = batch.collected

    def pairs(draws: Sequence[TaskDraw], groups: Sequence[Group]) -> list[dict[str, Any]]:
        states = []
        for draw, group in zip(draws, groups, strict=True):
            task = task_state(draw.task) if draw.task_index is None else None
            draw_state = {
                "task_index": draw.task_index,
                "order": draw.order,
                "occurrence": draw.occurrence,
                "task": task,
            }
            states.append({"draw": draw_state, "group": group_state(group)})
        return states

    return {
        "number": collected.number,
        "groups": pairs(collected.draws, collected.groups),
        "rejected": pairs(collected.rejected_draws, collected.rejected),
        "surplus": sorted(collected.surplus),
        "tried": collected.tried,
        "seconds": [collected.rollout_s, collected.reward_s],
        "tokens": [collected.prompt_tokens, collected.completion_tokens],
        "value_cost": None if batch.value_cost is None else asdict(batch.value_cost),
        "resamples": batch.resamples,
    }


def part_of_rank(parts: Sequence[dict[str, Any]], rank: int, ranks: int) -> dict[str, Any]:
    """One rank's part of a batch that another number of ranks has generated; what it cost stays with the first rank."""

    def groups(key: str) -> list[dict[str, Any]]:
        joined = [pair for part in parts for pair in part[key]]
        return sorted(joined, key=lambda pair: pair["draw"]["order"])[rank::ranks]

    first = rank == 0
    return {
        "number": parts[0]["number"],
        "groups": groups("groups"),
        "rejected": groups("rejected"),
        "surplus": [],
        "tried": sum(part["tried"] for part in parts) if first else 0,
        "seconds": parts[0]["seconds"],
        "tokens": [sum(part["tokens"][i] for part in parts) if first else 0 for i in range(2)],
        "value_cost": parts[0]["value_cost"] if first else None,
        "resamples": 0,
    }


def load_batch(
    state: dict[str, Any], task_of: Callable[[dict[str, Any], int], Task]
) -> RolloutBatch:
    def load(saved: Sequence[dict[str, Any]]) -> tuple[list[TaskDraw], list[Group]]:
        draws, groups = [], []
        for pair in saved:
            task = task_of(pair["draw"], state["number"])
            draws.append(TaskDraw(**pair["draw"] | {"task": task}))
            groups.append(load_group(pair["group"], task))
        return draws, groups

    draws, groups = load(state["groups"])
    rejected_draws, rejected = load(state["rejected"])
    collected = CollectedBatch(
        number=state["number"],
        groups=groups,
        draws=draws,
        rejected=rejected,
        rejected_draws=rejected_draws,
        surplus=set(state["surplus"]),
        tried=state["tried"],
        rollout_s=state["seconds"][0],
        reward_s=state["seconds"][1],
        prompt_tokens=state["tokens"][0],
        completion_tokens=state["tokens"][1],
    )
    cost = state["value_cost"]
    return RolloutBatch(
        collected=collected,
        value_cost=None if cost is None else Cost(**cost),
        resamples=state["resamples"],
    )
