"""Finished groups as plain values, for checkpoints that hold batches which are not trained yet."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rlcore.types import Episode, Group, Prefix, Rollout, Span, StepValues, Task, Turn, Verdict


def group_state(group: Group) -> dict[str, Any]:
    """Everything but the task: numbers, texts, lists and mappings."""
    return {
        "rollouts": [_rollout_state(rollout) for rollout in group.rollouts],
        "verdicts": [_verdict_state(verdict) for verdict in group.verdicts],
        "step_values": {
            id: {"spans": [list(span) for span in values.spans], "values": list(values.values)}
            for id, values in group.step_values.items()
        },
        "continuations": [
            {**_prefix_state(prefix), "group": group_state(continued)}
            for prefix, continued in group.continuations
        ],
    }


def load_group(state: dict[str, Any], task: Task) -> Group:
    """The group that `group_state` described, of this task."""
    rollouts = [_load_rollout(values) for values in state["rollouts"]]
    by_id = {rollout.id: rollout for rollout in rollouts}
    step_values = {}
    for id, values in state["step_values"].items():
        spans = [Span(*span) for span in values["spans"]]
        step_values[id] = StepValues(rollout_id=id, spans=spans, values=values["values"])
    continuations = []
    for values in state["continuations"]:
        prefix = Prefix(
            task=task,
            rollout=by_id[values["rollout"]],
            length=values["length"],
            n=values["n"],
            max_tokens=values["max_tokens"],
        )
        continuations.append((prefix, load_group(values["group"], task)))
    return Group(
        task=task,
        rollouts=rollouts,
        verdicts=[Verdict(**values) for values in state["verdicts"]],
        step_values=step_values,
        continuations=tuple(continuations),
    )


def task_state(task: Task) -> dict[str, Any]:
    """A task that is in no task set."""
    return asdict(task)


def _rollout_state(rollout: Rollout) -> dict[str, Any]:
    turns = [asdict(turn) for turn in rollout.turns]
    return {
        "id": rollout.id,
        "task_id": rollout.task_id,
        "text": rollout.text,
        "turns": turns,
        "episode": None if rollout.episode is None else asdict(rollout.episode),
    }


def _load_rollout(state: dict[str, Any]) -> Rollout:
    turns = tuple(Turn(**turn) for turn in state["turns"])
    episode = state["episode"]
    return Rollout(
        id=state["id"],
        task_id=state["task_id"],
        text=state["text"],
        turns=turns,
        episode=None if episode is None else Episode(**episode),
    )


def _verdict_state(verdict: Verdict) -> dict[str, Any]:
    return {
        "value": verdict.value,
        "status": verdict.status,
        "parts": dict(verdict.parts),
        "reason": verdict.reason,
    }


def _prefix_state(prefix: Prefix) -> dict[str, Any]:
    return {
        "rollout": prefix.rollout.id,
        "length": prefix.length,
        "n": prefix.n,
        "max_tokens": prefix.max_tokens,
    }
