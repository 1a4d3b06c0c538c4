"""Section a: what the learner computes on the device equals float64 on the CPU."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from rlcore.bench.device.attention import (
    FEATURES,
    LAYOUTS,
    by_segment,
    compare_kernel,
    flash_is_refused_in_words,
    flex_on_cpu,
    relative,
)
from rlcore.bench.device.case import Case, Needs, check_close, device_name
from rlcore.bench.device.head import head_cases
from rlcore.bench.workload import Shape, make_samples
from rlcore.learner import attention_cuda
from rlcore.learner.pack import pack
from rlcore.learner.policy import Policy, load_policy
from rlcore.objective import objective
from rlcore.objective.presets import PRESETS
from rlcore.types import TeacherScores

GPU = Needs(gpus=1)
BFLOAT16_GPU = Needs(gpus=1, capability=(8, 0))
MODEL = {
    "model_type": "qwen2",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}
ADAMW: dict[str, Any] = {"lr": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.1}
SHAPE = Shape(prompts=3, group_size=3, prompt_tokens=40, answer_min=5, answer_max=30)


def cases(tiny: bool) -> Iterator[Case]:
    """Attention, head, optimiser, transfers, and whole gradients of every preset."""
    torch.backends.cuda.matmul.allow_tf32 = False
    yield from _attention_cases()
    yield from head_cases()
    yield Case("adamw fused", _fused_adamw)
    yield Case("adamw offloaded", _offloaded_adamw)
    yield Case("transfer pinned", _pinned_transfer)
    yield Case("layers checkpointed", partial(_layers_changed, gradient_checkpointing=True))
    yield Case("layers compiled", partial(_layers_changed, compile=True), GPU, 120)
    for name in PRESETS:
        yield Case(f"gradient of {name}", partial(_preset_gradient, name))
    yield Case("gradient in bfloat16", _bfloat16_gradient)


def _attention_cases() -> Iterator[Case]:
    cuda = device_name() == "cuda"
    for layout in LAYOUTS:
        for feature, rules in FEATURES.items():
            compared = (LAYOUTS[layout], rules)
            name = f"{layout} {feature}"
            yield Case(
                f"segments {name} float32",
                partial(compare_kernel, by_segment, *compared, torch.float32),
            )
            for dtype in (torch.float32, torch.bfloat16) if cuda else (torch.float32,):
                label = f"flex {name} {str(dtype).removeprefix('torch.')}"
                kernel = attention_cuda.flex if cuda else flex_on_cpu
                run = partial(compare_kernel, kernel, *compared, dtype, backward=cuda)
                yield Case(label, run, seconds=90)
    if not cuda:
        yield Case("flash packed bfloat16", flash_is_refused_in_words)
        return
    for feature in ("plain", "window"):
        for key_heads in (8, 2, 1):
            run = partial(
                compare_kernel,
                attention_cuda.flash,
                LAYOUTS["packed"],
                FEATURES[feature],
                torch.bfloat16,
                key_heads=key_heads,
                width=128,
            )
            yield Case(f"flash packed {feature} {key_heads} key heads", run, BFLOAT16_GPU)


def _fused_adamw() -> dict[str, Any]:
    """Three updates by torch's fused kernel against AdamW's formula in float64."""
    from rlcore.learner.optim import adamw

    torch.manual_seed(0)
    module = nn.Linear(40, 30)
    start = {name: p.detach().double().clone() for name, p in module.named_parameters()}
    grads = [
        {name: torch.randn_like(p) for name, p in module.named_parameters()} for _ in range(3)
    ]
    module.to(device_name())
    optimizer = adamw(module, fused=True, **ADAMW)
    if not all(group["fused"] for group in optimizer.param_groups):
        raise AssertionError("the optimiser is not fused")
    for step in grads:
        for name, p in module.named_parameters():
            p.grad = step[name].to(p.device)
        optimizer.step()
    values = {}
    for name, p in module.named_parameters():
        decay = ADAMW["weight_decay"] if p.ndim >= 2 else 0.0
        expected = _adamw_formula(start[name], [g[name].double() for g in grads], decay)
        values[name] = check_close(f"relative error of {name}", relative(p, expected), 1e-6)
    return values


def _offloaded_adamw() -> dict[str, Any]:
    """Three updates with the states on the host, three tensors at a time, against the same without: equal bits."""
    from rlcore.learner.offload import Offloaded
    from rlcore.learner.optim import adamw

    torch.manual_seed(0)
    module = nn.Sequential(*[nn.Linear(512, 512) for _ in range(4)]).to(device_name())
    twin = copy.deepcopy(module)
    offloaded = Offloaded(adamw(module, **ADAMW), piece=3 * 512 * 512)
    optimizer = adamw(twin, **ADAMW)
    for _ in range(3):
        for p, q in zip(module.parameters(), twin.parameters(), strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        offloaded.step()
        optimizer.step()
    pairs = zip(module.parameters(), twin.parameters(), strict=True)
    wrong = sum(not torch.equal(p, q) for p, q in pairs)
    check_close("number of parameters that differ", wrong, 0)
    moments = [
        value
        for state in offloaded.state_dict()["state"].values()
        for value in state.values()
        if value.ndim
    ]
    elsewhere = sum(value.device.type != "cpu" for value in moments)
    check_close("number of moments that are not on the host", elsewhere, 0)
    return {"moments": len(moments), "pinned": sum(value.is_pinned() for value in moments)}


def _adamw_formula(p: Tensor, grads: list[Tensor], decay: float) -> Tensor:
    """Algorithm 2 of arXiv 1711.05101."""
    first, second = ADAMW["betas"]
    m, v = torch.zeros_like(p), torch.zeros_like(p)
    for t, g in enumerate(grads, 1):
        m = first * m + (1 - first) * g
        v = second * v + (1 - second) * g * g
        step = (m / (1 - first**t)) / ((v / (1 - second**t)).sqrt() + 1e-8)
        p = p - ADAMW["lr"] * (step + decay * p)
    return p


def _pinned_transfer() -> dict[str, Any]:
    """A micro-batch on the device equals the one on the CPU, field by field, whatever ran on the stream before."""
    [batch] = pack(make_samples(SHAPE), max_tokens=10_000, layout="shared")
    busy = torch.randn(2048, 2048, device=device_name())
    for _ in range(20 if busy.is_cuda else 1):
        busy = torch.tanh(busy @ busy)
    moved = batch.to(torch.device(device_name()), torch.float32)
    del batch  # its memory may be used again before a copy that was not waited for
    [again] = pack(make_samples(SHAPE), max_tokens=10_000, layout="shared")
    wrong = []
    for name in ("token_ids", "positions", "source", "target", "row", "advantage", "weight"):
        want = getattr(again, name)
        want = want.float() if want.is_floating_point() else want
        if not torch.equal(getattr(moved, name).cpu(), want):
            wrong.append(name)
    check_close(f"number of wrong fields ({', '.join(wrong)})", len(wrong), 0)
    return {"tokens": len(moved.token_ids), "device": moved.token_ids.device.type}


def _gradient(policy: Policy, name: str, layout: str, device: str) -> dict[str, Tensor]:
    """The preset's gradient on samples whose old log-probabilities differ from the policy's."""
    from accelerate import Accelerator

    from rlcore.learner.update import Learner

    needs_length = "max_tokens" in inspect.signature(PRESETS[name]).parameters
    preset = objective(name, **({"max_tokens": SHAPE.answer_max} if needs_length else {}))
    learner = Learner(
        policy,
        preset,
        accelerator=Accelerator(cpu=device == "cpu"),
        lr=1e-5,
        total_updates=1,
        layout=layout,
        version=1,
    )
    learner.accumulate(_off_policy_samples(policy, preset.streams))
    return {name: p.grad.detach().clone() for name, p in policy.model.named_parameters()}


def _off_policy_samples(policy: Policy, streams: tuple[str, ...]) -> list[Any]:
    """Samples of every stream the objective reads, with log-probabilities near the policy's, the same for every call."""
    from dataclasses import replace

    generator = torch.Generator().manual_seed(5)
    samples = []
    for number, sample in enumerate(make_samples(SHAPE)):
        count = len(sample.token_ids)
        old = (-5.5 + 0.5 * torch.randn(count, generator=generator)).tolist()
        shifted = [value + 0.01 * (position % 7) for position, value in enumerate(old)]
        stream = streams[number % len(streams)]
        teacher = _teacher_scores(sum(sample.mask), generator)
        changed = {"stream": stream, "old_logprobs": old, "logprobs": shifted}
        samples.append(replace(sample, **changed, teacher=teacher))
    return samples


def _teacher_scores(tokens: int, generator: torch.Generator) -> TeacherScores:
    """Of a teacher that gives its four most probable tokens 0.5 together."""
    likely = [torch.randperm(256, generator=generator)[:4] for _ in range(tokens)]
    return TeacherScores(
        logprobs=(-4 + torch.randn(tokens, generator=generator)).tolist(),
        top_ids=torch.stack(likely),
        top_logprobs=torch.tensor([0.2, 0.15, 0.1, 0.05]).log().expand(tokens, 4),
    )


def _policy(dtype: str, device: str, **settings: Any) -> Policy:
    """The same weights whatever the precision; `_kept_policy` for one that is not changed."""
    policy = load_policy(
        config=copy.deepcopy(MODEL), tokenizer="bytes", dtype=dtype, device=device, **settings
    )
    if dtype == "float64":
        policy.module.load_state_dict(_kept_policy("float32", "cpu").module.state_dict())
    return policy


_kept_policy = cache(_policy)


def _preset_gradient(name: str) -> dict[str, Any]:
    """Shared layout in float32 on the device against packed in float64 on the CPU."""
    device = device_name()
    wanted = _gradient(_kept_policy("float64", "cpu"), name, "packed", "cpu")
    got = _gradient(_kept_policy("float32", device), name, "shared", device)
    return {"relative error": _whole_error(got, wanted, 1e-4)}


def _bfloat16_gradient() -> dict[str, Any]:
    """float32 masters computed with in bfloat16 on the device, against float64."""
    device = device_name()
    wanted = _gradient(_kept_policy("float64", "cpu"), "dapo", "packed", "cpu")
    got = _gradient(_policy("bfloat16", device), "dapo", "packed", device)
    return {"relative error": _whole_error(got, wanted, 0.05)}


def _layers_changed(**settings: Any) -> dict[str, Any]:
    """Checkpointed or compiled layers against plain ones, on the same device."""
    device = device_name()
    wanted = _gradient(_kept_policy("float32", device), "dapo", "packed", device)
    got = _gradient(_policy("float32", device, **settings), "dapo", "packed", device)
    return {"relative error": _whole_error(got, wanted, 1e-4)}


def _whole_error(got: dict[str, Tensor], wanted: dict[str, Tensor], limit: float) -> float:
    ours = torch.cat([got[name].double().cpu().flatten() for name in wanted])
    theirs = torch.cat([wanted[name].double().cpu().flatten() for name in wanted])
    return check_close("relative error of the gradient", relative(ours, theirs), limit)
