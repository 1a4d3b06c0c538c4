"""RLP's reward (arXiv 2510.01265) against a plain forward, the facts that follow from its formulas, and a toy that it teaches."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from rlcore.credit import demonstration_sample, group_credit
from rlcore.errors import LearnerError
from rlcore.learner.information_gain import InformationGain
from rlcore.learner.policy import Policy
from rlcore.learner.update import Learner
from rlcore.objective import objective
from rlcore.types import Group, Rollout, Sample, Task, Verdict

TEXT = "The river near the stone follows every letter."


def rollout_of(
    policy: Policy, task: Task, thought: str, number: int = 0, *, ended: bool = True
) -> Rollout:
    prompt, answer = (
        policy.tokenizer(text, add_special_tokens=False).input_ids
        for text in (task.prompt, thought)
    )
    answer = answer + [policy.tokenizer.eos_token_id] * ended
    return Rollout.from_tokens(
        id=f"{task.id}#{number}", task_id=task.id, token_ids=prompt + answer, mask=[False] * len(prompt) + [True] * len(answer),
        logprobs=[0.0] * len(prompt) + [-1.0] * len(answer), text=thought, finish="stop", version=0,
    )  # fmt: skip


def group_of(
    policy: Policy,
    thoughts: list[str],
    *,
    cut: int = 20,
    mark: str = "<think>",
    id: str = "t",
    **rollout: bool,
) -> Group:
    task = Task(
        id=id, prompt=TEXT[:cut] + mark, columns={"context": TEXT[:cut], "continuation": TEXT[cut:]}
    )
    return scored(
        task,
        [rollout_of(policy, task, thought, i, **rollout) for i, thought in enumerate(thoughts)],
        [0.0] * len(thoughts),
    )


def scored(task: Task, rollouts: list[Rollout], rewards: list[float]) -> Group:
    return Group(task=task, rollouts=rollouts, verdicts=[Verdict(value=value) for value in rewards])


@torch.no_grad()
def plain_score(policy: Policy, before: str, after: str) -> float:
    """log p(after | before) by the model's own attention: no packing, no sharing."""
    first, second = (
        policy.tokenizer(text, add_special_tokens=False).input_ids for text in (before, after)
    )
    policy.model.set_attn_implementation("sdpa")
    logits = (
        policy.model(input_ids=torch.tensor([first + second]), use_cache=False)
        .logits[0]
        .log_softmax(-1)
    )
    policy.model.set_attn_implementation("rlcore_packed")
    return sum(logits[len(first) - 1 + i, token].item() for i, token in enumerate(second))


@pytest.mark.parametrize("horizon", [1, 5, None])
def test_the_gain_is_that_of_a_plain_forward(
    make_policy: Callable[..., Policy], horizon: int | None
) -> None:
    policy = make_policy()
    thoughts = ["it follows", "so</think>and more that is no thought", "", "x" * 40]
    [gains] = InformationGain(policy, horizon=horizon)([group_of(policy, thoughts)])
    target = TEXT[20:][:horizon]
    for gain, thought in zip(gains, ["it follows", "so", "", "x" * 40], strict=True):
        wanted = plain_score(policy, f"{TEXT[:20]}<think>{thought}</think>", target)
        base = plain_score(policy, TEXT[:20], target)
        assert gain == pytest.approx((wanted - base, wanted, base), abs=1e-9)
    wrong = plain_score(
        policy, f"{TEXT[:20]}<think>it follows", target
    )  # a scorer that forgets the closing mark
    assert abs(gains[0].thought - wrong) > 1e-3


def test_an_empty_thought_without_marks_gains_nothing_at_first(
    make_policy: Callable[..., Policy],
) -> None:
    policy = make_policy()
    learner = Learner(
        policy,
        objective("rloo"),
        accelerator=Accelerator(cpu=True),
        lr=1e-2,
        total_updates=9,
        ema=0.5,
    )
    score = InformationGain(policy, average=learner.average, close="", horizon=None)
    groups = [group_of(policy, ["", "", "abc"], mark="")]
    [gains] = score(groups)
    assert (
        gains[0].value == gains[1].value == pytest.approx(0, abs=1e-12)
        and abs(gains[2].value) > 1e-6
    )
    own = policy.score([policy.tokenizer(TEXT, add_special_tokens=False).input_ids])[0]
    assert gains[0].plain == pytest.approx(
        sum(own[19:]), abs=1e-9
    )  # the first batch: the copy is the policy


def test_the_slow_copy_is_the_weighted_sum_of_all_weights_so_far(
    make_policy: Callable[..., Policy],
) -> None:
    policy, decay = make_policy(), 0.7
    learner = Learner(
        policy,
        objective("sft"),
        accelerator=Accelerator(cpu=True),
        lr=1e-2,
        total_updates=9,
        ema=decay,
    )
    score, group = InformationGain(policy, average=learner.average), group_of(policy, ["abc"])
    history = [[p.detach().clone() for p in policy.module.parameters()]]
    for number in range(3):
        learner.update([demonstration_sample(str(number), [1, 2], [3, 4, number])])
        history.append([p.detach().clone() for p in policy.module.parameters()])
    weights = [decay**3] + [(1 - decay) * decay ** (3 - k) for k in (1, 2, 3)]
    other = make_policy()
    with torch.no_grad():
        for place, p in enumerate(other.module.parameters()):
            p.copy_(sum(w * past[place] for w, past in zip(weights, history, strict=True)))
    [[gain]] = score([group])
    assert gain.plain == pytest.approx(plain_score(other, TEXT[:20], TEXT[20]), abs=1e-9)
    assert gain.thought == pytest.approx(
        plain_score(policy, f"{TEXT[:20]}<think>abc</think>", TEXT[20]), abs=1e-9
    )
    assert abs(gain.plain - plain_score(policy, TEXT[:20], TEXT[20])) > 1e-3


def advantages(rewards: list[float]) -> list[float]:
    task = Task(id="t", prompt="p")
    rollouts = [
        Rollout.from_tokens(id=str(i), task_id="t", token_ids=[1, 2, 3], mask=[False, True, True], logprobs=[0.0, -1.0, -1.0], text="",
                finish="stop", version=0)
        for i in range(len(rewards))
    ]  # fmt: skip
    [samples] = group_credit(baseline="leave_one_out")([scored(task, rollouts, rewards)])
    assert all(
        sample.advantages[0] == 0 and sample.advantages[1] == sample.advantages[2]
        for sample in samples
    )
    return [sample.advantages[1] for sample in samples]


def test_the_papers_own_numbers() -> None:
    rewards = [-0.8, -0.6, -0.5, -0.3]
    found = advantages(rewards)
    assert found == pytest.approx([-0.3333, -0.0667, 0.0667, 0.3333], abs=1e-4)
    stepped = [0.25 * math.exp(0.5 * value) for value in found]
    stepped = [value / sum(stepped) for value in stepped]
    assert stepped == pytest.approx([0.2101, 0.2401, 0.2566, 0.2932], abs=1e-4)
    assert sum(p * r for p, r in zip(stepped, rewards, strict=True)) == pytest.approx(
        -0.5284, abs=1e-4
    )
    assert advantages([value + 3.0 for value in rewards]) == pytest.approx(
        found, abs=1e-12
    )  # the slow copy cancels


def test_only_the_thought_is_trained(make_policy: Callable[..., Policy]) -> None:
    """The gradient is that of the thought's log-probability; a sample that also trains the predicted text gives another one."""
    policy = make_policy()
    group = group_of(policy, ["it follows", "perhaps so"])
    group = scored(group.task, group.rollouts, [1.0, 0.0])
    [samples] = group_credit(baseline="leave_one_out")([group])
    for sample, thought in zip(samples, ["it follows", "perhaps so"], strict=True):
        assert sum(sample.mask) == len(thought) + 1 and not any(sample.mask[:27])

    def gradient(samples: list[Sample]) -> torch.Tensor:
        learner = Learner(
            policy, objective("rloo"), accelerator=Accelerator(cpu=True), lr=1e-2, total_updates=9
        )
        learner.accumulate(samples)
        found = torch.cat([p.grad.flatten().clone() for p in policy.module.parameters()])
        policy.module.zero_grad()
        return found

    found = gradient(samples)
    inputs = [sample.token_ids for sample in samples]
    policy.model.set_attn_implementation("sdpa")
    total = sum(
        sign * policy.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)[26:-1]
        .gather(1, torch.tensor(ids[27:])[:, None]).sum()
        for sign, ids in zip((1, -1), inputs, strict=True)
    )  # fmt: skip
    policy.module.zero_grad()
    (-total / 2).backward()
    wanted = torch.cat([p.grad.flatten().clone() for p in policy.module.parameters()])
    policy.model.set_attn_implementation("rlcore_packed")
    assert (found - wanted).abs().max() < 1e-6 * wanted.abs().max() and wanted.abs().max() > 1e-3


def test_what_cannot_be_scored_is_said(make_policy: Callable[..., Policy]) -> None:
    policy = make_policy()
    with pytest.raises(LearnerError, match="'gold'.*corpus with positions"):
        InformationGain(policy, target="gold")([group_of(policy, ["a"])])
    with pytest.raises(LearnerError, match="nothing to predict"):
        InformationGain(policy)([group_of(policy, ["a"], cut=len(TEXT))])
    with pytest.raises(LearnerError, match="horizon"):
        InformationGain(policy, horizon=0)


DIGITS, UNSURE = "0123", "?"


def taught(make_policy: Callable[..., Policy]) -> Policy:
    """A model to which a digit as a thought says with 70% what comes next, and nothing else anything.

    It mostly thinks "?", and in every seventh case what would be right if the digits followed each other.
    """
    policy = make_policy(dtype="float32")
    learner = Learner(
        policy,
        objective("sft"),
        accelerator=Accelerator(cpu=True),
        lr=3e-3,
        total_updates=200,
        schedule="cosine",
    )
    rng = random.Random(0)
    for step in range(200):
        demonstrations = []
        for i in range(48):
            seen, x, thought = (rng.choice(DIGITS) for _ in range(3))
            if rng.random() < 0.24:
                thought = follower(seen) if rng.random() < 0.6 else thought
                x = thought if rng.random() < 0.7 else x
            else:
                thought = UNSURE
            demonstrations.append(
                demonstration_sample(f"{step}/{i}", codes(f"{seen}="), codes(f"{thought}>{x}"))
            )
            demonstrations.append(
                demonstration_sample(
                    f"{step}/{i}/plain", codes(f"{seen}:"), codes(rng.choice(DIGITS))
                )
            )
        learner.update(demonstrations)
    return policy


def follower(digit: str) -> str:
    return str((int(digit) + 1) % 4)


def codes(text: str) -> list[int]:
    return list(text.encode())


def train_thoughts(
    policy: Policy, truth: Callable[[str, random.Random], str], steps: int = 50
) -> list[float]:
    """RLP with eight thoughts of one token to a context; the mean gain of each step."""
    learner = Learner(
        policy,
        objective("grpo"),
        accelerator=Accelerator(cpu=True),
        lr=1e-3,
        total_updates=steps,
        ema=0.999,
    )
    score = InformationGain(policy, average=learner.average, close=">")
    credit, rng, means = group_credit(baseline="leave_one_out"), random.Random(1), []
    for step in range(steps):
        sequences = [codes(f"{seen}={thought}") for seen in DIGITS for thought in DIGITS + UNSURE]
        logps = [logp[-1] for logp in policy.score(sequences)]
        chances = {
            seen: [math.exp(v) for v in logps[5 * i : 5 * i + 5]] for i, seen in enumerate(DIGITS)
        }
        groups = []
        for number in range(32):
            seen = rng.choice(DIGITS)
            task = Task(
                id=f"{step}/{number}",
                prompt=f"{seen}=",
                columns={"context": f"{seen}:", "continuation": truth(seen, rng)},
            )
            drawn = rng.choices(DIGITS + UNSURE, chances[seen], k=8)
            groups.append(group_of_thoughts(policy, task, drawn))
        gains = score(groups)
        means.append(sum(gain.value for group in gains for gain in group) / sum(map(len, gains)))
        rewarded = [
            scored(g.task, g.rollouts, [gain.value for gain in gains])
            for g, gains in zip(groups, gains, strict=True)
        ]
        learner.update(
            [
                replace(sample, version=learner.version)
                for samples in credit(rewarded)
                for sample in samples
            ]
        )
    return means


def group_of_thoughts(policy: Policy, task: Task, thoughts: list[str]) -> Group:
    rollouts = [
        rollout_of(policy, task, thought, i, ended=False) for i, thought in enumerate(thoughts)
    ]
    return scored(task, rollouts, [0.0] * len(rollouts))


def test_thoughts_learn_to_tell_what_comes_next_and_nothing_of_noise(
    make_policy: Callable[..., Policy],
) -> None:
    """The hint is worth log(0.775 / 0.25) = 1.13 nats where the next token follows from the context, and 0 where it is random."""
    policy = taught(make_policy)
    start = copy.deepcopy(policy.module.state_dict())
    learned = train_thoughts(policy, lambda seen, rng: follower(seen))
    assert abs(learned[0]) < 0.25 and sum(learned[-10:]) / 10 > 0.55, [round(v, 3) for v in learned]
    policy.module.load_state_dict(start)
    noise = train_thoughts(policy, lambda seen, rng: rng.choice(DIGITS))
    assert abs(sum(noise[-10:]) / 10) < 0.05 and max(noise) < 0.15, [round(v, 3) for v in noise]
