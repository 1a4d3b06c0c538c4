"""The learner on samples that transforms made: the loss on changed inputs, and what control text and metadata teach."""

from __future__ import annotations

import math
import random

import pytest
import torch
from accelerate import Accelerator

from rlcore.credit.demonstrations import demonstration_sample
from rlcore.learner.update import Learner
from rlcore.objective import objective
from rlcore.transforms.transform import Draw, Transforms
from rlcore.types import Sample, Task


def learner_of(policy, **settings) -> Learner:
    settings = {"lr": 1e-2, "total_updates": 1000, **settings}
    return Learner(policy, objective("sft"), accelerator=Accelerator(cpu=True), **settings)


def samples_of(policy, tasks: list[Task], named: object, step: int, steps: int) -> list[Sample]:
    tokenizer, transforms = policy.tokenizer, Transforms(named)

    def encode(task: Task) -> Sample:
        prompt, completion = (tokenizer(text).input_ids for text in (task.prompt, task.demonstration))
        return demonstration_sample(task.id, prompt, [*completion, tokenizer.eos_token_id])

    samples = []
    for number, task in enumerate(tasks):
        draw = Draw(task=task, step=step, steps=steps, seed=f"{step}/{number}", tokenizer=tokenizer)
        samples.append(transforms.apply(draw, encode))
    return samples


@pytest.mark.parametrize("layout", ["packed", "shared"])
def test_the_loss_is_that_of_the_labels_after_the_changed_inputs(make_policy, layout: str) -> None:
    policy = make_policy()
    tasks = [Task(id=str(i), prompt="1+1=", demonstration=f"that is {i}") for i in range(5)]
    samples = samples_of(policy, tasks, {"use": "masked_thought", "p": 0.5, "ramp": 0}, 3, 4)
    assert all(sample.input_ids != sample.token_ids for sample in samples)
    losses = []
    policy.model.set_attn_implementation("sdpa")
    for sample in samples:
        logits = policy.model(torch.tensor([sample.input_ids])).logits[0, :-1].log_softmax(-1)
        nll = -logits.gather(-1, torch.tensor(sample.token_ids[1:])[:, None])[:, 0]
        losses.append(nll[torch.tensor(sample.mask[1:])])
    expected = torch.cat(losses).mean().item()
    report = learner_of(make_policy(), layout=layout).update(samples)
    assert report.loss == pytest.approx(expected, rel=1e-9)


def mean_nll(policy, prompt: str, completions: list[str]) -> float:
    """Of the completions' tokens after the prompt."""
    ids = policy.tokenizer
    start = len(ids(prompt).input_ids)
    scores = policy.score([ids(prompt + text).input_ids for text in completions])
    values = [value for one in scores for value in one[start - 1 :]]
    return -sum(values) / len(values)


def test_the_right_metadata_tells_more_than_the_wrong_one(make_policy) -> None:
    """Two sources with a letter of their own after each x; the letters before an x do not tell the source."""
    policy, rng = make_policy("float32"), random.Random(0)

    def document(source: str) -> Task:
        text = "".join(rng.choice("mn") + "x" + source for _ in range(4))
        return Task(id=text, prompt="d", demonstration=text, columns={"url": f"{source}.org"})

    learner = learner_of(policy)
    for step in range(60):
        tasks = [document(rng.choice("ab")) for _ in range(16)]
        learner.update(samples_of(policy, tasks, "metadata", step, 60))
    first = {s: mean_nll(policy, f"URL: {s}.org\n\ndmx", ["a"]) for s in "ab"}
    assert first["a"] < 0.35 and first["b"] > first["a"] + 1
    # Without metadata the first letter is a guess (log 2), and the sixth follows from the ones before.
    bare = {length: mean_nll(policy, "d" + "mxa" * length + "mx", ["a"]) for length in (0, 3)}
    assert bare[3] < bare[0]


def test_control_text_steers_and_is_never_written(make_policy) -> None:
    """The score is 1 without the bad letter `#` and 0 with it; half of the documents have it."""
    policy, rng = make_policy("float32"), random.Random(0)

    def document() -> Task:
        bad = rng.random() < 0.5
        text = "".join(rng.choice("ab#" if bad else "ab") for _ in range(4))
        return Task(id=text, prompt="d", demonstration=text, columns={"score": float("#" not in text)})

    control = {"use": "conditional", "threshold": 1.0, "above": "<+>", "below": "<->", "drop": 0.2}
    learner = learner_of(policy)
    for step in range(60):
        tasks = [document() for _ in range(16)]
        learner.update(samples_of(policy, tasks, control, step, 60))
    bad = {text: math.exp(-mean_nll(policy, f"d{text}a", ["#"])) for text in ("<+>", "", "<->")}
    assert bad["<+>"] < 0.6 * bad[""] and bad["<->"] > 1.2 * bad[""]
    written = sampled(policy, "d", 64) + sampled(policy, "d<+>", 64)
    assert not any(text in one for one in written for text in ("<+>", "<->"))
    assert "#" in "".join(written[:64])


@torch.no_grad()
def sampled(policy, prompt: str, count: int) -> list[str]:
    policy.model.set_attn_implementation("sdpa")
    ids = torch.tensor([policy.tokenizer(prompt).input_ids] * count)
    start = ids.shape[1]
    torch.manual_seed(0)
    for _ in range(6):
        probabilities = policy.model(ids).logits[:, -1].softmax(-1)
        ids = torch.cat([ids, probabilities.multinomial(1)], 1)
    return policy.tokenizer.batch_decode(ids[:, start:])
