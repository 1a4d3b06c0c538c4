"""What every stage hands to a transformers trainer: our optimiser and schedule, and arguments
that leave the rest out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback

from rlcore.learner.optim import OPTIMIZERS, Schedule
from rlcore.run.stopwatch import Stopwatch

if TYPE_CHECKING:
    from rlcore.learner.policy import Policy
    from rlcore.recipe.optim_sections import UpdateSection
    from rlcore.stages.pair_keys import PairKeys

Log = Callable[[Mapping[str, float]], None]

NAMES = {"learning_rate": "lr", "rewards/margins": "margin", "rewards/accuracies": "accuracy"}
"""Metric of a trainer -> our name."""
KEPT = ("loss", "grad_norm", "entropy", "learning_rate", "accuracy", "margin")
"""Metrics without a slash that are logged."""


class Forward(TrainerCallback):
    """Hands what a trainer logs of every step to `log`, under our names, with the step's seconds."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._watch = Stopwatch()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._watch = Stopwatch()

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: Mapping[str, float] | None = None,
        **_: Any,
    ) -> None:
        if logs and "loss" in logs:
            kept = {key: value for key, value in logs.items() if key in KEPT or "/" in key}
            named = {NAMES.get(key, key): value for key, value in kept.items()}
            self._log({**named, **self._watch.times()})


class OneBehind:
    """A `Log` that is one step behind, so that the row of the last step can have what is measured after it."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._waiting: list[Mapping[str, float]] = []

    def __call__(self, metrics: Mapping[str, float]) -> None:
        if self._waiting:
            self._log(self._waiting.pop())
        self._waiting.append(metrics)

    def end(self, measured: Mapping[str, float]) -> None:
        """Log the last step with what was measured."""
        self._log({**self._waiting.pop(), **measured})


def optimizer_and_schedule(
    module: nn.Module, optim: UpdateSection, steps: int
) -> tuple[Optimizer, LambdaLR]:
    """Those of the learner, for a trainer's `optimizers`."""
    make_optimizer = OPTIMIZERS[optim.use]
    optimizer = make_optimizer(
        module, lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay
    )
    curve = optim.schedule_settings()
    schedule = Schedule(
        name=curve.pop("schedule"),
        total=steps,
        warmup=optim.warmup_steps,
        floor=curve.pop("min_lr_ratio", 0.0),
        **curve,
    )
    return optimizer, LambdaLR(optimizer, schedule)


def trainer_arguments(
    stage: PairKeys, policy: Policy, *, seed: int, processes: int, scratch: str
) -> dict[str, Any]:
    """Keyword arguments of `TrainingArguments` and its subclasses."""
    micro_batch, accumulation = stage.micro_batches(processes)
    return {
        "output_dir": scratch,
        "max_steps": stage.steps,
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "learning_rate": stage.optim.lr,
        "max_grad_norm": stage.optim.clip_norm,
        "seed": seed % 2**32,
        "gradient_checkpointing": False,
        "bf16": policy.arithmetic == torch.bfloat16,
        "use_cpu": policy.model.device.type == "cpu",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }
