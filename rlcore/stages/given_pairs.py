"""Preference data of elsewhere: TRL's formats and those of UltraFeedback, as rows with tokens.

    {prompt, chosen, rejected}          texts or chat messages (TRL's explicit prompt)
    {chosen, rejected}                  conversations that begin alike (TRL's implicit prompt)
    {prompt, chosen, rejected,          UltraFeedback binarized; the difference of the scores is
     score_chosen, score_rejected}      the margin
    {instruction, completions: [...]}   UltraFeedback; the best against each that is rated lower
    {prompt, completion, label}         TRL's unpaired preference: one completion, good or bad

A row with `prompt_ids`, `chosen_ids` and `rejected_ids` is taken as it is. Completions without
tokens are taken to be whole: they get the end token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlcore.errors import RunError
from rlcore.types import Task

if TYPE_CHECKING:
    from rlcore.rollout.prompt import PromptEncoder

RATINGS = ("fine-grained_score", "overall_score", "score")
"""Keys of an UltraFeedback completion that rate it; the first that all completions have
counts.
"""


def given_rows(encoder: PromptEncoder, row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The pairs of one row of a file, with their tokens. Raises `RunError` for a row in no
    known format.
    """
    if {"prompt_ids", "chosen_ids", "rejected_ids"} <= row.keys():
        yield dict(row)
        return
    if {"prompt", "completion", "label"} <= row.keys():
        yield _labelled(encoder, row)
        return
    try:
        pairs = list(_rated(row)) if "completions" in row else [_paired(row)]
    except (KeyError, TypeError, IndexError, ValueError):
        raise RunError(
            "a given pair has no prompt, chosen and rejected: write each pair as {prompt, "
            "chosen, rejected}, "
            "or as UltraFeedback does"
        ) from None
    for pair in pairs:
        yield {**pair, **_tokens(encoder, pair, ("chosen", "rejected"))}


def _labelled(encoder: PromptEncoder, row: Mapping[str, Any]) -> dict[str, Any]:
    """A completion that is good or bad by itself. Raises `RunError`."""
    try:
        completion = _said(row["completion"])
        prompt = _plain_prompt(row["prompt"])
    except (KeyError, TypeError, IndexError):
        completion = None
    if completion is None or not isinstance(row["label"], bool):
        raise RunError(
            "a labelled completion is {prompt, completion, label}, texts or chat messages and true "
            "or false"
        )
    example = {"prompt": prompt, "completion": completion, "label": row["label"]}
    return {**example, **_tokens(encoder, example, ("completion",))}


def _paired(row: Mapping[str, Any]) -> dict[str, Any]:
    """Prompt and the text of both sides, with the margin where the row has one."""
    chosen, rejected = row["chosen"], row["rejected"]
    prompt = row.get("prompt")
    if isinstance(chosen, list) and len(chosen) > 1:
        if chosen[:-1] != rejected[:-1]:
            raise ValueError("the sides do not answer the same conversation")
        prompt = chosen[:-1]
    if prompt is None:
        raise KeyError("prompt")
    pair = {
        "prompt": _plain_prompt(prompt),
        "chosen": _said(chosen),
        "rejected": _said(rejected),
    }
    if "margin" in row:
        return {**pair, "margin": float(row["margin"])}
    if "score_chosen" in row and "score_rejected" in row:
        return {**pair, "margin": float(row["score_chosen"]) - float(row["score_rejected"])}
    return pair


def _rated(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Pairs of rated completions of one instruction: the best against each that is rated
    lower.
    """
    completions = row["completions"]
    common = [key for key in RATINGS if all(key in completion for completion in completions)]
    key = common[0]
    rated = [(float(completion[key]), completion["response"]) for completion in completions]
    best, chosen = max(rated, key=lambda pair: pair[0])
    for rating, rejected in rated:
        if rating < best:
            yield {
                "prompt": row["instruction"],
                "chosen": chosen,
                "rejected": rejected,
                "margin": best - rating,
            }


def _plain_prompt(prompt: str | list[Mapping[str, Any]]) -> str | list[Mapping[str, Any]]:
    """One message of the user as text: a model without a chat template can read that."""
    if isinstance(prompt, list) and len(prompt) == 1 and prompt[0]["role"] == "user":
        return prompt[0]["content"]
    return prompt


def _said(side: str | list[Mapping[str, Any]]) -> str:
    text = side if isinstance(side, str) else side[-1]["content"]
    if not isinstance(text, str):
        raise TypeError("a side is a text, or messages that end with one")
    return text


def _tokens(
    encoder: PromptEncoder, pair: Mapping[str, Any], sides: Sequence[str]
) -> dict[str, list[int]]:
    """`prompt_ids`, and of each side its tokens."""
    task = Task(id="given", prompt=pair["prompt"])
    ids = {"prompt_ids": encoder.encode(task)}
    for side in sides:
        answered = Task(id="given", prompt=pair["prompt"], demonstration=pair[side])
        ids[f"{side}_ids"] = encoder.encode_demonstration(answered)
    return ids
