"""A stage's environment, as its generator needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlcore.env.pool import EnvironmentPool
from rlcore.rollout.conversation import Conversation
from rlcore.rollout.episodes import Episodes

if TYPE_CHECKING:
    from rlcore.run.session import Run
    from rlcore.stages.base import GeneratingStage

REWRITES = {
    "append": "the chat template rewrites earlier turns (drops their thinking, say); env.history append keeps them as "
    "they were written, which is what is trained",
    "template": "the chat template rewrites earlier turns (drops their thinking, say): each turn that it rewrites "
    "begins a further training sequence",
}


def build_episodes(
    run: Run, stage: GeneratingStage, pool: EnvironmentPool | None
) -> Episodes | None:
    """pool: the workers of the stage's environment; None where it has none."""
    if stage.env is None or pool is None:
        return None
    conversation = Conversation(
        run.encoder,
        pool.tools,
        tool_format=stage.env.tool_format,
        history=stage.env.history,
        also_end=run.policy.end_ids,
    )
    if conversation.rewrites_history:
        run.tracker.say(REWRITES[stage.env.history])
    return Episodes(
        pool,
        conversation,
        max_turns=stage.env.max_turns,
        max_tokens=stage.sampling.max_tokens,
        max_length=run.max_length,
    )
