"""LeTI's feedback tokens on single completions: where they stand, and what is trained."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tokenizers import AddedToken

from rlcore.errors import RecipeError, TaskError
from rlcore.tokenizer import load_tokenizer
from rlcore.transforms.transform import Draw, Transforms
from rlcore.types import Sample, Task

MARKS = ["<|good|>", "<|bad|>", "<|feedback|>", "<|/feedback|>"]
TOKENIZER = load_tokenizer("bytes")
TOKENIZER.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in MARKS])


def sample_of(prompt: str = "2+2=", completion: str = "5") -> Sample:
    asked, said = TOKENIZER(prompt).input_ids, [*TOKENIZER(completion).input_ids, TOKENIZER.eos_token_id]
    trained = [False] * len(asked) + [True] * len(said)
    return Sample(
        id="s",
        token_ids=asked + said,
        mask=trained,
        advantages=[0.5 if each else 0.0 for each in trained],
        logprobs=[-1.0 if each else 0.0 for each in trained],
    )


def changed(sample: Sample, passed: bool, reason: str = "off by 1", *more: object, **parameters: object) -> Sample:
    task = Task(id="t", prompt="2+2=", columns={"reward": float(passed), "passed": passed, "feedback": reason})
    draw = Draw(task=task, step=0, steps=9, seed="0", tokenizer=TOKENIZER)
    return Transforms([{"use": "feedback", **parameters}, *more]).apply(draw, lambda _: sample)


def text_of(sample: Sample) -> str:
    return TOKENIZER.decode(sample.token_ids)


def trained_text(sample: Sample) -> str:
    return TOKENIZER.decode([id for id, on in zip(sample.token_ids, sample.mask, strict=True) if on])


def test_what_failed_has_a_block_and_what_passed_has_none() -> None:
    failed = changed(sample_of(), False)
    assert text_of(failed) == "<|bad|><|feedback|>off by 1<|/feedback|>2+2=5<|eos|>"
    assert text_of(changed(sample_of(), True)) == "<|good|>2+2=5<|eos|>"
    assert text_of(changed(sample_of(), False, coarse=True)) == "<|bad|>2+2=5<|eos|>"
    assert text_of(changed(sample_of(), False, "")) == "<|bad|>2+2=5<|eos|>"
    assert text_of(changed(sample_of(), False, max_tokens=3)).startswith("<|bad|><|feedback|>off<|/feedback|>2")


def test_the_completion_alone_is_trained_with_its_own_numbers() -> None:
    failed = changed(sample_of(), False)
    assert trained_text(failed) == "5<|eos|>"
    assert failed.advantages[-2:] == [0.5, 0.5] and failed.logprobs[-2:] == [-1.0, -1.0]
    assert sum(failed.advantages) == 1.0 and sum(failed.logprobs) == -2.0
    assert len(failed.token_ids) == len(sample_of().token_ids) + 3 + len("off by 1"), "marks are one token each"


@pytest.mark.parametrize("mark", ["<|good|>", "<|bad|>"])
def test_the_token_it_was_sampled_behind_is_replaced_where_it_stands(mark: str) -> None:
    asked = sample_of(f"Q: {mark}2+2=")
    assert text_of(changed(asked, True)) == "Q: <|good|>2+2=5<|eos|>"
    assert text_of(changed(asked, False, "no")) == "Q: <|bad|><|feedback|>no<|/feedback|>2+2=5<|eos|>"


def test_a_beginning_of_sequence_token_stays_first() -> None:
    assert text_of(changed(sample_of("<|bos|>2+2="), True)) == "<|bos|><|good|>2+2=5<|eos|>"


def test_feedback_behind_the_completion_is_trained() -> None:
    """And a transform after it still finds where the completion begins."""
    failed = changed(sample_of(), False, place="after")
    assert text_of(failed) == "<|bad|>2+2=5<|eos|><|feedback|>off by 1<|/feedback|>"
    assert trained_text(failed) == "5<|eos|><|feedback|>off by 1<|/feedback|>"
    assert text_of(changed(sample_of(), True, place="after")) == "<|good|>2+2=5<|eos|>"
    marked = changed(sample_of(), False, "x", {"use": "correction", "column": "feedback", "between": "!"}, place="after")
    assert text_of(marked) == "<|bad|>2+2=x!5<|eos|><|feedback|>x<|/feedback|>"


def test_what_it_refuses() -> None:
    with pytest.raises(TaskError, match="'<good>' is 6 tokens of this tokenizer"):
        changed(sample_of(), True, good="<good>")
    with pytest.raises(RecipeError, match="four different tokens"):
        changed(sample_of(), True, bad="<|good|>")
    asked = replace(sample_of("<|good|>2"), support=[None] * 4)
    assert changed(asked, False, "no").support == [None] * 8
