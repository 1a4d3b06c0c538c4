"""Learning-rate schedules, optimisers by name, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rlcore.errors import LearnerError
from rlcore.learner.sharding import in_parts


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The learning rate of each update, as a share of its peak.

    Rises linearly over the first `warmup` updates (1 / warmup in the first), then falls from 1 to `floor` along a curve in
    x = (updates since the warm-up) / (updates after the warm-up); x = 1 is reached at `total`, after the last update.

        constant   1
        linear     1 - x
        cosine     (1 + cos(pi x)) / 2
        rex        (1 - x) / ((1 - d) + d (1 - x)), d = `rex_d`: 0 is linear, larger stays high for longer   arXiv 2107.04197
        wsd        1, and over the last `decay_share` of all updates, with s = progress within that part      arXiv 2404.06395
                   linear 1 - s | sqrt 1 - sqrt(s) | inverse_linear 1 / (s / floor + 1 - s)

    All but inverse_linear are scaled to end at `floor`: floor + (1 - floor) * curve.
    """

    name: Literal["constant", "linear", "cosine", "rex", "wsd"] = "constant"
    total: int
    warmup: int = 0
    floor: float = 0.0
    rex_d: float = 0.5
    decay_shape: Literal["linear", "sqrt", "inverse_linear"] = "linear"
    decay_share: float = 0.1

    def __call__(self, step: int) -> float:
        """The factor of update `step`, from 0."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.name == "constant":
            return 1.0
        begin = (
            max(self.warmup, self.total - round(self.decay_share * self.total))
            if self.name == "wsd"
            else self.warmup
        )
        left = min(1.0, max(0.0, (self.total - step) / max(1, self.total - begin)))
        curve = self.decay_shape if self.name == "wsd" else self.name
        if curve == "inverse_linear":
            return 1 / ((1 - left) / self.floor + left)
        return self.floor + (1 - self.floor) * self._curve(curve, left)

    def _curve(self, curve: str, left: float) -> float:
        """1 where all is `left` (1) and 0 at the end (0)."""
        if curve == "cosine":
            return 0.5 - 0.5 * math.cos(math.pi * left)
        if curve == "rex":
            return left / ((1 - self.rex_d) + self.rex_d * left)
        return left if curve == "linear" else 1 - math.sqrt(1 - left)


def adamw(
    module: nn.Module,
    *,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    fused: bool | None = None,
) -> Optimizer:
    """AdamW over the trainable parameters; vectors (norms, biases) do not decay.

    fused: all of an update in one kernel. By default on a GPU, where it saves launches and passes over the memory; on a CPU
    it rounds otherwise than earlier runs did.
    """
    parameters = _trainable(module)
    return _adamw(parameters, lr=lr, betas=betas, weight_decay=weight_decay, fused=fused)


def _adamw(
    parameters: list[nn.Parameter],
    *,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    fused: bool | None = None,
) -> Optimizer:
    if fused is None:
        fused = all(p.device.type == "cuda" and p.is_floating_point() for p in parameters)
    groups = _groups(parameters, weight_decay)
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=fused or None)


def adamw_8bit(
    module: nn.Module, *, lr: float, betas: tuple[float, float], weight_decay: float
) -> Optimizer:
    """AdamW with its two moments in 8 bits by blocks (arXiv 2110.02861), from bitsandbytes. Raises `LearnerError` without it."""
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise LearnerError(
            "optim.name=adamw8bit needs bitsandbytes, which is not installed; run `pip install bitsandbytes`"
        ) from None
    return AdamW8bit(_groups(_trainable(module), weight_decay), lr=lr, betas=betas)


def muon(
    module: nn.Module, *, lr: float, betas: tuple[float, float], weight_decay: float
) -> Optimizer:
    """Muon for the matrices inside the model, AdamW for embeddings, output head and everything that is not a matrix.

    Muon's step is scaled to the size of AdamW's (0.2 sqrt(larger side), arXiv 2502.16982), so one learning rate serves both;
    its momentum is torch's 0.95. Raises `LearnerError` where torch has no Muon.
    """
    if not hasattr(torch.optim, "Muon"):
        raise LearnerError(
            f"optim.name=muon needs torch 2.9 or newer, this is {torch.__version__}; use optim.name=adamw"
        )
    outer = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    outer |= {
        id(head.weight)
        for m in module.children()
        if (head := getattr(m, "get_output_embeddings", lambda: None)())
    }
    parameters = _trainable(module)
    # a matrix of one row or column, such as a critic's head, is a vector
    inner = [p for p in parameters if p.ndim == 2 and 1 not in p.shape and id(p) not in outer]
    chosen = {id(p) for p in inner}
    rest = [p for p in parameters if id(p) not in chosen]
    parts: list[Optimizer] = []
    if inner:
        parts.append(
            torch.optim.Muon(
                inner, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
            )
        )
    if rest:
        parts.append(_adamw(rest, lr=lr, betas=betas, weight_decay=weight_decay))
    return Several(parts)


def sgd(
    module: nn.Module, *, lr: float, betas: tuple[float, float], weight_decay: float
) -> Optimizer:
    """Stochastic gradient descent with momentum betas[0]."""
    return torch.optim.SGD(_groups(_trainable(module), weight_decay), lr=lr, momentum=betas[0])


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adamw": adamw,
    "adamw8bit": adamw_8bit,
    "muon": muon,
    "sgd": sgd,
}


class Several(Optimizer):
    """Optimisers of different parameters as one."""

    def __init__(self, parts: list[Optimizer]) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})

    def step(self, closure: None = None) -> None:
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [
            group for part in self.parts for group in part.param_groups
        ]  # loading made new ones


class Average:
    """Exponential moving average of the trainable parameters: after each update `mean = decay * mean + (1 - decay) * now`.

    It starts at the weights it is made on, so after k updates these still weigh decay^k. Held in float32, or float64 for float64.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self._live = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._mean = {
            name: p.detach().to(_wide(p), copy=True) for name, p in self._live.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        for name, p in self._live.items():
            self._mean[name].lerp_(p.to(_wide(p)), 1 - self.decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The module has the averaged weights inside; afterwards it has its own again, bit for bit."""
        own = {name: p.detach().clone() for name, p in self._live.items()}
        self._write(self._mean)
        try:
            yield
        finally:
            self._write(own)

    def state_dict(self) -> dict[str, Any]:
        """What is sharded stays so."""
        return {"decay": self.decay, "mean": dict(self._mean)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, value in state["mean"].items():
            self._mean[name].copy_(in_parts(value, self._mean[name]))

    @torch.no_grad()
    def _write(self, values: Mapping[str, Tensor]) -> None:
        for name, p in self._live.items():
            p.copy_(values[name])


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]


def _groups(parameters: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
