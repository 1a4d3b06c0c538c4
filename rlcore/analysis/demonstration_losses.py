"""How hard each demonstration is for a model: the score that orders by loss go by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlcore.learner.policy import Policy, load_policy
from rlcore.rollout.demonstration import encode_demonstration
from rlcore.rollout.prompt import PromptEncoder

if TYPE_CHECKING:
    from rlcore.types import Task


def demonstration_losses(
    model: str | Path, tasks: Sequence[Task], *, encoder: PromptEncoder | None = None
) -> list[float]:
    """Mean negative log-likelihood, nats per imitated token, of each task's demonstration: [tasks].

    model: a folder such as a checkpoint, or a hub name. encoder: of the prompts; default: plain text.
    The column that the curriculum `cyclic` goes by is 1 / loss. Raises `TaskError` for a task without
    a demonstration, `ModelError`.
    """
    policy = load_policy(path=str(model))
    return losses_of(policy, tasks, encoder or PromptEncoder(policy.tokenizer))


def losses_of(policy: Policy, tasks: Sequence[Task], encoder: PromptEncoder) -> list[float]:
    """The same for a policy that is loaded, such as that of a run: [tasks]."""
    sequences, starts, masks = [], [], []
    for task in tasks:
        prompt = encoder.encode(task)
        completion, imitated = encode_demonstration(encoder, task)
        sequences.append([*prompt, *completion])
        starts.append(len(prompt))
        masks.append(imitated)
    losses = []
    read = policy.read(sequences, starts=starts)
    for (logprobs, _), imitated in zip(read, masks, strict=True):
        kept = [value for value, counts in zip(logprobs, imitated, strict=True) if counts]
        losses.append(-sum(kept) / len(kept))
    return losses
