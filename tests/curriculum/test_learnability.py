"""DELT's score: the co-state against finite differences of the target, and the score against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rlcore.analysis.demonstration_losses import demonstration_losses
from rlcore.analysis.learnability import learnability_quality, learnability_scores
from rlcore.learner.policy import load_policy
from rlcore.types import Task

RNG = np.random.default_rng(0)
N, P, STEPS, LR = 6, 4, 5, 0.07
X, Y = RNG.normal(size=(N, P)), RNG.normal(size=N)
TARGET_X, TARGET_Y = RNG.normal(size=(3, P)), RNG.normal(size=3)
START = RNG.normal(size=P)


def each_gradient(theta: np.ndarray) -> np.ndarray:
    """Of (x . theta - y)^2 / 2 for each example, [N, P]."""
    return (X @ theta - Y)[:, None] * X


def target_value(theta: np.ndarray) -> float:
    return float(((TARGET_X @ theta - TARGET_Y) ** 2).mean() / 2)


def run_on(theta: np.ndarray, steps: int) -> list[np.ndarray]:
    path = [theta]
    for _ in range(steps):
        path.append(path[-1] - LR * each_gradient(path[-1]).mean(0))
    return path


def total_target(theta: np.ndarray, steps: int) -> float:
    """Sum of J from here to the end of training: the co-state is its gradient."""
    return sum(target_value(point) for point in run_on(theta, steps))


def numeric_gradient(function, theta: np.ndarray) -> np.ndarray:
    h = 1e-6
    return np.array([(function(theta + h * e) - function(theta - h * e)) / (2 * h) for e in np.eye(P)])


def quadratic(x: np.ndarray, y: np.ndarray):
    x, y = torch.tensor(x), torch.tensor(y)
    return lambda theta: (x @ theta - y) ** 2 / 2


def test_the_score_by_finite_differences() -> None:
    """Nothing is shared with the code: lambda_{t+1} is the gradient of the sum of J from step t+1 on."""
    path = run_on(START, STEPS)
    expected = np.zeros(N)
    for t in range(STEPS):
        costate = numeric_gradient(lambda theta, left=STEPS - t - 1: total_target(theta, left), path[t + 1])
        expected += each_gradient(path[t]) @ costate / np.linalg.norm(each_gradient(path[t + 1]), axis=1)
    target = quadratic(TARGET_X, TARGET_Y)
    scores = learnability_quality(
        quadratic(X, Y), lambda theta: target(theta).mean(), torch.tensor(START), steps=STEPS, lr=LR
    )
    assert scores.numpy() == pytest.approx(expected, rel=1e-6)


def test_no_step_is_no_score() -> None:
    with pytest.raises(ValueError, match="at least one step"):
        learnability_quality(quadratic(X, Y), lambda theta: theta.sum(), torch.tensor(START), steps=0, lr=LR)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    config = {
        "model_type": "qwen2", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 64, "tie_word_embeddings": True,
    }  # fmt: skip
    load_policy(config=config, tokenizer="bytes").save(folder)
    return str(folder)


def test_losses_of_demonstrations_are_the_models_own(model: str) -> None:
    tasks = [Task(id=str(i), prompt=f"{i}+{i}=", demonstration=str(2 * i)) for i in (1, 7, 30)]
    policy = load_policy(path=model)
    policy.model.set_attn_implementation("sdpa")
    for task, loss in zip(tasks, demonstration_losses(model, tasks), strict=True):
        prompt = policy.tokenizer(task.prompt, add_special_tokens=False).input_ids
        completion = [*policy.tokenizer(task.demonstration, add_special_tokens=False).input_ids, policy.tokenizer.eos_token_id]
        ids = torch.tensor([[*prompt, *completion]])
        with torch.no_grad():
            logprobs = policy.model(ids).logits[0].double().log_softmax(-1)
        values = [logprobs[len(prompt) - 1 + i, token].item() for i, token in enumerate(completion)]
        assert loss == pytest.approx(-sum(values) / len(values), rel=1e-5)


def test_what_the_target_asks_for_scores_higher_on_a_model(model: str) -> None:
    same = [Task(id=f"s{i}", prompt=f"{i}>", demonstration="aaaa") for i in range(3)]
    other = [Task(id=f"o{i}", prompt=f"{i}>", demonstration="zzzz") for i in range(3)]
    target = [Task(id="t", prompt="7>", demonstration="aaaa")]
    scores = learnability_scores(model, [*same, *other], target, steps=3, lr=0.05)
    assert min(scores[:3]) > max(scores[3:])


def test_one_step_on_a_model_by_hand(model: str) -> None:
    """theta_1 by transformers' own loss and a plain step; lambda_1 is the target's gradient there."""
    tasks = [Task(id=str(i), prompt=f"{i}+{i}=", demonstration=text) for i, text in enumerate(["a", "bcd"])]
    policy = load_policy(path=model)
    network = policy.model.eval()
    network.set_attn_implementation("eager")

    def gradient(task: Task) -> torch.Tensor:
        prompt = policy.tokenizer(task.prompt, add_special_tokens=False).input_ids
        completion = policy.tokenizer(task.demonstration, add_special_tokens=False).input_ids
        completion = [*completion, policy.tokenizer.eos_token_id]
        labels = [-100] * len(prompt) + completion
        network.zero_grad()
        network(torch.tensor([[*prompt, *completion]]), labels=torch.tensor([labels])).loss.backward()
        return torch.cat([parameter.grad.flatten().clone() for parameter in network.parameters()])

    before = [gradient(task) for task in tasks]
    with torch.no_grad():
        mean = torch.stack(before).mean(0)
        for parameter, part in zip(
            network.parameters(), mean.split([p.numel() for p in network.parameters()]), strict=True
        ):
            parameter -= 0.1 * part.view(parameter.shape)
    costate = gradient(tasks[1])
    expected = [(one @ costate / gradient(task).norm()).item() for one, task in zip(before, tasks, strict=True)]
    assert learnability_scores(model, tasks, tasks[1:], steps=1, lr=0.1) == pytest.approx(expected, rel=1e-3)
