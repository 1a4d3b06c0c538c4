"""BoLT's E-step by its numbers (arXiv 2503.18866), and the texts that its M-step learns."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import pytest

from rlcore.errors import TaskError
from rlcore.tasks.latent_thoughts import (
    MARKS,
    importance_weights,
    latent_thoughts,
    log_mean_weight,
)
from rlcore.tasks.made import completions
from rlcore.types import Group, Rollout, Task, Verdict

LOG_WEIGHTS = [-10.0, -11.0, -12.0, -15.0]
IDS = {mark: 300 + number for number, mark in enumerate(MARKS)}
PRIOR, TEXT, POSTERIOR, THOUGHT = IDS.values()
END = 299


def encode(text: str) -> list[int]:
    return [IDS[text]] if text in IDS else list(text.encode())


def group_of(*log_weights: float | None, name: str = "t", text: tuple[int, ...] = (7, 8, 9)) -> Group:
    """Thought k is the token 50 + k and the end."""
    prompt = [POSTERIOR, *text, THOUGHT]
    rollouts = [
        Rollout.from_tokens(
            id=f"{name}#{k}", task_id=name, token_ids=[*prompt, 50 + k, END], mask=[False] * len(prompt) + [True] * 2,
            logprobs=[0.0] * (len(prompt) + 2), text=str(k),
        )
        for k in range(len(log_weights))
    ]  # fmt: skip
    verdicts = [
        Verdict(value=value) if value is not None else Verdict(value=None, status="unscorable")
        for value in log_weights
    ]
    return Group(task=Task(id=name, prompt="p", columns={"url": "u"}), rollouts=rollouts, verdicts=verdicts)


def made(group: Group, seed: object = 0, **parameters: object) -> list[Task]:
    return list(latent_thoughts(group, draw=random.Random(str(seed)), encode=encode, end=END, **parameters))


def test_weights_and_bound_are_the_published_ones() -> None:
    assert importance_weights(LOG_WEIGHTS) == pytest.approx([0.662, 0.244, 0.090, 0.004], abs=5e-4)
    assert log_mean_weight(LOG_WEIGHTS) == pytest.approx(-10.97, abs=5e-3)
    assert sum(LOG_WEIGHTS) / 4 == -12.0 < log_mean_weight(LOG_WEIGHTS)
    assert importance_weights([-700.0]) == [1.0] and log_mean_weight([-700.0]) == -700.0  # K = 1
    assert importance_weights([-5000.0, -5000.0]) == [0.5, 0.5]  # no underflow


def test_the_bound_does_not_fall_as_the_number_of_thoughts_grows() -> None:
    """In expectation, by summing over all draws of q: it rises towards log p(x), which it never passes."""
    q = [0.5, 0.3, 0.2]
    joint = [0.02, 0.10, 0.07]  # p(z, x)
    log_weights = [math.log(p / own) for p, own in zip(joint, q, strict=True)]
    bounds = []
    for k in range(1, 6):
        expected = 0.0
        for drawn in itertools.product(range(3), repeat=k):
            probability = math.prod(q[z] for z in drawn)
            expected += probability * log_mean_weight([log_weights[z] for z in drawn])
        bounds.append(expected)
    assert bounds[0] == pytest.approx(sum(own * value for own, value in zip(q, log_weights, strict=True)))
    assert all(later > earlier for earlier, later in itertools.pairwise(bounds))
    assert bounds[-1] < math.log(sum(joint))


def test_the_two_forms_token_by_token() -> None:
    [prior] = made(group_of(-3.0), prior=1.0)
    assert prior.prompt == "<|prior|>" and prior.demonstration == [50, END, TEXT, 7, 8, 9, END]
    [posterior] = made(group_of(-3.0), prior=0.0)
    assert posterior.prompt == "<|posterior|>" and posterior.demonstration == [7, 8, 9, THOUGHT, 50, END]
    assert prior.columns == {"url": "u", "form": "prior", "thought": "0"} and prior.id == "t"


def test_each_form_has_one_half_of_many_texts_and_thoughts_their_weights() -> None:
    count = 6000
    drawn = [made(group_of(*LOG_WEIGHTS, name=f"t{i}"), seed=i)[0].columns for i in range(count)]
    prior = sum(columns["form"] == "prior" for columns in drawn) / count
    assert abs(prior - 0.5) < 4 * math.sqrt(0.25 / count)
    shares = Counter(columns["thought"] for columns in drawn)
    for k, weight in enumerate(importance_weights(LOG_WEIGHTS)):
        deviation = math.sqrt(weight * (1 - weight) / count)
        assert abs(shares[str(k)] / count - weight) < 4 * deviation, (k, shares)
        of_thought = [columns["form"] for columns in drawn if columns["thought"] == str(k)]
        if len(of_thought) > 100:  # which form is drawn does not depend on the thought
            assert abs(of_thought.count("prior") / len(of_thought) - 0.5) < 0.08


def test_thoughts_without_a_weight_are_none_of_them() -> None:
    assert made(group_of(None, None)) == []
    assert {made(group_of(None, -9.0), seed=i)[0].columns["thought"] for i in range(20)} == {"1"}


@pytest.mark.parametrize(
    ("marks", "said"),
    [
        (("<|prior|>", "<|text|>"), "need four different marks"),
        (("<|prior|>", "<|text|>", "<|posterior|>", "thought"), "'thought' is 7 tokens of this tokenizer"),
        (("<|posterior|>", "<|text|>", "<|prior|>", "<|thought|>"), "must be the posterior form"),
    ],
)
def test_marks_that_do_not_fit_are_said(marks: tuple[str, ...], said: str) -> None:
    with pytest.raises(TaskError, match=said):
        made(group_of(-1.0), marks=marks)


def test_completions_become_demonstrations() -> None:
    group = group_of(1.0, 0.0, None, 2.0)
    kept = {keep: list(completions(group, keep=keep)) for keep in ("all", "correct", "best")}
    assert {keep: [task.demonstration for task in tasks] for keep, tasks in kept.items()} == {
        "all": ["0", "1", "3"], "correct": ["0", "3"], "best": ["3"],
    }  # fmt: skip
    assert kept["best"][0].columns == {"url": "u", "reward": 2.0, "passed": True, "feedback": ""}
    assert len({task.id for task in kept["all"]}) == 3
