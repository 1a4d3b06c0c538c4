"""A rollout of one token with a text, for rewards that read the text."""

from __future__ import annotations

from rlcore.types import Rollout


def short_rollout(text: str, finish: str = "stop") -> Rollout:
    return Rollout.from_tokens(
        id="r",
        task_id="t",
        token_ids=[1, 2],
        mask=[False, True],
        logprobs=[0.0, 0.0],
        text=text,
        finish=finish,
        version=0,
    )
