"""What is made of the same tensor of several models. All sums are in float64.

A rule is called with the tensor's name, the tensors of the sources in order (as they are stored, read anew each time
that they are gone through), and that of the base, None without one: `rule(name, tensors, base) -> tensor`. A recipe names a
function that returns a rule; attributes of the rule say what it needs: `needs_base`, and `models`, how many.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rlcore.errors import RecipeError

Rule = Callable[[str, Sequence[Tensor], Tensor | None], Tensor]


def mean() -> Rule:
    """sum_i theta_i / n: model soups (arXiv 2203.05482), Free Lunch's mean of the checkpoints of a run, the average of
    models of several data partitions.
    """

    def rule(name: str, tensors: Sequence[Tensor], base: Tensor | None) -> Tensor:
        count = 0
        total: Tensor | float = -0.0  # keeps a -0.0, where 0.0 does not
        for tensor in tensors:
            total = total + tensor.double()
            count += 1
        assert isinstance(total, Tensor)
        return total / count

    return rule


def ema(alpha: float = 0.2, bias_correction: bool = False) -> Rule:
    """v = theta_1; v <- (1 - alpha) v + alpha theta_i, from the oldest to the newest: CMA's average, alpha 0.2 over the last
    six checkpoints (arXiv 2511.18903). The first weighs (1 - alpha)^(n - 1).

    bias_correction: v begins at 0 and is divided by 1 - (1 - alpha)^n at the end, as Adam's moments are (arXiv 1412.6980,
    section 3). Weights are then in proportion to (1 - alpha)^(n - i) for every i, the first one too.
    """
    _require("alpha", alpha, low=0, high=1)

    def rule(name: str, tensors: Sequence[Tensor], base: Tensor | None) -> Tensor:
        average: Tensor | None = None
        count = 0
        for tensor in tensors:
            new = tensor.double()
            count += 1
            if average is not None:
                average = (1 - alpha) * average + alpha * new
            elif bias_correction:
                average = alpha * new
            else:
                average = new
        assert average is not None
        return average / (1 - (1 - alpha) ** count) if bias_correction else average

    return rule


def linear(weights: Sequence[float]) -> Rule:
    """sum_i w_i theta_i, with weights that sum to 1 and may be negative."""
    if abs(sum(weights) - 1) > 1e-6:
        raise RecipeError(f"linear: the weights sum to {sum(weights):g}, and must sum to 1")

    def rule(name: str, tensors: Sequence[Tensor], base: Tensor | None) -> Tensor:
        total: Tensor | float = -0.0  # keeps a -0.0, where 0.0 does not
        for weight, tensor in zip(weights, tensors, strict=True):
            total = total + weight * tensor.double()
        assert isinstance(total, Tensor)
        return total

    rule.models = len(weights)  # type: ignore[attr-defined]
    return rule


def residual(scale: float = 1.0) -> Rule:
    """continued + scale (instruct - base), the instruction residual (arXiv 2410.10739).

    The sources are the continued model and the instruct model. A continued model that is the base
    gives the instruct model bit for bit, at scale 1.
    """

    def rule(name: str, tensors: Sequence[Tensor], base: Tensor | None) -> Tensor:
        continued, instruct = (tensor.double() for tensor in tensors)
        start = _base(base)
        if scale == 1:  # in this order nothing is rounded where continued and base are equal
            return instruct + (continued - start)
        return continued + scale * (instruct - start)

    rule.needs_base = True  # type: ignore[attr-defined]
    rule.models = 2  # type: ignore[attr-defined]
    return rule


def task_arithmetic(scale: float = 1.0) -> Rule:
    """base + scale sum_i (theta_i - base), task vectors (arXiv 2212.04089, section 2)."""

    def rule(name: str, tensors: Sequence[Tensor], base: Tensor | None) -> Tensor:
        start = _base(base)
        total = torch.zeros_like(start)
        for tensor in tensors:
            total += tensor.double() - start
        return start + scale * total

    rule.needs_base = True  # type: ignore[attr-defined]
    return rule


def ties(density: float = 0.2, scale: float = 1.0) -> Rule:
    """TIES (arXiv 2306.01708, section 3): of each task vector the `density` of largest magnitude; of each number
    the sign whose sum is larger; the mean of the numbers that have it.
    """
    _require("density", density, low=0, high=1)

    def rule(name: str, tensors: Sequence[Tensor], base: Tensor | None) -> Tensor:
        start = _base(base)
        vectors = torch.stack(
            [_trimmed(tensor.double() - start, density) for tensor in tensors]
        )
        sign = vectors.sum(0).sign()
        agrees = (vectors.sign() == sign) & (vectors != 0)
        merged = (vectors * agrees).sum(0) / agrees.sum(0).clamp(min=1)
        return start + scale * merged

    rule.needs_base = True  # type: ignore[attr-defined]
    return rule


def _trimmed(vector: Tensor, density: float) -> Tensor:
    """The `density` of largest magnitude, at least one number, the others 0."""
    kept = max(1, round(density * vector.numel()))
    chosen = vector.abs().flatten().topk(kept).indices
    mask = torch.zeros(vector.numel(), dtype=torch.bool)
    mask[chosen] = True
    return vector * mask.view(vector.shape)


def dare(density: float = 0.1, scale: float = 1.0, seed: int = 0) -> Rule:
    """DARE (arXiv 2311.03099, section 3): each number of a task vector is kept with probability `density` and
    divided by it; then task arithmetic. What is kept follows from the seed, the tensor's name and the source's place.
    """
    _require("density", density, low=0, high=1)

    def rule(name: str, tensors: Sequence[Tensor], base: Tensor | None) -> Tensor:
        start = _base(base)
        total = torch.zeros_like(start)
        for place, tensor in enumerate(tensors):
            own_seed = random.Random(f"{seed}/{name}/{place}").getrandbits(63)
            draw = torch.Generator().manual_seed(own_seed)
            kept = torch.rand(start.shape, generator=draw, dtype=torch.float64) < density
            total += (tensor.double() - start) * kept / density
        return start + scale * total

    rule.needs_base = True  # type: ignore[attr-defined]
    return rule


def twin(weights: Sequence[float], rank: float = 0.2, scale: float | None = None) -> Rule:
    """Twin-Merging (arXiv 2406.15479): a shared model, and what is exclusive to each expert, compressed.

        shared s = scale sum_i tau_i, exclusive e_i = tau_i - s, result b + s + sum_i w_i SVD_r(e_i)

    weights: one for each model, which the paper's router computes for each input; all 0 give the shared model.
    rank: fraction of the singular values that are kept, rounded up; 1 keeps e_i as it is and 0 nothing. Tensors
    that are no matrices, such as norms, are kept whole, but for rank 0. scale: default 1 / n, the mean.
    """
    if not 0 <= rank <= 1:
        raise RecipeError(f"twin: rank is {rank:g}, and is a fraction from 0 to 1")

    def rule(name: str, tensors: Sequence[Tensor], base: Tensor | None) -> Tensor:
        start = _base(base)
        vectors = [tensor.double() - start for tensor in tensors]
        factor = 1 / len(vectors) if scale is None else scale
        shared = factor * torch.stack(vectors).sum(0)
        merged = start + shared
        for weight, vector in zip(weights, vectors, strict=True):
            if weight:
                merged = merged + weight * _compressed(vector - shared, rank)
        return merged

    rule.needs_base = True  # type: ignore[attr-defined]
    rule.models = len(weights)  # type: ignore[attr-defined]
    return rule


def _compressed(tensor: Tensor, rank: float) -> Tensor:
    """The nearest tensor whose matrices (its last two axes) have the fraction `rank` of the full rank."""
    if rank == 0:
        return torch.zeros_like(tensor)
    if rank == 1 or tensor.ndim < 2:
        return tensor
    kept = math.ceil(rank * min(tensor.shape[-2:]))
    left, values, right = torch.linalg.svd(tensor, full_matrices=False)
    return (left[..., :kept] * values[..., None, :kept]) @ right[..., :kept, :]


def _base(base: Tensor | None) -> Tensor:
    if base is None:
        raise RecipeError("this rule adds differences to a base: name one")
    return base.double()


def _require(key: str, value: float, *, low: float, high: float) -> None:
    if not low < value <= high:
        raise RecipeError(f"{key} is {value:g}, and must be above {low:g} and at most {high:g}")
