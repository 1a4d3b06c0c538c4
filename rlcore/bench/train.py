"""Whole GRPO steps against TRL's trainer: rollout, reward, credit, update and, on our side, publishing with proof."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

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
from rlcore.rollout.hf import HfEngine
from rlcore.rollout.prompt import PromptEncoder
from rlcore.rollout.publish import publish
from rlcore.scoring.forms import RewardSpec
from rlcore.scoring.scorer import Scorer
from rlcore.types import Request, Sampling, Task


class _Appointed(HfEngine):
    """Ends each completion at its appointed length, so that both sides do the same work."""

    lengths: list[int]

    def submit(self, requests: Sequence[Request]) -> None:
        first, self.lengths = self.lengths[: len(requests)], self.lengths[len(requests) :]
        super().submit(
            [
                replace(r, sampling=replace(r.sampling, max_tokens=n))
                for r, n in zip(requests, first, strict=True)
            ]
        )


class Ours:
    """Our step, from a model's folder."""

    def __init__(
        self, model_folder: str, shape: Shape, prompts: Sequence[str], micro_batch_tokens: int
    ) -> None:
        self._shape = shape
        self._tasks = [Task(id=str(i), prompt=prompt) for i, prompt in enumerate(prompts)]
        self._policy = load_policy(path=model_folder)
        self._learner = Learner(
            self._policy,
            objective("dapo", clip_low=CLIP_LOW, clip_high=CLIP_HIGH),
            accelerator=Accelerator(cpu=not torch.cuda.is_available()),
            lr=1e-5,
            total_updates=len(prompts),
            micro_batch_tokens=micro_batch_tokens,
        )
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._longest = shape.prompt_tokens + shape.answer_max
        self._engine = _Appointed(model_folder, max_length=self._longest, device=device)
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
        self._learner.update([sample for group in self._credit(groups) for sample in group])
        self._learner.version += 1
        publish(
            self._policy.weights,
            self._engine,
            self._learner.version,
            canary=[list(range(24))],
            score=self._policy.score,
            served_dtype="float32",
        )
        return watch.read()

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
) -> dict[str, Any]:
    """Seconds of a step on each side, step beside step, with completions of the same lengths; the first step is not counted."""
    rng = random.Random(0)
    steps = repeats + 1
    prompts = [
        "".join(rng.choice("0123456789+-*/") for _ in range(shape.prompt_tokens))
        for _ in range(steps * shape.prompts)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = make_model(Path(folder) / "model", model, hidden_size=hidden_size, layers=layers)
        ours = Ours(path, shape, prompts, micro_batch_tokens)
        seconds: list[Seconds] = []
        try:
            theirs = train(
                path,
                shape,
                Path(folder) / "trl",
                prompts,
                steps=steps,
                micro_batch=trl_micro_batch,
                beside=lambda number: seconds.append(ours.step(number)),
            )
        finally:
            ours.close()
    return {
        "bench": "train",
        "against": "trl",
        **compare(seconds[1:], theirs[1:]),
        "shape": asdict(shape),
        "settings": {
            "engine": "transformers on both sides",
            "micro_batch_tokens": micro_batch_tokens,
            "trl_micro_batch": trl_micro_batch,
            "model": model,
        },
        **circumstances(),
    }
