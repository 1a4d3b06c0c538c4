"""Emulated fine-tuning (arXiv 2310.12962): decoding from several models at once, without training one.

    log pi(. | s) = log policy(. | s) + sum_i factor_i (log tuned_i(. | s) - log base_i(. | s)), renormalised

With a small tuned model and its base, the tuning of the small one is given to a large policy. Policy = base gives tuned,
tuned = base gives the policy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple, NotRequired

import torch
from pydantic import ConfigDict
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache, DynamicLayer
from typing_extensions import TypedDict

from rlcore.errors import EngineError
from rlcore.rollout.hf_decode import GrowingLayer
from rlcore.tokenizer import different_tokens

Opened = tuple[PreTrainedModel, PreTrainedTokenizerBase]


class Difference(TypedDict):
    """What is added to the policy: factor (log tuned - log base)."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]

    tuned: str
    base: str
    factor: NotRequired[float]
    """1 by default."""


class MixtureOutput(NamedTuple):
    """As transformers' models return it."""

    logits: torch.Tensor
    """[B, T, V] float32, up to a constant of each position."""


class JointCache:
    """The key-value caches of several models that read the same rows."""

    def __init__(self, count: int) -> None:
        self.caches = [Cache(layer_class_to_replicate=GrowingLayer) for _ in range(count)]

    @property
    def layers(self) -> list[DynamicLayer]:
        """Of all models."""
        return list(chain.from_iterable(cache.layers for cache in self.caches))


class Mixture:
    """Is called as a transformers model. V is the smallest head of its models: what is above it is padding."""

    def __init__(self, models: Sequence[PreTrainedModel], factors: Sequence[float]) -> None:
        """models: the first is the policy. factors: of all of them, 1 for the policy."""
        self._models = list(models)
        self._factors = list(factors)
        self._vocabulary = min(map(_head_size, self._models))
        self.device = self._models[0].device

    def new_cache(self) -> JointCache:
        """An empty cache for one wave of rows."""
        return JointCache(len(self._models))

    def __call__(self, *, past_key_values: JointCache, **inputs: Any) -> MixtureOutput:
        mixed: torch.Tensor | float = 0.0
        for model, factor, cache in zip(
            self._models, self._factors, past_key_values.caches, strict=True
        ):
            output = model(past_key_values=cache, **inputs)
            # Without their normalisers, which are constants of a row.
            mixed = mixed + factor * output.logits[..., : self._vocabulary].float()
        return MixtureOutput(mixed)


def open_mixture(
    policy: Opened, differences: Sequence[Difference], open_model: Callable[[str], Opened]
) -> Mixture:
    """The mixture of the engine's own model and those that the differences name; each is loaded once, and those whose factors add
    up to 0 are left out.

    open_model: from a path to model and tokenizer. Raises `EngineError` for a model with another vocabulary.
    """
    model, tokenizer = policy
    factor_of: dict[str, float] = {}
    for difference in differences:
        factor = difference.get("factor", 1.0)
        for path, signed in ((difference["tuned"], factor), (difference["base"], -factor)):
            factor_of[path] = factor_of.get(path, 0.0) + signed
    models, factors = [model], [1.0]
    for path, factor in factor_of.items():
        opened = _of_vocabulary(path, tokenizer, open_model)
        if factor:
            models.append(opened.to(model.device).eval())
            factors.append(factor)
    return Mixture(models, factors)


def _of_vocabulary(
    path: str, own: PreTrainedTokenizerBase, open_model: Callable[[str], Opened]
) -> PreTrainedModel:
    model, tokenizer = open_model(path)
    different = different_tokens(own, tokenizer)
    if not different and _head_size(model) < len(own):
        different = f"its head has {_head_size(model)} tokens of {len(own)}"
    if different:
        raise EngineError(
            f"engine.differences: {path} has another vocabulary than the policy ({different}): differences are added token by token, "
            "so use models with the policy's tokenizer"
        )
    return model


def _head_size(model: PreTrainedModel) -> int:
    return len(model.get_output_embeddings().weight)
