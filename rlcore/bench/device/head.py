"""The output head: both of its ways, plain and in Triton's kernels, against all logits in float64; and what the kernels gain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from rlcore.bench.device.attention import relative
from rlcore.bench.device.case import Case, CheckError, Needs, check_close, device_name
from rlcore.bench.measure import alternate, compare, peak_gb
from rlcore.learner import logprobs
from rlcore.learner.head import Head
from rlcore.learner.logprobs import chunked_logprobs, gpu_head, one_pass

HeadResult = tuple[Tensor, Tensor, Tensor]
"""Loss, and its gradients by hidden states and weight."""
TOKENS, HIDDEN, VOCABULARY = 4096, 1536, 151_936
"""Of Qwen2.5-1.5B."""


def head_cases() -> Iterator[Case]:
    """Kernels first."""
    gpu = Needs(gpus=1)
    for kernels in (True, False):
        for way in ("one pass", "recompute"):
            for softcap in (None, 20.0):
                name = (
                    f"head {'kernels ' * kernels}{way}{'' if softcap is None else ' softcap'}"
                )
                run = partial(_head, way, softcap, kernels)
                yield Case(name, run, gpu if kernels else Needs())
    yield Case("head kernels, speed", _speed, Needs(gpus=1, memory_gb=20), 120)


def _with(kernels: bool) -> AbstractContextManager[Any]:
    """Context in which heads on a GPU are in kernels, or plain ones."""
    if not kernels:
        return mock.patch.object(logprobs, "gpu_head", lambda device: Head)
    if gpu_head(torch.device(device_name())) is Head:
        raise CheckError("the kernels are not used; the log says why")
    return mock.patch.object(logprobs, "gpu_head", gpu_head)


def _head(way: str, softcap: float | None, kernels: bool) -> dict[str, Any]:
    """Losses of log-probabilities and entropies, in float32 and bfloat16."""
    random = torch.Generator().manual_seed(0)
    hidden = torch.randn(70, 64, generator=random, dtype=torch.float64)
    weight = torch.randn(1003, 64, generator=random, dtype=torch.float64) * 0.3
    target = torch.randint(1003, (70,), generator=random)
    advantage = torch.randn(70, generator=random, dtype=torch.float64)
    settings = {"temperature": 0.7, "softcap": softcap}

    def loss(logp: Tensor, entropy: Tensor, part: slice) -> Tensor:
        coefficient = advantage[part].to(logp.device, logp.dtype)
        return (logp.exp() * coefficient - 0.1 * entropy).sum()

    values = {}
    for dtype, limit in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        rounded = [value.to(dtype).double() for value in (hidden, weight)]
        wanted = _whole_head(*rounded, target, loss, **settings)
        inputs = [value.to(device_name(), dtype).requires_grad_() for value in rounded]
        with _with(kernels):
            value = _loss_by(way, inputs, target.to(device_name()), loss, settings)
            value.backward()
        got = (value, inputs[0].grad, inputs[1].grad)
        for name, ours, theirs in zip(("loss", "hidden", "weight"), got, wanted, strict=True):
            label = f"{name} {str(dtype).removeprefix('torch.')}"
            values[label] = check_close(
                f"relative error of {label}", relative(ours, theirs), limit
            )
    return values


def _loss_by(
    way: str,
    inputs: list[Tensor],
    target: Tensor,
    loss: logprobs.Loss,
    settings: dict[str, Any],
) -> Tensor:
    """The loss in tiles that are smaller than the tokens and the vocabulary."""
    if way == "one pass":
        return one_pass(*inputs, None, target, loss, chunk=32, **settings)[2]
    logp, entropy = chunked_logprobs(*inputs, None, target, tile=(64, 200), **settings)
    return loss(logp, entropy, slice(None))


def _speed() -> dict[str, Any]:
    """Forward and backward of one pass in bfloat16, at the size of Qwen2.5-1.5B: plain over kernels."""
    device = device_name()
    hidden = torch.randn(TOKENS, HIDDEN, device=device, dtype=torch.bfloat16).requires_grad_()
    weight = torch.randn(VOCABULARY, HIDDEN, device=device, dtype=torch.bfloat16)
    weight.mul_(0.02).requires_grad_()
    target = torch.randint(VOCABULARY, (TOKENS,), device=device)

    def run(kernels: bool) -> None:
        hidden.grad = weight.grad = None
        with _with(kernels):
            one_pass(hidden, weight, None, target, lambda logp, *_: logp.sum())[2].backward()

    sides = {"kernels": partial(run, True), "plain": partial(run, False)}
    seconds = alternate(sides, repeats=5)
    peaks = {f"peak_gb {name}": peak_gb(side) for name, side in sides.items()}
    return compare(seconds["kernels"], seconds["plain"]) | peaks


def _whole_head(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    loss: Callable[[Tensor, Tensor, slice], Tensor],
    *,
    temperature: float,
    softcap: float | None,
) -> HeadResult:
    leaves = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    logits = leaves[0] @ leaves[1].T
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    log_p = torch.log_softmax(logits / temperature, -1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    value = loss(log_p.gather(1, target[:, None])[:, 0], entropy, slice(None))
    return (value, *torch.autograd.grad(value, leaves))
