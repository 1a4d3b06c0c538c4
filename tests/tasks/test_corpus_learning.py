"""What learning on a corpus is made of: masks and their guesses, text beside RL, categories that weigh, bins that change."""

from __future__ import annotations

import random
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

import rlcore.tasks.corpus.guess
from rlcore.credit import demonstration_sample, group_credit
from rlcore.credit.category_weights import weighted_categories
from rlcore.curriculum.easy_to_hard import EasyToHard
from rlcore.errors import LearnerError, RecipeError, TaskError
from rlcore.learner.policy import load_policy
from rlcore.learner.update import Learner
from rlcore.objective import objective
from rlcore.run.next_token import text_sample, text_samples
from rlcore.tasks.corpus.guess import guess_masks, mask_reward
from rlcore.tokenizer import byte_tokenizer
from rlcore.types import Group, Rollout, Sample, Task, Verdict

SHAPE = {"model_type": "qwen2", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
         "num_key_value_heads": 1, "max_position_embeddings": 128}  # fmt: skip


def group(task: Task, texts: list[str], values: list[float | None]) -> Group:
    rollouts = [
        Rollout.from_tokens(id=f"{task.id}#{i}", task_id=task.id, token_ids=[1, 65, 66 + i], mask=[False, True, True], logprobs=[-1.0] * 3,
                text=text, finish="stop", version=0)
        for i, text in enumerate(texts)
    ]  # fmt: skip
    verdicts = [
        Verdict(value=value, status="ok" if value is not None else "crashed") for value in values
    ]
    return Group(task=task, rollouts=rollouts, verdicts=verdicts)


PARAGRAPH = "Ann lives in Rome. She paid 7 for x9q. Ann is happy."
KNOWN = {"Rome": 4, "7": 8, "x9q": 0, "Ann": 2}
"""Right guesses of eight."""


def masks(texts: list[str]) -> Group:
    return group(
        Task(id="p", prompt="choose", category="mask", columns={"text": PARAGRAPH}),
        texts,
        [0.0] * len(texts),
    )


def answered(tasks: list[Task]) -> list[Group]:
    return [
        group(task, [""] * 8, [float(i < KNOWN[task.answer]) for i in range(8)]) for task in tasks
    ]


def test_a_mask_is_worth_what_its_guesses_say() -> None:
    texts = [
        "so <mask>Rome</mask>",
        "<mask>7</mask>",
        "<mask>x9q</mask>",
        "<mask>Ann</mask>",
        "<mask>Paris</mask>",
        "Rome",
        "<mask></mask>",
    ]
    asked: list[Task] = []

    def answer(tasks: list[Task]) -> list[Group]:
        asked.extend(tasks)
        return answered(tasks)

    other = group(Task(id="o", prompt="o"), ["x"], [0.25])
    judged, same, *guesses = guess_masks([masks(texts), other], answer)
    assert [verdict.value for verdict in judged.verdicts] == [
        0.5,
        0,
        0,
        0.75,
        0,
        0,
        0,
    ] and same is other
    assert [verdict.status for verdict in judged.verdicts] == ["ok"] * 4 + ["wrong-format"] * 3
    assert [task.answer for task in asked] == ["Rome", "7", "x9q", "Ann"] and {
        task.category for task in asked
    } == {"predict"}
    assert (
        len(guesses) == 4
        and asked[3].prompt.count("[MASK]") == 2 + 1
        and all(task.answer not in task.prompt for task in asked)
    )
    unguarded, *_ = guess_masks([masks(texts)], answered, guard=False)
    assert unguarded.verdicts[2].value == 1.0  # noise would pay best


def test_the_reward_of_masks_by_share_of_right_guesses() -> None:
    assert [mask_reward(k / 8) for k in range(9)] == [
        0,
        0.875,
        0.75,
        0.625,
        0.5,
        0.375,
        0.25,
        0.125,
        0,
    ]
    assert mask_reward(0.0, guard=False) == 1
    assert ">>> [mask_reward" in rlcore.tasks.corpus.guess.mask_reward.__doc__


def test_a_step_has_the_papers_numbers() -> None:
    """32 paragraphs x 8 masks are 256 tasks of 8 guesses: 288 groups, here with 4 x 8."""
    groups = [
        group(
            Task(id=f"p{i}", prompt="c", category="mask", columns={"text": PARAGRAPH}),
            ["<mask>Rome</mask>"] * 8,
            [0.0] * 8,
        )
        for i in range(4)
    ]
    whole = guess_masks(groups, answered)
    assert (
        len(whole) == 4 + 32
        and all(len(one.rollouts) == 8 for one in whole)
        and len({one.task.id for one in whole}) == 36
    )


def choose(guard: bool, steps: int = 300) -> dict[str, float]:
    """A softmax over kinds of masks, trained with group credit on their rewards; the guesser knows some kinds better."""
    rate = {"trivial": 1.0, "inferable": 0.5, "noise": 0.0}
    logits, rng = dict.fromkeys(rate, 0.0), random.Random(0)
    for _ in range(steps):
        total = sum(torch.tensor(list(logits.values())).exp())
        drawn = rng.choices(
            list(rate), [float(torch.tensor(v).exp() / total) for v in logits.values()], k=8
        )
        rewards = [
            mask_reward(sum(rng.random() < rate[kind] for _ in range(8)) / 8, guard)
            for kind in drawn
        ]
        mean = sum(rewards) / 8
        for kind, reward in zip(drawn, rewards, strict=True):
            logits[kind] += 0.1 * (reward - mean)
    total = sum(torch.tensor(list(logits.values())).exp())
    return {kind: float(torch.tensor(v).exp() / total) for kind, v in logits.items()}


def test_masks_move_to_what_can_be_inferred_and_without_the_guard_to_noise() -> None:
    guarded, unguarded = choose(True), choose(False)
    assert guarded["inferable"] > 0.9 and guarded["noise"] < 0.06, guarded
    assert unguarded["noise"] > 0.8, unguarded


def test_text_and_rl_tokens_are_disjoint_and_cover_the_text() -> None:
    text = "naïve 😀 text of some words"
    coded = byte_tokenizer()(text, add_special_tokens=False, return_offsets_mapping=True)
    spans = [[2, 3], [9, 13]]
    sample = text_sample("t", coded["input_ids"], coded["offset_mapping"], spans)
    inside = [
        any(a < end and start < b for a, b in spans) for start, end in coded["offset_mapping"]
    ]
    assert sample.stream == "text" and sum(inside) == 2 + 4
    assert [trained or rl for trained, rl in zip(sample.mask, inside, strict=True)] == [False] + [
        True
    ] * (len(inside) - 1)
    assert not any(trained and rl for trained, rl in zip(sample.mask, inside, strict=True))


def test_tasks_of_one_text_share_its_sample() -> None:
    run = SimpleNamespace(policy=SimpleNamespace(tokenizer=byte_tokenizer()), max_length=10)
    tasks = [
        Task(id=str(i), prompt="p", columns={"text": text, "spans": []})
        for i, text in enumerate(["one", "two" * 9, "one"])
    ]
    samples = text_samples(run, tasks)
    assert [len(sample.token_ids) for sample in samples] == [3, 10]
    with pytest.raises(TaskError, match="column `text`"):
        text_samples(run, [Task(id="x", prompt="p")])


def gradient(samples: list[Sample], **settings: float) -> torch.Tensor:
    policy = load_policy(config=SHAPE, tokenizer="bytes", dtype="float64")
    learner = Learner(
        policy,
        objective("grpo", **settings),
        accelerator=Accelerator(cpu=True),
        lr=1e-2,
        total_updates=9,
    )
    learner.accumulate(samples)
    return torch.cat([p.grad.flatten() for p in policy.module.parameters()])


def test_the_text_term_leaves_rl_tokens_alone() -> None:
    ids = [70, 71, 72, 73, 74]
    rl = demonstration_sample("rl", [70, 71], [72])
    whole = text_sample("t", ids, [(i, i + 1) for i in range(5)], [[2, 3]])
    by_hand = Sample(
        id="t",
        token_ids=ids,
        mask=[False, True, False, True, True],
        advantages=[1.0] * 5,
        stream="text",
    )
    every = text_sample("t", ids, [(i, i + 1) for i in range(5)], [])
    mixed = gradient([rl, whole], next_token=0.1)
    assert (mixed - gradient([rl, by_hand], next_token=0.1)).abs().max() == 0
    assert (mixed - gradient([rl, every], next_token=0.1)).abs().max() > 1e-4
    parts = gradient([rl]), gradient([whole], next_token=0.1)
    assert (mixed - sum(parts)).abs().max() < 1e-12
    with pytest.raises(LearnerError, match="stream 'text'"):
        gradient([rl, whole])


def test_weights_of_arms_mix_gradients_in_a_line() -> None:
    """J_ASR + lambda J_MSR: the gradient is a line in lambda, and at 0 that of ASR alone."""
    groups = [
        group(
            Task(id=f"{category}{i}", prompt="p", category=category),
            ["", "", ""],
            [1.0, 0.0, 0.5 * i],
        )
        for category in ("asr", "msr")
        for i in range(3)
    ]

    def of(weight: float) -> torch.Tensor:
        made = weighted_categories(group_credit(baseline="mean"), {"msr": weight})(groups)
        return gradient([sample for samples in made for sample in samples])

    zero, half, one = of(0.0), of(0.5), of(1.0)
    assert (half - (zero + one) / 2).abs().max() < 1e-12 and (one - zero).norm() > 1e-3
    plain = [sample for samples in group_credit(baseline="mean")(groups) for sample in samples]
    assert (gradient(plain) - one).abs().max() == 0
    only = [sample for sample in plain if sample.id.startswith("asr")]
    assert (gradient(only) / 2 - zero).abs().max() < 1e-12 and zero.norm() > 1e-3


def bins(counts: dict[str, int]) -> list[Task]:
    return [
        Task(id=f"{category}{i}", prompt="p", category=category)
        for category, n in counts.items()
        for i in range(n)
    ]


def test_bins_are_drawn_by_the_shares_of_the_moment() -> None:
    tasks = bins({"easy": 50, "medium": 20, "hard": 5})
    start, end = (
        {"easy": 6.0, "medium": 3.0, "hard": 1.0},
        {"easy": 0.1, "medium": 0.3, "hard": 0.6},
    )
    engine = EasyToHard(tasks, seed=0, start=start, end=end, hold=30, until=70)
    wanted = {29: [0.6, 0.3, 0.1], 50: [0.35, 0.3, 0.35], 70: [0.1, 0.3, 0.6], 99: [0.1, 0.3, 0.6]}
    for step in range(100):
        drawn = Counter(tasks[position].category for position in engine.draw(4000))
        engine.observe([])
        if step in wanted:
            expected = [4000 * share for share in wanted[step]]
            found = [drawn[category] for category in ("easy", "medium", "hard")]
            assert (
                sum((a - b) ** 2 / b for a, b in zip(found, expected, strict=True)) < 13.8
            )  # chi-squared, p = 0.001
    again = EasyToHard(tasks, seed=0, start=start, end=end, hold=30, until=70)
    again.load_state_dict(engine.state_dict())
    assert again.draw(50) == engine.draw(50)
    with pytest.raises(RecipeError, match="did you mean 'hard'"):
        EasyToHard(tasks, seed=0, start={"hrd": 1.0}, end=end, hold=1, until=2)
