"""Settings of a learner's optimiser and learning-rate schedule."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer

from rlcore.learner.offload import Offloaded
from rlcore.learner.optim import OPTIMIZERS, Schedule


@dataclass(frozen=True, kw_only=True)
class OptimSettings:
    """Optimiser and schedule. Steps of the schedule are updates of the optimiser."""

    lr: float
    """Peak learning rate."""
    total_updates: int
    """Updates after which the schedule ends: steps x minibatches x update epochs."""
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    """Largest norm of the gradient; a larger gradient is scaled down to it."""
    optimizer: str = "adamw"
    """A name in `rlcore.learner.optim.OPTIMIZERS`."""
    schedule: str = "constant"
    """A name of `rlcore.learner.optim.Schedule`."""
    warmup_steps: int = 0
    min_lr_ratio: float = 0.0
    rex_d: float = 0.5
    decay_shape: str = "linear"
    decay_share: float = 0.1
    offload: bool = False
    """Keep the optimiser's states in the host's memory between updates; not for adamw8bit."""
    ema: float | None = None
    """Decay of the moving average of the weights to keep; None keeps none."""

    def make_optimizer(self, module: nn.Module) -> Optimizer:
        make = OPTIMIZERS[self.optimizer]
        optimizer = make(module, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)
        return Offloaded(optimizer) if self.offload else optimizer

    def make_schedule(self) -> Schedule:
        return Schedule(
            name=self.schedule,
            total=self.total_updates,
            warmup=self.warmup_steps,
            floor=self.min_lr_ratio,
            rex_d=self.rex_d,
            decay_shape=self.decay_shape,
            decay_share=self.decay_share,
        )
