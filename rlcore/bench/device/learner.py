"""Section b: how fast the learner is, how much of the device it uses, and where the rest of the time goes."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import torch

from rlcore.bench.device.case import Case, Needs, NotHere, device_name
from rlcore.bench.measure import Stopwatch, matmul_flops, peak_gb
from rlcore.bench.workload import MODELS, Shape, make_samples, model_flops

REPEATS = 3
LORA = {"type": "lora", "r": 16, "target_modules": "all-linear"}
MATRIX_PRODUCTS = ("gemm", "cutlass", "nvjet", "::mm", "::addmm", "::bmm", "mkldnn", "xmma")
ATTENTION = ("flash", "fmha", "attention", "flex")
"""Parts of names of kernels that multiply matrices."""


class Work(NamedTuple):
    """What one update does."""

    model: str
    tokens: int
    """Of the whole update, each sequence counted alone; one micro-batch."""
    shape: Shape
    lora: bool = False
    checkpointing: bool = False
    compiled: bool = False


def packed(tokens: int, length: int) -> Shape:
    """Sequences of `length` tokens side by side, an eighth of each a prompt that is not shared in memory."""
    prompt = length // 8
    answer = length - prompt
    return Shape(
        prompts=max(1, tokens // length // 2),
        group_size=2,
        prompt_tokens=prompt,
        answer_min=answer,
        answer_max=answer,
    )


def cases(tiny: bool) -> Iterator[Case]:
    """The likeliest to be wanted first."""
    gpu = Needs() if tiny else Needs(gpus=1, memory_gb=70)
    for name, work in _works(tiny).items():
        yield Case(name, partial(_update, work), gpu, seconds=150)
        if name.startswith(("1.5b 16k", "tiny plain")):
            yield Case(f"{name}, profile", partial(_profile, work), gpu, seconds=90)
    trl = replace(gpu, packages=("trl",))
    for kind in ("ragged",) if tiny else ("ragged", "shared"):
        yield Case(f"against TRL, {kind}", partial(_against_trl, kind, tiny), trl, seconds=150)


def _works(tiny: bool) -> dict[str, Work]:
    if tiny:
        shape = packed(256, 64)
        return {
            "tiny plain": Work("tiny", 256, shape),
            "tiny checkpointed": Work("tiny", 256, shape, checkpointing=True),
            "tiny lora": Work("tiny", 256, shape, lora=True),
            "tiny shared": Work("tiny", 0, _shared(2, 48, 8)),
        }
    works = {}
    sizes = {4: 512, 16: 1024, 64: 4096}
    for thousands in (16, 4, 64):
        tokens = thousands * 1024
        shape = packed(tokens, sizes[thousands])
        for label, model in (("1.5b", "qwen2.5-1.5b"), ("0.6b", "qwen3-0.6b")):
            name = f"{label} {thousands}k"
            works[f"{name} checkpointed"] = Work(model, tokens, shape, checkpointing=True)
            if thousands < 64:
                works[f"{name} plain"] = Work(model, tokens, shape)
            if thousands == 16:
                works[f"{name} checkpointed, compiled"] = Work(
                    model, tokens, shape, checkpointing=True, compiled=True
                )
    works["1.5b shared 1k x 8"] = Work("qwen2.5-1.5b", 0, _shared(2, 1024, 256), False, True)
    for thousands in (4, 16):
        tokens = thousands * 1024
        shape = packed(tokens, sizes[thousands])
        works[f"7b lora {thousands}k"] = Work("qwen2.5-7b", tokens, shape, True, True)
    return works


def _shared(prompts: int, prompt: int, answer: int) -> Shape:
    return Shape(
        prompts=prompts,
        group_size=8,
        prompt_tokens=prompt,
        answer_min=answer,
        answer_max=answer,
    )


@cache
def _learner(model: str, lora: bool, checkpointing: bool, compiled: bool) -> Any:
    """One at a time: a second model would not fit beside the first."""
    from accelerate import Accelerator

    from rlcore.learner.policy import load_policy
    from rlcore.learner.update import Learner
    from rlcore.objective import objective

    accelerator = Accelerator(cpu=device_name() == "cpu")
    policy = load_policy(
        config={**MODELS[model], "max_position_embeddings": 65_536},
        tokenizer="bytes",
        dtype="bfloat16",
        device=accelerator.device,
        peft=LORA if lora else None,
        gradient_checkpointing=checkpointing,
        compile=compiled,
    )
    return Learner(
        policy,
        objective("dapo"),
        accelerator=accelerator,
        lr=1e-6,
        total_updates=1000,
        micro_batch_tokens=1 << 20,
    )


_held: tuple[Any, ...] = ()


def _prepared(work: Work) -> tuple[Any, list[Any]]:
    """The learner of the work, and its samples."""
    global _held
    settings = (work.model, work.lora, work.checkpointing, work.compiled)
    if settings != _held:
        _learner.cache_clear()
        _held = settings
        if device_name() == "cuda":
            torch.cuda.empty_cache()
    return _learner(*settings), make_samples(work.shape)


def _update(work: Work) -> dict[str, Any]:
    """Seconds of whole updates; tokens a second; model-FLOP utilisation; peak memory."""
    learner, samples = _prepared(work)
    try:
        peak = peak_gb(lambda: learner.update(samples))
    except torch.cuda.OutOfMemoryError as error:
        raise NotHere(f"out of memory: {str(error).splitlines()[0][:200]}") from None
    seconds = []
    for _ in range(REPEATS):
        watch = Stopwatch()
        learner.update(samples)
        seconds.append(watch.read().wall)
    taken = statistics.median(seconds)
    config = learner.policy.model.config.get_text_config()
    flops = model_flops(config, work.shape, frozen=work.lora)
    ceiling = matmul_flops("bfloat16")
    tokens = sum(len(sample.token_ids) for sample in samples)
    return {
        "seconds": round(taken, 4),
        "spread": [round(min(seconds), 4), round(max(seconds), 4)],
        "tokens": tokens,
        "tokens_per_second": round(tokens / taken),
        "model_flop_utilisation": round(flops / taken / ceiling, 4),
        "of": f"a matrix product's {ceiling / 1e12:.3g} TFLOP/s here",
        "model_tflops": round(flops / taken / 1e12, 3),
        "peak_gb": peak,
        "parameters": learner.policy.num_parameters,
        "layout": learner.layout,
    }


def _profile(work: Work) -> dict[str, Any]:
    """Kernels that take most of an update, and the part of the time outside of matrix products and attention."""
    from torch.profiler import ProfilerActivity, profile

    learner, samples = _prepared(work)
    learner.update(samples)
    cuda = device_name() == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    watch = Stopwatch()
    with profile(activities=activities) as recorded:
        learner.update(samples)
        wall = watch.read().wall
    attribute = "self_device_time_total" if cuda else "self_cpu_time_total"
    times: dict[str, float] = {}
    for event in recorded.key_averages():
        times[event.key] = times.get(event.key, 0) + getattr(event, attribute) / 1e6
    total = sum(times.values())
    return {
        "seconds": round(wall, 4),
        "in kernels": round(total / wall, 4),
        "matrix products": _share(times, MATRIX_PRODUCTS, total),
        "attention": _share(times, ATTENTION, total),
        "top": {
            name[:80]: round(taken / total, 4)
            for name, taken in sorted(times.items(), key=lambda item: -item[1])[:15]
        },
    }


def _share(times: dict[str, float], parts: tuple[str, ...], total: float) -> float:
    matching = [t for name, t in times.items() if any(p in name.lower() for p in parts)]
    return round(sum(matching) / total, 4)


def _against_trl(kind: str, tiny: bool) -> dict[str, Any]:
    """Forward and backward of the same samples on both sides, gradients compared."""
    from rlcore.bench.learner import bench_learner
    from rlcore.bench.workload import SHAPES

    if tiny:
        shape = SHAPES[kind].changed(prompts=2, group_size=2, answer_min=3, answer_max=6)
        return bench_learner(shape, hidden_size=64, layers=1, repeats=1)
    return bench_learner(
        SHAPES[kind],
        model="qwen3-0.6b",
        dtype="bfloat16",
        repeats=2,
        micro_batch_tokens=16_384,
        trl_micro_batch=16,
    )
