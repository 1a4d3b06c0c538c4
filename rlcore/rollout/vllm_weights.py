"""Weights inside vLLM's workers: loading them into a live engine, and fingerprinting what is held.

vLLM imports this module in every worker before the model is built (`worker_extension_cls`), in this process or another.

On CPU each linear layer multiplies with a packed copy of its weight and vLLM then throws the raw weight away, which makes
later loading impossible. So packing is told to keep the raw weight; after a load every packed layer is packed again.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import vllm.model_executor.layers.utils as layer_utils
import vllm.v1.sample.sampler as sampler_module
from vllm.platforms import current_platform

from rlcore.rollout.publish import Distinct, tensor_digest

PROBES = 16
"""Random vectors that a packed copy is multiplied with. A handful of changed elements shows in one of them."""

if not hasattr(layer_utils, "rlcore_pack"):
    layer_utils.rlcore_pack = getattr(layer_utils, "dispatch_cpu_unquantized_gemm", None)


def _pack_and_keep(layer: torch.nn.Module, remove_weight: bool) -> None:
    layer_utils.rlcore_pack(layer, remove_weight=False)


if current_platform.is_cpu():
    layer_utils.dispatch_cpu_unquantized_gemm = _pack_and_keep
    # The rank of each token, which nobody reads here, is the one compiled function of an eager engine: it would need a C++
    # compiler and 2 to 17 s at the first token.
    ranks = getattr(sampler_module, "batched_count_greater_than", None)
    sampler_module.batched_count_greater_than = getattr(
        ranks, "_torchdynamo_orig_callable", ranks
    )


class WeightExtension:
    """Methods that vLLM adds to its worker class; called by name through `collective_rpc`."""

    @torch.no_grad()
    def rlcore_load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Copy weights (checkpoint names, unfused) into the model; fusing and sharding are vLLM's."""
        self.get_model().load_weights(weights)

    @torch.no_grad()
    def rlcore_loaded(self) -> None:
        """All weights have been copied: renew what the back end derived from them."""
        for module in self.get_model().modules():
            if hasattr(module, "cpu_linear"):
                layer_utils.rlcore_pack(module, remove_weight=False)

    @torch.no_grad()
    def rlcore_stale_copies(self) -> list[str]:
        """Names of the layers whose packed copy is not what packing their weight again gives.

        Packed copies cannot be read, so both are multiplied with the same random vectors: equal bits or stale.
        """
        stale = []
        for name, module in self.get_model().named_modules():
            held = getattr(module, "cpu_linear", None)
            if held is None or module.weight.ndim != 2 or module.weight.is_meta:
                continue
            weight = module.weight
            generator = torch.Generator().manual_seed(len(name))
            probe = torch.randn(PROBES, weight.shape[1], generator=generator).to(weight.dtype)
            layer_utils.rlcore_pack(module, remove_weight=False)
            renewed, module.cpu_linear = module.cpu_linear, held
            if not torch.equal(held(probe, weight, None), renewed(probe, weight, None)):
                stale.append(name)
        return stale

    def rlcore_digests(self, dtype: str) -> list[tuple[str, int, int]]:
        """Name and digest of each distinct raw parameter held by this worker, the tensors of an adapter slot among them."""
        is_new = Distinct()
        named = [(name, p) for name, p in self.get_model().named_parameters() if is_new(p)]
        for name, module in self.get_model().named_modules():
            for part in ("lora_a_stacked", "lora_b_stacked"):
                named += [(f"{name}.{part}", slot) for slot in getattr(module, part, ())]
        return [(name, *tensor_digest(p, dtype)) for name, p in named]
