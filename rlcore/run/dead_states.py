"""Sentences that name a dead run in its first steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlcore.run.rules import STEP_RULES

PAGE = "docs/not_learning.md"
"""Where each rule has a paragraph of its name."""

FIRST_STEPS = 5
"""Dead states are named in the first steps of a stage.

There they usually mean a mistake in the set-up.
"""


_OF_A_BROKEN_POLICY = ("all-truncated", "wrong-format")
"""Rules that a policy meets which wrote well in the first step and does not any more."""


def dead_states(
    metrics: Mapping[str, Any], ending: str = "", first: Mapping[str, Any] | None = None
) -> list[str]:
    """Why a step taught the model nothing, each with its paragraph in the docs; empty where it taught something.

    ending: where completions end, as a sentence (`PromptEncoder.ending`). first: metrics of the stage's first step.
    """
    sentences = []
    for rule in STEP_RULES:
        sentence = rule.says(metrics)
        if sentence is None:
            continue
        if rule.name == "all-truncated" and ending:
            sentence += f". {ending}"
        if rule.name in _OF_A_BROKEN_POLICY and first is not None and rule.says(first) is None:
            sentence += ". It was not so in the first step: what has changed is the policy, so lower optim.lr first"
        sentences.append(f"{sentence} [{PAGE}#{rule.name}]")
    return sentences


def loss_meaning(kind: str) -> str | None:
    """What the value of the loss says in a stage of this kind; None where it needs no words."""
    if kind == "rl":
        return (
            "the loss of an rl stage does not measure progress: it weighs a step's completions by "
            "their advantages, only its gradient counts. Watch reward/mean and the eval stages"
        )
    if kind == "offline":
        return (
            "the loss of an offline stage is weighted by advantages and does not measure progress: "
            "watch the eval stages"
        )
    return None
