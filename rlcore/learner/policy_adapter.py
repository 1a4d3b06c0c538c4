"""Adapters (LoRA, DoRA and their kin) through the package peft: attached, merged for the engine, saved and restored.

The base model is frozen and never changed. What leaves the policy is merged: `W + scale * B A` for LoRA, what peft's own merge
gives for the others, computed on a copy of one layer at a time.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlcore.errors import ModelError, first_line, not_loaded
from rlcore.learner.odd_layers import odd_linear_layers
from rlcore.learner.policy_files import check_same_names, names_and_shapes
from rlcore.learner.quantised import QuantisedLinear, quantised_layers
from rlcore.learner.sharding import full, gathered
from rlcore.plugin import did_you_mean

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

_OURS = {
    "task_type",
    "peft_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
}
"""Fields of every peft config that are not the recipe's to set."""
_NOT_FITTING = (
    TypeError,
    ValueError,
    ImportError,
    NotImplementedError,
    RuntimeError,
    AttributeError,
    KeyError,
)
"""What peft raises for settings or models that an adapter type cannot take."""


@dataclass(frozen=True)
class Adapter:
    """An adapter inside a transformers model, which stays the object it was."""

    wrapper: PeftModel

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Parameters and persistent buffers, merged, under the names of the model without adapter; tied ones under each name.

        What the adapter does not touch is the live tensor itself; a merged one is new and belongs to the reader.
        """
        yield from _state(self.wrapper.get_base_model(), "")

    def apart(self) -> Iterator[tuple[str, Tensor]]:
        """Parameters of the base, then A and scale * B of each adapted layer, named as in the adapter's own file.

        Raises `ModelError` unless the adapter is all in A and B, as plain LoRA is.
        """
        from peft import get_peft_model_state_dict
        from peft.tuners.lora import LoraLayer

        self._require_plain()
        base = self.wrapper.get_base_model()
        for name, parameter in base.named_parameters():
            if "lora_" not in name:
                yield name, parameter.detach()
        for name, layer in quantised_layers(base):
            yield f"{name}.weight", layer.weight
        scale = {
            f"base_model.model.{name}": layer.scaling[self.wrapper.active_adapter]
            for name, layer in self.wrapper.get_base_model().named_modules()
            if isinstance(layer, LoraLayer)
        }
        for name, tensor in get_peft_model_state_dict(self.wrapper).items():
            layer, is_b, _ = name.partition(".lora_B.")
            yield name, tensor.detach() * scale[layer] if is_b else tensor.detach()

    def _require_plain(self) -> None:
        """Raise `ModelError` unless the adapter is A and B of layers that an engine knows."""
        config = self.wrapper.peft_config[self.wrapper.active_adapter]
        if (
            config.peft_type.value != "LORA"
            or config.use_dora
            or config.bias != "none"
            or config.modules_to_save
        ):
            raise ModelError(
                "an engine can be given plain LoRA adapters only, without bias, DoRA or saved modules; set engine.sync to merged"
            )
        for name, layer in self.wrapper.get_base_model().named_modules():
            # peft's wrapper of one parameter of a layer, as those of fused experts
            if "lora_" not in name and hasattr(layer, "parameter_name"):
                raise ModelError(
                    f"the adapter reaches the fused parameters of {name}, which an engine cannot be given "
                    "by themselves: set engine.sync to merged, or leave them out of model.peft.target_modules"
                )

    def base(self) -> dict[str, Tensor]:
        """State of the model below the adapter, under the names it has without one."""
        model = self.wrapper.get_base_model()
        state = model.state_dict()
        state |= {f"{name}.weight": layer.weight for name, layer in quantised_layers(model)}
        return {
            name.replace(".base_layer.", "."): tensor
            for name, tensor in state.items()
            if "lora_" not in name
        }

    @property
    def rank(self) -> int:
        """Largest rank of an adapted layer. Raises `ModelError` for an adapter that no engine takes by itself."""
        from peft.tuners.lora import LoraLayer

        self._require_plain()
        return max(
            (max(m.r.values()) for m in self.wrapper.modules() if isinstance(m, LoraLayer)),
            default=0,
        )

    def disabled(self) -> Any:
        """Context in which the model is its base."""
        return self.wrapper.disable_adapter()

    def save(self, folder: Path, state: dict[str, Tensor] | None = None) -> None:
        """Write the adapter alone, as `PeftModel.from_pretrained` reads it; with `state` as `saved_state` was."""
        # "auto" would ask the hub for the base's vocabulary
        self.wrapper.save_pretrained(str(folder), save_embedding_layers=False, state_dict=state)

    def saved_state(self, copied: Callable[[Any], Any] | None = None) -> dict[str, Tensor]:
        """The wrapper's state for `save`. Collective; on other ranks than 0 what is sharded is None.

        copied: makes copies of what is trained, in place of the live tensors; the rest is frozen.
        """
        trained = {name for name, p in self.wrapper.named_parameters() if p.requires_grad}
        state = self.wrapper.state_dict()
        whole = gathered({name: tensor for name, tensor in state.items() if name in trained})
        return state | (copied(whole) if copied else whole)

    def load(self, folder: Path) -> None:
        """Take over the adapter in `folder`, bit for bit. Raises `ModelError`."""
        from peft import load_peft_weights, set_peft_model_state_dict

        try:
            found = set_peft_model_state_dict(
                self.wrapper, load_peft_weights(str(folder), device="cpu")
            )
        except Exception as error:  # files of any content, and code that reads them
            raise not_loaded("an adapter", folder, error) from None
        if found.unexpected_keys:
            raise ModelError(
                f"the adapter in {folder} has weights this model has no place for, first {found.unexpected_keys[0]}"
            )


def attach(model: PreTrainedModel, settings: Mapping[str, Any], *, seed: int) -> Adapter:
    """Freeze `model` and put the adapter that `settings` describes into it; its random parts follow from `seed`.

    `settings` are `{"type": "lora", ...}` with the fields of that type's peft config. Raises `ModelError` for unknown types and
    fields, and for adapters that cannot be published or trained here: see `_refuse_unfit`.
    """
    before = names_and_shapes(model.state_dict().items())
    odd = odd_linear_layers(model)
    adapter = insert(model, settings, seed=seed)
    with _fitting(model, settings):
        _refuse_unfit(model, settings["type"], odd)
    check_same_names(before, adapter)
    return adapter


def insert(model: PreTrainedModel, settings: Mapping[str, Any], *, seed: int) -> Adapter:
    """The part of `attach` that reads no numbers of the model."""
    config = _config(settings)
    if getattr(config, "target_modules", None) == "all-linear" and not config.exclude_modules:
        config.exclude_modules = odd_linear_layers(model) or None
    from peft import get_peft_model

    with _fitting(model, settings), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapter = Adapter(get_peft_model(model, config))
        adapter.wrapper.eval()
    return adapter


@contextmanager
def _fitting(model: PreTrainedModel, settings: Mapping[str, Any]) -> Iterator[None]:
    """Context in which what peft raises is one sentence, and what it warns of and is refused anyway is quiet."""
    try:
        with warnings.catch_warnings():
            # refused where it matters
            warnings.filterwarnings("ignore", message=".*tie_word_embeddings.*")
            # settings of peft's own for layers that the model does not have
            warnings.filterwarnings("ignore", message=".*_pattern keys did not match.*")
            yield
    except _NOT_FITTING as error:
        raise ModelError(
            f"a {settings['type']} adapter cannot be used with {type(model).__name__}: {first_line(error)}"
        ) from None


def _config(settings: Mapping[str, Any]) -> PeftConfig:
    try:
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    except ImportError:
        raise ModelError(
            "model.peft needs the package peft, which is not installed; run `pip install 'rlcore[peft]'`"
        ) from None
    kinds = {kind.value.lower(): made for kind, made in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    kind = str(settings.get("type"))
    if kind not in kinds:
        raise ModelError(f"peft has no adapter of type {kind!r}{did_you_mean(kind, kinds)}")
    known = [
        field.name
        for field in dataclasses.fields(kinds[kind])
        if field.init and field.name not in _OURS
    ]
    values = {key: value for key, value in settings.items() if key != "type"}
    for key, value in values.items():
        if key not in known:
            raise ModelError(
                f"a {kind} adapter has no setting {key!r}{did_you_mean(key, known)}"
            )
        if "dropout" in key and value:
            raise ModelError(
                f"model.peft.{key} must be 0: rlcore trains without dropout, since engine and learner must agree"
            )
    try:
        config = kinds[kind](task_type="CAUSAL_LM", **values)
    except _NOT_FITTING as error:
        raise ModelError(
            f"the settings of model.peft do not make a {kind} adapter: {first_line(error)}"
        ) from None
    if config.is_prompt_learning:
        raise ModelError(
            f"a {kind} adapter adds tokens, not weights, so it cannot be published to an engine; use lora"
        )
    return config


def _refuse_unfit(model: PreTrainedModel, kind: str, odd: Sequence[str]) -> None:
    """Raise `ModelError` unless the adapter can be merged layer by layer, starts as the base, and leaves the head alone.

    odd: layers that no adapter can change.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    head, tied = (
        model.get_output_embeddings(),
        model.config.get_text_config().tie_word_embeddings,
    )
    adapted = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, BaseTunerLayer)
    }
    if not adapted:
        raise ModelError(
            f"a {kind} adapter changes no layer of {type(model).__name__} that could be merged"
        )
    if (
        isinstance(head, BaseTunerLayer)
        or (tied and _wrapped(model.get_input_embeddings()))
        or (tied and _wrapped(head))
    ):
        raise ModelError(
            "the adapter reaches the output head or embeddings tied to it, which rlcore computes from the base's weight: leave "
            "them out of model.peft.target_modules and modules_to_save"
        )
    for name, layer in adapted.items():
        if name in odd:
            raise ModelError(
                f"the adapter reaches {name}, whose weight the model uses otherwise than by calling the layer, so that it "
                "would change nothing: leave it out of model.peft.target_modules"
            )
        base, merged = _weight(layer.get_base_layer()), _weight(_merged(layer))
        if base is not None and not (merged - base).norm() <= 0.01 * base.norm():
            raise ModelError(
                f"the adapter does not start as the model itself (layer {name}): the base would not be the reference; choose "
                "an initialisation of model.peft that starts from zero and leaves the base as it is"
            )


def _state(module: nn.Module, prefix: str) -> Iterator[tuple[str, Tensor]]:
    module = _merged(module)
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None and name not in module._non_persistent_buffers_set:
            yield prefix + name, tensor
    for name, child in module.named_children():
        yield from _state(child, f"{prefix}{name}.")


@torch.no_grad()
def _merged(module: nn.Module) -> nn.Module:
    """The plain layer an adapted `module` amounts to, made on a copy; other modules are themselves."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    if isinstance(module, ModulesToSaveWrapper):
        return module.modules_to_save[module.active_adapters[0]]
    if isinstance(module, QuantisedLinear):
        return module.plain()
    if not isinstance(module, BaseTunerLayer):
        return module
    layer = copy.deepcopy(module)
    if isinstance(layer.base_layer, QuantisedLinear):
        _gather(layer)
        layer.base_layer = layer.base_layer.plain()
    # One wrapper inside another adapts two parameters of one layer, as those of fused experts.
    while isinstance(layer, BaseTunerLayer):
        layer.merge()
        layer = layer.base_layer
    return layer


def _gather(layer: nn.Module) -> None:
    """Make the parameters of a copied layer whole: FSDP2 shards those of an adapter, but not a weight in 4 bits. Collective."""
    for module in layer.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(full(parameter.detach()))


def _wrapped(module: nn.Module) -> bool:
    return _merged(module) is not module


def _weight(layer: nn.Module) -> Tensor | None:
    weight = getattr(layer, "weight", None)
    return None if weight is None else weight.detach().float()
