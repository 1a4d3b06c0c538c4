"""DELT's learnability-quality score: how much of what an example taught served a target (arXiv 2506.21545).

Plain gradient descent over the scored examples is followed and read backwards, so no optimiser of rlcore takes part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.func import functional_call

from rlcore.learner.policy import load_policy
from rlcore.rollout.demonstration import encode_demonstration
from rlcore.rollout.prompt import PromptEncoder

if TYPE_CHECKING:
    from rlcore.types import Task

Losses = Callable[[Tensor], Tensor]
"""Parameters [P] -> the loss of each example, [n]."""


def learnability_quality(
    losses: Losses, target: Callable[[Tensor], Tensor], start: Tensor, *, steps: int, lr: float
) -> Tensor:
    """gamma_n = sum over t of (lambda_{t+1} . grad l_n(theta_t)) / |grad l_n(theta_{t+1})|: [n], detached.

    theta_{t+1} = theta_t - lr * grad L(theta_t), L the mean of `losses`; lambda is the co-state of the `target` J:
    lambda_T = grad J(theta_T), lambda_t = lambda_{t+1} + grad J(theta_t) - lr * hessian of L(theta_t) . lambda_{t+1}.
    start: theta_0, [P]. Time: steps x (examples + 4) backward passes; memory: steps + 1 copies of theta.
    Raises `ValueError` for less than one step.
    """
    if steps < 1:
        raise ValueError(f"a score needs at least one step, not {steps}")
    path = [start.detach()]
    for _ in range(steps):
        path.append(path[-1] - lr * _gradient(lambda theta: losses(theta).mean(), path[-1]))
    costate = _gradient(target, path[-1])
    scores = torch.zeros(len(losses(start.detach())), dtype=start.dtype, device=start.device)
    norms = _each_gradient(losses, path[-1], None)
    for now in reversed(path[:-1]):
        scores += _each_gradient(losses, now, costate) / norms.clamp_min(
            torch.finfo(start.dtype).tiny
        )
        norms = _each_gradient(losses, now, None)
        costate = costate + _gradient(target, now) - lr * _hessian_product(losses, now, costate)
    return scores


def learnability_scores(
    model: str | Path,
    tasks: Sequence[Task],
    target: Sequence[Task],
    *,
    steps: int = 100,
    lr: float = 0.008,
    encoder: PromptEncoder | None = None,
) -> list[float]:
    """The score of each task's demonstration, [tasks], for a column that the curriculum `folded` goes by.

    target: tasks whose demonstrations the model should come to write; J is their mean loss. steps, lr: the
    paper's. All in float32 with every parameter, so for small proxy models and a few hundred tasks: time grows
    with steps x tasks. Raises `TaskError` for a task without a demonstration, `ModelError`.
    """
    policy = load_policy(path=str(model))
    encoder = encoder or PromptEncoder(policy.tokenizer)
    network = policy.model.eval()
    # Fused attention has no second derivative.
    network.set_attn_implementation("eager")
    shapes = {name: parameter.shape for name, parameter in network.named_parameters()}
    start = torch.cat([parameter.detach().flatten() for parameter in network.parameters()])

    def losses_of(chosen: Sequence[Task]) -> Losses:
        encoded = [_encoded(encoder, task, start.device) for task in chosen]

        def losses(theta: Tensor) -> Tensor:
            parts = theta.split([shape.numel() for shape in shapes.values()])
            weights = {
                name: part.view(shape)
                for (name, shape), part in zip(shapes.items(), parts, strict=True)
            }
            means = []
            for ids, trained in encoded:
                logits = functional_call(network, weights, (ids[None, :-1],)).logits[0]
                nll = -logits.log_softmax(-1).gather(-1, ids[1:, None])[:, 0]
                means.append(nll[trained[1:]].mean())
            return torch.stack(means)

        return losses

    of_target = losses_of(target)
    scores = learnability_quality(
        losses_of(tasks), lambda theta: of_target(theta).mean(), start, steps=steps, lr=lr
    )
    return scores.tolist()


def _encoded(encoder: PromptEncoder, task: Task, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and which of them are imitated, [T]."""
    prompt = encoder.encode(task)
    completion, imitated = encode_demonstration(encoder, task)
    ids = torch.tensor([*prompt, *completion], device=device)
    return ids, torch.tensor([False] * len(prompt) + imitated, device=device)


def _gradient(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    theta = at.detach().requires_grad_()
    return torch.autograd.grad(function(theta), theta)[0]


def _each_gradient(losses: Losses, at: Tensor, direction: Tensor | None) -> Tensor:
    """The gradient of each loss times `direction`, or without one its norm: [n]."""
    theta = at.detach().requires_grad_()
    values = []
    every = losses(theta)
    for number, loss in enumerate(every):
        keep = number < len(every) - 1
        gradient = torch.autograd.grad(loss, theta, retain_graph=keep)[0]
        values.append(gradient.norm() if direction is None else gradient @ direction)
    return torch.stack(values)


def _hessian_product(losses: Losses, at: Tensor, vector: Tensor) -> Tensor:
    """Hessian of the mean loss times a vector, [P]."""
    theta = at.detach().requires_grad_()
    gradient = torch.autograd.grad(losses(theta).mean(), theta, create_graph=True)[0]
    return torch.autograd.grad(gradient @ vector, theta)[0]
