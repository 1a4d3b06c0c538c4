"""Weights inside vLLM's workers: loading them into a live engine, and fingerprinting what is held.

vLLM imports this module in every worker before the model is built (`worker_extension_cls`), in this process or another.

On CPU `rlcore.rollout.vllm_cpu` keeps the raw weights beside the packed ones.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import vllm.model_executor.models.transformers.base as transformers_backend
from safetensors import safe_open
from torch import nn
from vllm.config import get_current_vllm_config_or_none
from vllm.platforms import current_platform

from rlcore.rollout.broadcast_group import BroadcastGroup, Meeting
from rlcore.rollout.file_host import fetch
from rlcore.rollout.publish import Distinct, tensor_digest
from rlcore.rollout.vllm_cpu import keep_raw_weights, pack_again, stale_copies

if current_platform.is_cpu():
    keep_raw_weights()


_DERIVED = ("W_UV", "W_UK_T")
"""Parameters of multi-head latent attention that are views of its `kv_b_proj`, for decoding."""


def _widen(model: nn.Module) -> None:
    """Hold all parameters in float32: vLLM makes some, as those of xIELU, in bfloat16 whatever the model's type."""
    for parameter in model.parameters():
        if parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.float()


def _decorate_for_vllm_alone(
    self: Any, cls: type[nn.Module], *arguments: Any, **keywords: Any
) -> None:
    """Make a class of transformers compilable by vLLM, and leave it as it is for everybody else.

    vLLM's backend for architectures that it has no code of its own for changes the class of
    transformers itself, which the learner in this process uses as well.
    """
    if "rlcore_plain_init" in vars(cls):
        return
    plain_init = cls.__init__
    _DECORATE(self, cls, *arguments, **keywords)
    vllm_init = cls.__init__
    vllm_call = cls.__call__

    def __init__(self: nn.Module, *inputs: Any, **keywords: Any) -> None:
        init = plain_init if get_current_vllm_config_or_none() is None else vllm_init
        init(self, *inputs, **keywords)

    def __call__(self: nn.Module, *inputs: Any, **keywords: Any) -> Any:
        call = vllm_call if hasattr(self, "vllm_config") else nn.Module.__call__
        return call(self, *inputs, **keywords)

    cls.rlcore_plain_init = plain_init
    cls.__init__ = __init__
    cls.__call__ = __call__


# absent where vLLM decorates its own class only
_DECORATE = getattr(transformers_backend.Base, "_decorate_cls_for_torch_compile", None)
if _DECORATE is not None and _DECORATE.__module__ != __name__:
    transformers_backend.Base._decorate_cls_for_torch_compile = _decorate_for_vllm_alone


class WeightExtension:
    """Methods that vLLM adds to its worker class; called by name through `collective_rpc`."""

    @torch.no_grad()
    def rlcore_load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Copy weights (checkpoint names, unfused) into the model; fusing and sharding are vLLM's."""
        if current_platform.is_cpu() and self.model_config.dtype == torch.float32:
            _widen(self.get_model())
        self.get_model().load_weights(weights)

    def rlcore_load_file(self, place: str) -> None:
        """`rlcore_load` of a file of weights: a path that this machine can read, or an address."""
        if place.startswith("http://"):
            self.rlcore_load(safetensors.torch.load(fetch(place)).items())
            return
        with safe_open(place, "pt") as file:
            self.rlcore_load((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118

    def rlcore_join(self, meeting: str) -> None:
        """Become a member of the group in which the learner's first process gives weights, in place of one before."""
        self.rlcore_group = None
        self.rlcore_group = BroadcastGroup.join(Meeting.from_json(meeting), self.rank)

    def rlcore_take(self, contents: str, dtype: str, deadline_s: str) -> None:
        """`rlcore_load` of what the learner's first process gives now."""
        group: BroadcastGroup = self.rlcore_group
        weights = group.take(contents, getattr(torch, dtype), self.device, float(deadline_s))
        self.rlcore_load(weights)

    def rlcore_fetch_adapter(self, *addresses: str) -> str:
        """Fetch the files of an adapter into a folder of this machine, in place of those of the adapter before."""
        folder = tempfile.TemporaryDirectory(prefix="rlcore_adapter_")
        for address in addresses:
            name = address.rpartition("/")[2]
            (Path(folder.name) / name).write_bytes(fetch(address))
        self.rlcore_adapter = folder  # the one before goes with its object
        return folder.name

    def rlcore_dtype(self) -> str:
        """What the model computes in, such as "float32"."""
        return str(self.model_config.dtype).removeprefix("torch.")

    def rlcore_set_label(self, label: str) -> None:
        """Note what the weights now held are called."""
        self.rlcore_label = label

    def rlcore_get_label(self) -> str:
        """What was noted; "" while a server has the weights that it was started with."""
        return getattr(self, "rlcore_label", "")

    @torch.no_grad()
    def rlcore_loaded(self) -> None:
        """All weights have been copied: renew what the back end derived from them."""
        if current_platform.is_cpu():
            pack_again(self.get_model())

    @torch.no_grad()
    def rlcore_stale_copies(self) -> list[str]:
        """Names of the layers that compute with a copy of other weights than those they hold."""
        return stale_copies(self.get_model()) if current_platform.is_cpu() else []

    def rlcore_digests(self, dtype: str) -> list[tuple[str, int, int]]:
        """Name and digest of each distinct raw parameter held by this worker, the tensors of an adapter slot among them."""
        is_new = Distinct()
        named = []
        for name, parameter in self.get_model().named_parameters():
            if name.rpartition(".")[2] not in _DERIVED and is_new(parameter):
                named.append((name, parameter))
        for name, module in self.get_model().named_modules():
            for part in ("lora_a_stacked", "lora_b_stacked"):
                named += [(f"{name}.{part}", slot) for slot in getattr(module, part, ())]
        return [(name, *tensor_digest(p, dtype)) for name, p in named]
