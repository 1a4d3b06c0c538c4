"""Bytes of one micro-batch: the learner's own forward, backward and optimiser step, run on tensors without numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from rlcore.errors import ModelError, first_line
from rlcore.learner.head import CACHED_LOGITS
from rlcore.learner.logprobs import TILE_LOGITS
from rlcore.learner.settings import OptimSettings
from rlcore.plan.live import LiveBytes
from rlcore.plan.model import ShapedModel, shaped_model
from rlcore.recipe.schema import Recipe

_MOMENT_BYTES_8BIT = 2
"""A trained number's two moments in 8 bits; their scales are a hundredth of it."""
_DEPTHS = (4, 8)
"""Layers that are traced of a deep model, in multiples of its pattern of layers."""


@dataclass(frozen=True)
class Tree:
    """Sequences of a micro-batch: prompts, each with the completions that continue it.

    Stored as the learner packs them: a prompt once for its completions where `shared`.
    """

    prompts: int
    completions: int
    """Of each prompt."""
    prompt_tokens: int
    completion_tokens: int
    """Of each completion."""
    shared: bool

    @property
    def tokens(self) -> int:
        """Tokens that the model reads."""
        copies = 1 if self.shared else self.completions
        per_prompt = copies * self.prompt_tokens + self.completions * self.completion_tokens
        return self.prompts * per_prompt

    @property
    def predicted(self) -> int:
        """Tokens whose log-probability is computed."""
        return self.prompts * self.completions * self.completion_tokens

    @property
    def segments(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Lengths and parents, as in `rlcore.learner.pack.MicroBatch`."""
        if not self.shared:
            count = self.prompts * self.completions
            return (self.prompt_tokens + self.completion_tokens,) * count, (-1,) * count
        lengths: list[int] = []
        parents: list[int] = []
        for _ in range(self.prompts):
            root = len(lengths)
            lengths += [self.prompt_tokens, *[self.completion_tokens] * self.completions]
            parents += [-1, *[root] * self.completions]
        return tuple(lengths), tuple(parents)


def optimizer_states(shaped: ShapedModel, settings: OptimSettings) -> int:
    """Bytes of the optimiser's states after its first step."""
    if settings.optimizer == "adamw8bit":
        return _MOMENT_BYTES_8BIT * shaped.trained
    with shaped.mode:
        return sum(state.nbytes for state in _states(_stepped(shaped, settings)))


def activation_bytes(
    recipe: Recipe,
    shaped: ShapedModel,
    tree: Tree,
    *,
    one_pass: bool,
    several: bool,
    device: str,
) -> int:
    """Most bytes at once of a micro-batch's forward and backward beside weights and gradients.

    Deep models are traced with a few of their layers: from two such depths on, each further layer adds the same.
    one_pass: whether the objective is a sum over tokens. several: micro-batches follow each other, so a gradient is held
    while the next is computed; where not, gradients may come to exist only when activations are gone, and the result is
    what both need at once less the gradients. device: "cpu" or "cuda". Raises `ModelError` for an architecture whose code
    needs numbers.
    """
    model = recipe.model.model_dump_json()
    return _activation_bytes(_Case(recipe, shaped, model), tree, one_pass, several, device)


@dataclass(frozen=True)
class _Case:
    """A model, equal to another one that is made from the same section."""

    recipe: Recipe = field(compare=False)
    shaped: ShapedModel = field(compare=False)
    section: str


@lru_cache(maxsize=64)
def _activation_bytes(
    case: _Case, tree: Tree, one_pass: bool, several: bool, device: str
) -> int:
    recipe, shaped = case.recipe, case.shaped
    settings = {"one_pass": one_pass, "several": several, "device": device}
    total = shaped.config.num_hidden_layers
    few, more = (count * _period(shaped.config) for count in _DEPTHS)
    if total <= more:
        peak = _peak(shaped, tree, **settings)
    else:
        at_few, at_more = (
            _peak(shaped_model(recipe, layers=layers), tree, **settings)
            for layers in (few, more)
        )
        peak = at_more + (at_more - at_few) * (total - more) // (more - few)
    return max(0, peak if several else peak - shaped.trained_bytes)


def _period(config: Any) -> int:
    """Layers after which the kinds of layers repeat."""
    kinds = getattr(config, "layer_types", None) or ["full"]
    for period in range(1, len(kinds)):
        if all(kind == kinds[i % period] for i, kind in enumerate(kinds)):
            return period
    return len(kinds)


def _peak(
    shaped: ShapedModel, tree: Tree, *, one_pass: bool, several: bool, device: str
) -> int:
    parameters = list(shaped.module.parameters())
    with shaped.mode:
        known = list(parameters)
        if several:
            for parameter in parameters:
                if parameter.requires_grad:
                    parameter.grad = torch.zeros_like(parameter)
                    known.append(parameter.grad)
        live = LiveBytes(known)
        try:
            with live, _head_pieces_of(device):
                _backward(shaped, tree, one_pass=one_pass)
        except Exception as error:  # an architecture's own code
            raise ModelError(
                f"the memory of {type(shaped.model).__name__} cannot be planned, as its code needs "
                f"numbers: {first_line(error)}"
            ) from error
        finally:
            for parameter in parameters:
                parameter.grad = None
    return live.peak


@contextmanager
def _head_pieces_of(device: str) -> Iterator[None]:
    """The output head takes a tile of logits in pieces that fit a CPU's cache; on a GPU it takes a larger one whole.

    That is the plain head's. In kernels it holds a seventh of it at most.
    """
    pieces = dict(CACHED_LOGITS)
    tiles = dict(TILE_LOGITS)
    if device != "cpu":
        CACHED_LOGITS.clear()
        TILE_LOGITS["cpu"] = TILE_LOGITS[
            device
        ]  # tensors of the trace say that they are on the CPU
    try:
        yield
    finally:
        CACHED_LOGITS.update(pieces)
        TILE_LOGITS.update(tiles)


def _backward(shaped: ShapedModel, tree: Tree, *, one_pass: bool) -> None:
    lengths, parents = tree.segments
    positions = torch.zeros(sum(lengths), dtype=torch.long)
    targets = torch.zeros(tree.predicted, dtype=torch.long)
    inputs = (positions, positions, lengths, targets, targets, 1.0, parents)
    if one_pass:
        *_, loss = shaped.module(*inputs, loss=_some_loss)
    else:
        loss = _some_loss(*shaped.module(*inputs), slice(None))
    loss.backward()


def _some_loss(logp: Tensor, entropy: Tensor, part: slice) -> Tensor:
    """Any objective holds some numbers a token more: nothing beside the activations."""
    return (logp + entropy).sum()


def _stepped(shaped: ShapedModel, settings: OptimSettings) -> Optimizer:
    optimizer = replace(settings, offload=False).make_optimizer(shaped.module)
    for parameter in shaped.module.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def _states(optimizer: Optimizer) -> list[Tensor]:
    parts = getattr(optimizer, "parts", [optimizer])
    values = [
        value for part in parts for state in part.state.values() for value in state.values()
    ]
    return [value for value in values if isinstance(value, Tensor)]
