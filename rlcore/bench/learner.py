"""Forward and backward of one batch: our learner against TRL's loss on the same tokens, gradients compared."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from rlcore.bench.measure import alternate, circumstances, compare, matmul_flops, peak_gb
from rlcore.bench.trl_side import CLIP_HIGH, CLIP_LOW, TrlLearner
from rlcore.bench.workload import Shape, make_model, make_samples, model_flops
from rlcore.learner.pack import Layout
from rlcore.learner.policy import load_policy
from rlcore.learner.update import Learner
from rlcore.objective import objective
from rlcore.types import Sample


def bench_learner(
    shape: Shape,
    *,
    model: str = "tiny",
    dtype: str = "float32",
    hidden_size: int | None = None,
    layers: int | None = None,
    repeats: int = 5,
    layout: Layout = "auto",
    micro_batch_tokens: int = 4096,
    trl_micro_batch: int = 0,
) -> dict[str, Any]:
    """Seconds from samples to gradients, packing included; TRL's padded batch is made before the clock starts.

    `dtype` bfloat16: float32 masters computed with in bfloat16, on both sides. `trl_micro_batch` is how many sequences TRL takes
    at once, 0 for all. For the other numbers see `_rates` and `peak_gb`.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = make_model(Path(folder) / "model", model, hidden_size=hidden_size, layers=layers)
        samples = make_samples(shape)
        accelerator = Accelerator(cpu=not torch.cuda.is_available())
        policy = load_policy(path=path, dtype=dtype, device=accelerator.device)
        learner = Learner(
            policy,
            objective("dapo", clip_low=CLIP_LOW, clip_high=CLIP_HIGH),
            accelerator=accelerator,
            lr=1e-5,
            total_updates=1,
            layout=layout,
            micro_batch_tokens=micro_batch_tokens,
        )
        theirs = TrlLearner(path, shape, samples, Path(folder) / "trl", trl_micro_batch, dtype)
        sides = {"ours": lambda: learner.accumulate(samples), "theirs": theirs.gradient}
        memory = {name: peak_gb(side) for name, side in sides.items()}
        seconds = alternate(sides, repeats=repeats)
        want = {name: p.grad for name, p in theirs.model.named_parameters()}
        got = {name: p.grad for name, p in policy.model.named_parameters()}
    difference = sum((got[name] - want[name]).square().sum() for name in want).sqrt()
    size = sum(grad.square().sum() for grad in want.values()).sqrt()
    compared = compare(seconds["ours"], seconds["theirs"])
    return {
        "bench": "learner",
        "against": "trl",
        **compared,
        **_rates(
            compared, model_flops(policy.model.config.get_text_config(), shape), samples, dtype
        ),
        "peak_gb": memory,
        "gradient_difference": float(f"{difference / size:.2g}"),
        "shape": asdict(shape),
        "settings": {
            "model": model,
            "dtype": dtype,
            "layout": learner.layout,
            "micro_batch_tokens": micro_batch_tokens,
            "trl_micro_batch": trl_micro_batch,
            "parameters": policy.num_parameters,
        },
        **circumstances(),
    }


def _rates(
    compared: dict[str, Any], flops: float, samples: Sequence[Sample], dtype: str
) -> dict[str, Any]:
    """Tokens a second of each side, and `flops_share`: `model_flops` a second over those of a large matrix product here.

    That is model-FLOP utilisation; prompts stored once can lift it.
    """
    tokens, ceiling = sum(len(sample.token_ids) for sample in samples), matmul_flops(dtype)
    return {
        "tokens_per_second": {
            side: round(tokens / compared[side]) for side in ("ours", "theirs")
        },
        "flops_share": {
            side: round(flops / compared[side] / ceiling, 3) for side in ("ours", "theirs")
        },
        "matmul_tflops": round(ceiling / 1e12, 3),
    }
