"""Self-Lengthen (arXiv 2410.23933): cuts, what is accepted, and the prompts of the two roles."""

from __future__ import annotations

import random
from statistics import fmean

import pytest

from rewards.length import word_band
from rlcore.errors import TaskError
from rlcore.tasks.lengthen import (
    beginning,
    lengthened,
    longer_half,
    longer_whole,
    repeated,
    without_some,
)
from rlcore.types import Group, Rollout, Task, Verdict

TEMPLATE = "<{request}|{text}>"


def group_of(task: Task, *texts: str, finish: str = "stop") -> Group:
    rollouts = [
        Rollout.from_tokens(
            id=f"{task.id}#{k}", task_id=task.id, token_ids=[1, 2], mask=[False, True], logprobs=[0.0, 0.0], text=text, finish=finish
        )
        for k, text in enumerate(texts)
    ]  # fmt: skip
    return Group(task=task, rollouts=rollouts, verdicts=[Verdict(value=1.0)] * len(texts))


def micro_round(task: Task, answer: str, half: str, *rests: str) -> Group:
    """What the stage behind `longer_whole` sampled."""
    [asked] = longer_half(group_of(task, answer), template=TEMPLATE)
    [whole] = longer_whole(group_of(asked, half), template=TEMPLATE)
    return group_of(whole, *rests)


def made(group: Group, **parameters: object) -> list[Task]:
    return list(lengthened(group, draw=random.Random(0), template=TEMPLATE, **parameters))


REQUEST = Task(id="t", prompt="Q", columns={"url": "u"})
ANSWER, HALF = "a1 a2 a3 a4", "a1 b1 b2 a2 b3 b4"


def test_the_band_scores_the_published_lengths() -> None:
    scores = [word_band("w " * n, low=800, high=1200) for n in (400, 600, 800, 1200, 1500, 1800)]
    assert scores == pytest.approx([0.0, 0.5, 1.0, 1.0, 0.5, 0.0])
    assert word_band("w " * 1000, low=800, high=1200) == 1.0
    with pytest.raises(ValueError, match="must be above 0 and in order"):
        word_band("w", low=3, high=2)


def test_a_micro_round_cuts_and_keeps() -> None:
    """Half of the answer is asked for again, two thirds of what comes are kept, and the whole goes on from there."""
    [asked] = longer_half(group_of(REQUEST, ANSWER), template=TEMPLATE)
    assert asked.prompt == "<Q|a1 a2>" and asked.columns["short"] == ANSWER
    [whole] = longer_whole(group_of(asked, HALF), template=TEMPLATE)
    assert whole.prompt == "<Q|a1 a2 a3 a4>a1 b1 b2 a2" and whole.columns["kept"] == "a1 b1 b2 a2"
    written = group_of(whole, " a3 c1 a4")
    [again] = longer_half(written, template=TEMPLATE)  # a second micro-round begins with all of it
    assert again.prompt == "<Q|a1 b1 b2 a2>" and again.columns["short"] == "a1 b1 b2 a2 a3 c1 a4"
    assert again.columns["first"] == ANSWER and again.columns["kept"] == ""
    assert list(longer_half(group_of(REQUEST, ANSWER, finish="length"))) == []  # it was cut off


def test_demonstrations_of_the_two_roles() -> None:
    generator, extender = made(micro_round(REQUEST, ANSWER, HALF, " a3 a4"), drop=0.25)
    long = "a1 b1 b2 a2 a3 a4"
    assert generator.prompt == "Q" and generator.demonstration == extender.demonstration == long
    assert (generator.category, extender.category) == ("generator", "extender")
    shown = extender.prompt.removeprefix("<Q|").removesuffix(">").split()
    assert len(shown) == 3 and set(shown) < set(ANSWER.split())  # one word of four is left out
    assert [task.category for task in made(micro_round(REQUEST, ANSWER, HALF, " a3 a4"), roles=["extender"])] == ["extender"]
    assert generator.columns["url"] == "u"


def test_only_what_is_longer_and_does_not_repeat_itself_is_accepted() -> None:
    """More than 1.2 times the words; the first of several tries that passes; padding is rejected."""
    assert made(micro_round(REQUEST, "a1 a2 a3 a4 a5", "a1 a2 a3 a4 a5 a6", "")) == []  # 4 of 5 words
    exactly = micro_round(REQUEST, "a1 a2 a3 a4 a5", "a1 a2 a3", " a4 a5 a6 a7")  # 6 of 5 words: not more than 1.2
    assert made(exactly) == [] and len(made(exactly, ratio=1.1)) == 2
    padding = " x y z w" * 6
    tries = made(micro_round(REQUEST, ANSWER, HALF, padding, " a3", " n1 n2 n3 n4"))
    assert tries[0].demonstration == "a1 b1 b2 a2 a3"
    assert made(micro_round(REQUEST, ANSWER, HALF, padding)) == []
    assert repeated(padding) > 0.3 > repeated("a1 b1 b2 a2 n1 n2 n3 n4")


def test_beginnings_and_lost_lines() -> None:
    assert [beginning("a b c d e f", part) for part in (1 / 2, 2 / 3, 1.0, 0.0)] == ["a b c", "a b c d", "a b c d e f", ""]
    assert beginning("", 0.5) == "" and beginning("one\n two", 0.5) == "one"
    lines = "\n".join(map(str, range(10)))
    counts = [len(without_some(lines, 0.2, random.Random(i)).split("\n")) for i in range(20)]
    assert set(counts) == {8}
    lost = fmean("3" not in without_some(lines, 0.2, random.Random(i)).split("\n") for i in range(2000))
    assert abs(lost - 0.2) < 0.04


def test_makers_out_of_order_are_said() -> None:
    with pytest.raises(TaskError, match="longer_whole follows a stage whose tasks longer_half made"):
        list(longer_whole(group_of(REQUEST, ANSWER)))
    with pytest.raises(TaskError, match="lengthened follows stages whose tasks longer_half"):
        made(group_of(REQUEST, ANSWER))
