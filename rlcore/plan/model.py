"""The recipe's model with the shapes of its tensors and none of their numbers: no weights are read, nothing is computed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from rlcore.errors import ModelError, first_line
from rlcore.learner.attention import PACKED
from rlcore.learner.base_model import model_from_config
from rlcore.learner.module import MixedModule, PackedModule, layer_classes
from rlcore.learner.policy_adapter import insert
from rlcore.learner.quantised import BITS, quantisable
from rlcore.learner.speed import checkpoint_layers
from rlcore.pretrained import load_config
from rlcore.recipe.build_learner import starting_point
from rlcore.recipe.schema import Recipe
from rlcore.tokenizer import load_tokenizer

_EXPERTS = "rlcore_shapes"


@dataclass(frozen=True)
class ShapedModel:
    """A model whose tensors have shapes only, inside a `FakeTensorMode`."""

    module: PackedModule
    mode: FakeTensorMode
    config: Any
    """Text config of transformers."""
    quantised: int = 0
    """Numbers that are stored in 4 bits; here they have the model's data type."""

    @property
    def model(self) -> PreTrainedModel:
        return self.module.model

    @property
    def parameters(self) -> int:
        """Numbers in all parameters, tied ones counted once, those of an adapter included."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    @property
    def trained(self) -> int:
        return sum(p.numel() for p in self.module.parameters() if p.requires_grad)

    @property
    def weight_bytes(self) -> int:
        """Of the learner's parameters, before they are quantised."""
        return sum(parameter.nbytes for parameter in self.module.parameters())

    def stored_bytes(self, shards: int = 1) -> int:
        """Of them on each device. What is stored in 4 bits is not sharded."""
        narrow = int(self.quantised * BITS / 8)
        return (
            narrow + (self.weight_bytes - self.quantised * self.model.dtype.itemsize) // shards
        )

    @property
    def trained_bytes(self) -> int:
        return sum(p.nbytes for p in self.module.parameters() if p.requires_grad)

    @property
    def base_parameters(self) -> int:
        """Numbers that an engine serves: those of the model without its adapter."""
        named = self.module.named_parameters()
        return sum(parameter.numel() for name, parameter in named if "lora_" not in name)

    @property
    def largest_layer(self) -> int:
        """Bytes of the largest repeated layer, which FSDP2 gathers at a time."""
        sizes = [sum(p.nbytes for p in layer.parameters()) for layer in self._layers()]
        return max(sizes, default=self.weight_bytes)

    @property
    def outer_bytes(self) -> int:
        """Bytes of what stands outside of the layers, embeddings and head, which FSDP2 gathers together."""
        inside = {id(p) for layer in self._layers() for p in layer.parameters()}
        return sum(p.nbytes for p in self.module.parameters() if id(p) not in inside)

    def _layers(self) -> list[nn.Module]:
        names = layer_classes(self.model)
        return [module for module in self.model.modules() if type(module).__name__ in names]


def shaped_model(recipe: Recipe, *, layers: int | None = None) -> ShapedModel:
    """The learner's model of a recipe, as `build_policy` makes it. Raises `ModelError`.

    layers: only so many, the first ones.
    """
    section = recipe.model
    is_mixed = section.dtype == "bfloat16" and section.peft is None
    dtype = "float32" if is_mixed else section.dtype
    with torch.device("meta"):
        if section.path is None:
            tokenizer = load_tokenizer(str(section.tokenizer))
            config = dict(section.config or {}) | _first_layers(section.config or {}, layers)
            model = model_from_config(config, tokenizer, dtype, seed=0)
        else:
            model = _from_files(section.path, dtype, layers)
        model.eval()
        if section.peft is not None:
            insert(model, section.peft, seed=0)
    if section.gradient_checkpointing:
        checkpoint_layers(model)
    model.set_attn_implementation(PACKED)
    with suppress(ValueError, AttributeError):  # no mixture of experts
        model.set_experts_implementation(_EXPERTS)
    mode = FakeTensorMode()
    _make_fake(model, mode)
    module = (MixedModule if is_mixed else PackedModule)(model)
    quantised = quantisable(model) if section.quantize else ()
    return ShapedModel(
        module,
        mode,
        model.config.get_text_config(),
        quantised=sum(linear.weight.numel() for _, _, linear in quantised),
    )


def _make_fake(model: nn.Module, mode: FakeTensorMode) -> None:
    """Put tensors of `mode`, which say that they are on the CPU, in place of those on "meta"; tied ones stay tied."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for values in (module._parameters, module._buffers):
            for name, tensor in values.items():
                if tensor is not None:
                    if id(tensor) not in made:
                        made[id(tensor)] = _fake(tensor, mode)
                    values[name] = made[id(tensor)]


def _fake(tensor: Tensor, mode: FakeTensorMode) -> Tensor:
    with mode:
        fake = torch.empty(tensor.shape, dtype=tensor.dtype)
        if isinstance(tensor, nn.Parameter):
            return nn.Parameter(fake, requires_grad=tensor.requires_grad)
        return fake


def _first_layers(config: Mapping[str, Any], layers: int | None) -> dict[str, Any]:
    """The keys of a config that say how many layers there are, for fewer of them."""
    if layers is None:
        return {}
    kinds = config.get("layer_types")
    return {"num_hidden_layers": layers} | ({"layer_types": kinds[:layers]} if kinds else {})


def _from_files(path: str | list[str], dtype: str, layers: int | None) -> PreTrainedModel:
    name = starting_point(path)
    config = load_config(name)
    text = config.get_text_config()
    for key, value in _first_layers(text.to_dict(), layers).items():
        setattr(text, key, value)
    try:
        return AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, dtype), attn_implementation="eager"
        )
    except Exception as error:  # architectures raise anything for configs that do not fit
        raise ModelError(
            f"no model can be made from the config at {name!r}: {first_line(error)}"
        ) from error


def _experts_by_shape(self: Any, hidden: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
    """A mixture's experts with the shapes of transformers' grouped products.

    Which expert reads which token depends on numbers, how many rows all of them read does not: here the first reads all.
    hidden [T, H], experts and weights [T, k] -> [T, H].
    """
    k = experts.shape[-1]
    rows = hidden.repeat_interleave(k, 0)
    up = (self.gate_up_proj if self.has_gate else self.up_proj)[0]
    inner = rows @ (up if self.is_transposed else up.t())
    inner = self._apply_gate(inner) if self.has_gate else self.act_fn(inner)
    down = self.down_proj[0]
    out = inner @ (down if self.is_transposed else down.t()) * weights.reshape(-1, 1)
    return out.view(len(hidden), k, -1).sum(1).to(hidden.dtype)


ALL_EXPERTS_FUNCTIONS.register(_EXPERTS, _experts_by_shape)
