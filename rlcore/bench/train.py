"""Whole GRPO steps against TRL's trainer: rollout, reward, credit, update and, on our side, publishing with proof."""

from __future__ import annotations

import random
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator

from rlcore.bench.measure import Seconds, Stopwatch, circumstances, compare
from rlcore.bench.trl_side import CLIP_HIGH, CLIP_LOW, train
from rlcore.bench.workload import Shape, make_model
from rlcore.credit.group import group_credit
from rlcore.learner.policy import load_policy
from rlcore.learner.update import Learner
from rlcore.objective import objective
from rlcore.rollout.collector import collect
from rlcore.rollout.engine import Engine
from rlcore.rollout.hf import HfEngine
from rlcore.rollout.prompt import PromptEncoder
from rlcore.rollout.publish import publish
from rlcore.scoring.forms import RewardSpec
from rlcore.scoring.scorer import Scorer
from rlcore.types import Request, Sampling, Task


class _Appointed:
    """Engine whose completions end at their appointed lengths, so that both sides do the same work."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.lengths: list[int] = []

    def submit(self, requests: Sequence[Request]) -> None:
        first, self.lengths = self.lengths[: len(requests)], self.lengths[len(requests) :]
        self._engine.submit(
            [
                replace(r, sampling=replace(r.sampling, max_tokens=n))
                for r, n in zip(requests, first, strict=True)
            ]
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def _engine(kind: str, model_folder: str, max_length: int, sequences: int, dtype: str) -> Any:
    if kind == "hf":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return HfEngine(model_folder, dtype=dtype, max_length=max_length, device=device)
    from rlcore.rollout.vllm_local import VllmEngine

    return VllmEngine(model_folder, dtype=dtype, max_length=max_length, max_sequences=sequences)


class Ours:
    """Our step, from a model's folder."""

    def __init__(
        self,
        model_folder: str,
        shape: Shape,
        prompts: Sequence[str],
        micro_batch_tokens: int,
        *,
        engine: str = "hf",
        dtype: str = "float32",
    ) -> None:
        self._shape = shape
        self._dtype = dtype
        self._tasks = [Task(id=str(i), prompt=prompt) for i, prompt in enumerate(prompts)]
        accelerator = Accelerator(cpu=not torch.cuda.is_available())
        self._policy = load_policy(path=model_folder, dtype=dtype, device=accelerator.device)
        self._learner = Learner(
            self._policy,
            objective("dapo", clip_low=CLIP_LOW, clip_high=CLIP_HIGH),
            accelerator=accelerator,
            lr=1e-5,
            total_updates=len(prompts),
            micro_batch_tokens=micro_batch_tokens,
        )
        self._longest = shape.prompt_tokens + shape.answer_max
        sequences = shape.prompts * shape.group_size
        self._engine = _Appointed(
            _engine(engine, model_folder, self._longest, sequences, dtype)
        )
        self.parts: list[dict[str, float]] = []
        """Seconds of the parts of each step."""
        self._scorer = Scorer([RewardSpec("rlcore.bench.reward:digits")])
        self._encoder = PromptEncoder(self._policy.tokenizer)
        self._credit = group_credit()

    def step(self, number: int) -> Seconds:
        """What one step took."""
        watch = Stopwatch()
        n = self._shape.prompts
        self._engine.lengths = self._shape.answer_lengths(number)
        tasks = [self._tasks[(number * n + i) % len(self._tasks)] for i in range(n)]
        groups = collect(
            tasks,
            engine=self._engine,
            encoder=self._encoder,
            scorer=self._scorer,
            group_size=self._shape.group_size,
            sampling=Sampling(max_tokens=self._shape.answer_max, ignore_eos=True),
            seed=number,
            deadline_s=3600,
            max_length=self._longest,
        ).groups
        generated = watch.read().wall
        self._learner.update([sample for group in self._credit(groups) for sample in group])
        learned = watch.read().wall
        self._learner.version += 1
        is_rounded = self._dtype != "float32"
        publish(
            self._policy.weights,
            self._engine,
            self._learner.version,
            canary=[list(range(24))],
            score=self._policy.score,
            score_float32=self._policy.score_float32 if is_rounded else None,
            served_dtype=self._dtype,
        )
        whole = watch.read()
        self.parts.append(
            {
                "rollout": round(generated, 4),
                "learn": round(learned - generated, 4),
                "publish": round(whole.wall - learned, 4),
            }
        )
        return whole

    def close(self) -> None:
        """End the workers."""
        self._scorer.close()
        self._engine.close()


def bench_train(
    shape: Shape,
    *,
    model: str = "tiny",
    hidden_size: int | None = None,
    layers: int | None = None,
    repeats: int = 5,
    micro_batch_tokens: int = 4096,
    trl_micro_batch: int = 0,
    engine: Literal["hf", "vllm"] = "hf",
    dtype: str = "float32",
) -> dict[str, Any]:
    """Seconds of a step on each side, step beside step, with completions of the same lengths; the first step is not counted.

    engine: transformers on both sides, or vLLM in the process on both (TRL's colocate mode, which needs a GPU); with vLLM
    all completions are of the greatest length. `timeline` has the median seconds of the parts of our step.
    """
    if engine == "vllm":
        shape = shape.changed(answer_min=shape.answer_max)
    steps = repeats + 1
    prompts = _prompts(shape, steps)
    with tempfile.TemporaryDirectory() as folder:
        path = make_model(Path(folder) / "model", model, hidden_size=hidden_size, layers=layers)
        ours = Ours(path, shape, prompts, micro_batch_tokens, engine=engine, dtype=dtype)
        seconds: list[Seconds] = []
        try:
            theirs = train(
                path,
                shape,
                Path(folder) / "trl",
                prompts,
                steps=steps,
                micro_batch=trl_micro_batch,
                vllm=engine == "vllm",
                dtype=dtype,
                beside=lambda number: seconds.append(ours.step(number)),
            )
        finally:
            ours.close()
    return {
        "bench": "train",
        "against": "trl",
        **compare(seconds[1:], theirs[1:]),
        "timeline": {
            part: statistics.median(step[part] for step in ours.parts[1:])
            for part in ours.parts[0]
        },
        "shape": asdict(shape),
        "settings": {
            "engine": f"{'transformers' if engine == 'hf' else 'vLLM'} on both sides",
            "dtype": dtype,
            "micro_batch_tokens": micro_batch_tokens,
            "trl_micro_batch": trl_micro_batch,
            "model": model,
        },
        **circumstances(),
    }


def _prompts(shape: Shape, steps: int) -> list[str]:
    """Those of all steps, random."""
    rng = random.Random(0)
    return [
        "".join(rng.choice("0123456789+-*/") for _ in range(shape.prompt_tokens))
        for _ in range(steps * shape.prompts)
    ]
