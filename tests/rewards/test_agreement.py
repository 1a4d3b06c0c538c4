"""Agreement of a group, against a count by hand and the facts that SelfCheckGPT's scores must show."""

from __future__ import annotations

import pytest

from rewards.agreement import agreement
from rlcore.scoring.forms import RewardSpec, form_of
from rlcore.scoring.scorer import Scorer
from rlcore.types import Rollout, Task


def test_identical_completions_agree_wholly() -> None:
    assert agreement(["It is 12. I added them."] * 4) == [1.0] * 4


def test_a_sentence_that_no_other_has_counts_as_none() -> None:
    said = ["Paris is old. It has a river.", "Paris is old. It has a river.", "Paris is old. Elves built towers."]
    scores = agreement(said)
    # third: its first sentence is in both others, its second in neither
    assert scores[2] == pytest.approx(0.5)
    # first: all of it in the second, half of it in the third
    assert scores[0] == scores[1] == pytest.approx(0.75)
    assert agreement(["Elves built towers.", "Paris is old.", "Paris is old."])[0] == 0.0


def test_it_is_the_fraction_of_n_grams_by_hand() -> None:
    said = ["a b c d", "a b x d"]
    assert agreement(said, n=1) == pytest.approx([3 / 4, 3 / 4])
    assert agreement(said, n=2) == pytest.approx([1 / 3, 1 / 3])  # of ab, bc, cd only ab
    assert agreement(["A, b c d!", "a b c d"], n=2) == [1.0, 1.0]
    assert agreement(["7", "7", "8"], n=3) == [0.5, 0.5, 0.0]  # shorter than n


def test_what_has_nothing_to_compare() -> None:
    assert agreement(["alone"]) == [None]
    assert agreement(["", "said"]) == [0.0, 0.0]
    assert agreement(["<think>other</think>4", "<think>words</think>4"]) == [1.0, 1.0]
    with pytest.raises(ValueError, match="n is 0"):
        agreement(["a", "b"], n=0)


def test_it_runs_as_a_reward_of_a_group() -> None:
    assert form_of(agreement) == "batch"
    rollouts = []
    for number, text in enumerate(("four", "four", "five")):
        rollouts.append(
            Rollout.from_tokens(
                id=f"t#{number}", task_id="t", token_ids=[1, 2], mask=[False, True], logprobs=[0.0, -1.0], text=text,
                finish="stop", version=0,
            )  # fmt: skip
        )
    with Scorer([RewardSpec(use="rewards.agreement:agreement")], workers=1) as scorer:
        [verdicts] = scorer.score([(Task(id="t", prompt="2+2"), rollouts)])
    assert [verdict.value for verdict in verdicts] == [0.5, 0.5, 0.0]
