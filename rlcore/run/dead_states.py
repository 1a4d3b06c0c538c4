"""Sentences that name a dead run in its first steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def dead_states(metrics: Mapping[str, Any], ending: str = "") -> list[str]:
    """Why a step taught the model nothing; empty where it taught something.

    ending: where completions end, as a sentence (`PromptEncoder.ending`).
    """
    sentences = []
    if metrics.get("completions/frac_truncated") == 1:
        sentence = (
            "every completion was cut at sampling.max_tokens: raise it, or teach the model to stop "
            "(an sft stage)"
        )
        sentences.append(f"{sentence}. {ending}" if ending else sentence)
    if metrics.get("reward/frac_wrong_format") == 1:
        sentences.append(
            "no completion had the format the reward asks for: check the prompt, or teach the "
            "format (an sft stage)"
        )
    if metrics.get("filter/frac_filled", 1) < 0.5:
        sentences.append(
            f"the filter accepted {metrics['filter/frac_filled']:.0%} of a batch after trying "
            f"{metrics['filter/tried_per_group']:.3g} batches: the tasks are too hard or too easy "
            "for it, or resample.max_gen_batches is too small"
        )
    is_constant = metrics.get("reward/frac_zero_std") == 1
    if metrics.get("tokens/trained") == 0 and not is_constant:
        sentences.append(
            "credit gave every completion an advantage of 0, so nothing was learned: check "
            "credit.baseline and its scheme"
        )
    # A credit scheme may teach although all rewards are equal: then some tokens are not wasted.
    is_wasted = metrics.get("tokens/frac_wasted", 1) == 1
    if is_constant and is_wasted and not metrics.get("credit/frac_informative"):
        sentences.append(
            f"all completions of each task earned the same reward (mean "
            f"{metrics['reward/mean']:.3g}), so nothing was learned: the tasks are too hard or too "
            "easy, or the reward is constant"
        )
    return sentences


def loss_meaning(kind: str) -> str | None:
    """What the value of the loss says in a stage of this kind; None where it needs no words."""
    if kind == "rl":
        return (
            "the loss of an rl stage is near 0 and does not measure progress: advantages of a "
            "group cancel out, only the gradient counts. Watch reward/mean and the eval stages"
        )
    if kind == "offline":
        return (
            "the loss of an offline stage is weighted by advantages and does not measure progress: "
            "watch the eval stages"
        )
    return None
