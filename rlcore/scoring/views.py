"""What rewards see of the rollouts of a task."""

from __future__ import annotations

from collections.abc import Sequence

from rlcore.scoring.forms import GroupView
from rlcore.types import Message, Rollout, Task


def view_of(task: Task, rollouts: Sequence[Rollout], *, turn: int | None = None) -> GroupView:
    """The last completion of each of the rollouts [G], or with `turn` that one, 1 for the first.

    Each must have that turn: `turns_of` says how many there are. A reward then sees the conversation up to it.
    """
    prompt = task.prompt
    begin = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    lengths = [rollout.episode.prompt_messages for rollout in rollouts if rollout.episode]
    prompt_messages = lengths[0] if lengths else len(begin)
    view = GroupView(
        prompt=prompt,
        answer=task.answer,
        columns=task.columns,
        completions=[rollout.text for rollout in rollouts],
        completion_ids=[rollout.policy_ids for rollout in rollouts],
        finished=[rollout.finish == "stop" for rollout in rollouts],
        messages=[_messages(rollout, begin) for rollout in rollouts],
        prompt_messages=prompt_messages,
    )
    return view if turn is None else _at_turn(view, rollouts, turn)


def turns_of(rollout: Rollout) -> int:
    """How many completions its conversation has."""
    return sum(turn.role == "completion" for turn in rollout.turns)


def _at_turn(view: GroupView, rollouts: Sequence[Rollout], turn: int) -> GroupView:
    messages = []
    for conversation in view.messages:
        written = [
            place
            for place, message in enumerate(conversation)
            if place >= view.prompt_messages and message["role"] == "assistant"
        ]
        messages.append(conversation[: written[turn - 1] + 1])
    completions = [
        [part for part in rollout.turns if part.role == "completion"][turn - 1]
        for rollout in rollouts
    ]
    return GroupView(
        prompt=view.prompt,
        answer=view.answer,
        columns=view.columns,
        completions=[str(conversation[-1].get("content") or "") for conversation in messages],
        completion_ids=[part.token_ids for part in completions],
        finished=[part.finish == "stop" for part in completions],
        messages=messages,
        prompt_messages=view.prompt_messages,
    )


def _messages(rollout: Rollout, begin: list[Message]) -> list[Message]:
    if rollout.episode is not None:
        return rollout.episode.messages
    return [*begin, {"role": "assistant", "content": rollout.text}]
