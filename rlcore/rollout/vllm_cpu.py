"""What vLLM's CPU back end computes with instead of the raw weights: kept apart, and renewed after every load.

At its start it packs each linear layer and each mixture of experts into the order that its kernels
read, in place of the raw weights. Weights that are loaded later would then be lost, or be read in
the wrong order. So packing works on copies here and the raw weights stay.
"""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import vllm.model_executor.layers.utils as layer_utils
import vllm.v1.sample.sampler as sampler_module
from torch import nn

from rlcore.bfloat16 import speed_up_bfloat16
from rlcore.rollout.inversion import draw_by_inversion
from rlcore.rollout.vllm_config import CPU_BLOCK

_EXPERTS = ("w13_weight", "w2_weight")
PROBES = 16
"""Random vectors that a packed layer is multiplied with. A handful of changed elements shows in one of them."""


def keep_raw_weights() -> None:
    """Change how vLLM packs weights in this process, before it builds a model. Doing it twice is harmless."""
    if hasattr(layer_utils, "rlcore_pack"):
        return
    layer_utils.rlcore_pack = layer_utils.dispatch_cpu_unquantized_gemm
    layer_utils.dispatch_cpu_unquantized_gemm = _pack_and_keep
    # The rank of each token, which nobody reads here, is the one compiled function of an eager
    # engine: it would need a C++ compiler and 2 to 17 s at the first token.
    ranks = getattr(sampler_module, "batched_count_greater_than", None)
    plain = getattr(ranks, "_torchdynamo_orig_callable", ranks)
    sampler_module.batched_count_greater_than = plain
    _keep_raw_experts()
    _route_by_corrected_scores()
    _rotate_each_head()
    _draw_one_number_a_token()
    _multiply_by_each_adapter_once()


def pack_again(model: nn.Module) -> None:
    """Weights of `model` have changed: renew what was derived from them."""
    for module in model.modules():
        if hasattr(module, "cpu_linear"):
            layer_utils.rlcore_pack(module, remove_weight=False)
    for layer, experts in _mixtures(model):
        experts.process_weights_after_loading(layer)


def stale_copies(model: nn.Module) -> list[str]:
    """Names of the layers whose packed copy is not what packing their weight again gives.

    Packed linear layers cannot be read, so both copies are multiplied with the same random vectors: equal bits or stale.
    """
    stale = []
    for name, module in model.named_modules():
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
    for layer, experts in _mixtures(model):
        held = experts.rlcore_packed
        experts.process_weights_after_loading(layer)
        renewed, experts.rlcore_packed = experts.rlcore_packed, held
        if not all(map(torch.equal, held, renewed)):
            stale.append(getattr(layer, "layer_name", type(layer).__name__))
    return stale


def _pack_and_keep(layer: nn.Module, remove_weight: bool) -> None:
    if layer.weight.dtype == torch.bfloat16:
        speed_up_bfloat16()
    layer_utils.rlcore_pack(layer, remove_weight=False)


def prepare_start(max_length: int) -> dict[str, Any]:
    """Before an engine starts on a CPU: the arguments that it needs there."""
    _pass_over_invented_attributes()
    # A prompt read in two pieces makes vLLM wind back its request's generator, which generators on CPU cannot do.
    return {
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(8192, max_length),
        "block_size": CPU_BLOCK,
    }


def _pass_over_invented_attributes() -> None:
    """Let vLLM's search for its kernels pass over objects whose `__dict__` is no dictionary.

    At its start it looks through all modules, and fails on llvmlite, which numba loads (bm25s does): its library object
    invents whatever attribute it is asked for, also `__dict__`.
    """
    try:
        dispatcher = importlib.import_module("vllm.triton_utils.dispatcher")
    except ImportError:  # a version without that search
        return

    def dictionary(value: Any) -> Mapping[str, Any]:
        held = value.__dict__
        return held if isinstance(held, Mapping) else {}

    setattr(dispatcher, "vars", dictionary)  # noqa: B010


def _keep_raw_experts() -> None:
    try:
        from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts
    except ImportError:  # another version of vLLM; the canary tells if it packs in place
        return
    pack = CPUUnquantizedExperts.process_weights_after_loading
    compute = CPUUnquantizedExperts.apply

    def process_weights_after_loading(self: Any, layer: nn.Module) -> None:
        packed = copy.copy(layer)
        packed._parameters = dict(layer._parameters)
        for name in _EXPERTS:
            weight = getattr(layer, name).detach().clone()
            packed._parameters[name] = nn.Parameter(weight, requires_grad=False)
        pack(self, packed)
        self.rlcore_packed = [getattr(packed, name).data for name in _EXPERTS]

    def apply(
        self: Any,
        output: torch.Tensor,
        hidden_states: torch.Tensor,
        w1: torch.Tensor,
        w2: torch.Tensor,
        *arguments: Any,
        **keywords: Any,
    ) -> None:
        w1, w2 = self.rlcore_packed
        compute(self, output, hidden_states, w1, w2, *arguments, **keywords)

    CPUUnquantizedExperts.process_weights_after_loading = process_weights_after_loading
    CPUUnquantizedExperts.apply = apply


def _route_by_corrected_scores() -> None:
    """Let the router on a CPU add the bias that corrects the scores of experts, and take sigmoids.

    It knows both only where experts form groups, and else leaves the bias out. One group of all
    experts is no group.
    """
    try:
        from vllm.model_executor.layers.fused_moe.router import cpu_router
    except ImportError:  # another version of vLLM; the canary tells if its routers differ
        return
    route = cpu_router.CPURouter._compute_routing

    def compute_routing(
        self: Any,
        hidden_states: torch.Tensor,
        router_logits: torch.Tensor,
        indices_type: torch.dtype | None,
        **keywords: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        is_plain = self.scoring_func == "softmax" and self.e_score_correction_bias is None
        is_known = self.use_grouped_topk or self.scoring_func == "sqrtsoftplus"
        if is_plain or is_known or self.custom_routing_function is not None:
            return route(self, hidden_states, router_logits, indices_type, **keywords)
        return cpu_router._grouped_topk(
            gating_output=router_logits,
            topk=self.top_k,
            renormalize=self.renormalize,
            num_expert_group=1,
            topk_group=1,
            scoring_func=self.scoring_func,
            routed_scaling_factor=self.routed_scaling_factor,
            e_score_correction_bias=self.e_score_correction_bias,
        )

    cpu_router.CPURouter._compute_routing = compute_routing


def _rotate_each_head() -> None:
    """Let rotary embeddings on a CPU read [tokens, heads, head size] as multi-head latent attention passes it.

    The kernel takes the stride between heads for the one between tokens, and reads a slice of a
    larger tensor as if it were a whole one. Python's own form of it does neither.
    """
    from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding

    rotate = RotaryEmbedding.forward_cpu

    def forward_cpu(
        self: Any,
        positions: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        is_flat = query.dim() == positions.dim() + 1
        return (rotate if is_flat else RotaryEmbedding.forward_native)(
            self, positions, query, key
        )

    RotaryEmbedding.forward_cpu = forward_cpu


def _draw_one_number_a_token() -> None:
    """Let a request with a seed cost one random number a token.

    Before version 0.32, which has a kernel for it, vLLM draws one for every token of the vocabulary, one request after another.
    That took longer than the model itself (135M parameters, 64 requests: 0.15 of 0.33 s a step).
    """
    try:
        from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler, apply_top_k_top_p
    except ImportError:  # another version of vLLM, which then only takes longer
        return
    if "fused_gumbel_argmax" in inspect.getsource(TopKTopPSampler.forward_cpu):
        return

    def forward_cpu(
        self: Any,
        logits: torch.Tensor,
        generators: dict[int, torch.Generator],
        k: torch.Tensor | None,
        p: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        logits = apply_top_k_top_p(logits, k, p)
        logprobs = logits.log_softmax(dim=-1, dtype=torch.float32)
        uniforms = torch.rand(len(logits), dtype=torch.float64)
        for row, generator in generators.items():
            uniforms[row] = torch.rand((), dtype=torch.float64, generator=generator)
        wanted = {"processed_logprobs": logprobs, "processed_logits": logits}
        tokens = draw_by_inversion(logprobs.exp(), uniforms)
        return tokens, wanted.get(self.logprobs_mode)

    TopKTopPSampler.forward_cpu = forward_cpu


def _multiply_by_each_adapter_once() -> None:
    """Let tokens share the matrices of their adapter.

    vLLM copies both matrices of a layer for every token and multiplies each copy with one vector. With that, 64 completions of a
    model of 135M parameters with an adapter of rank 16 took 50 s to generate in place of 23.
    """
    try:
        from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
    except ImportError:  # another version of vLLM, which then only takes longer
        return

    def add_lora_linear(
        self: Any,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: Sequence[torch.Tensor],
        lora_b_stacked: Sequence[torch.Tensor],
        scale: float,
        output_slices: Sequence[int],
        *,
        add_inputs: bool = True,
        **_: Any,
    ) -> None:
        rows, inputs = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        if not add_inputs:
            rows.zero_()
        parts = rows.split(list(output_slices), dim=-1)
        for slot in range(len(lora_a_stacked[0])):  # stacked: [slots, 1, outputs, inputs]
            of_slot = self.token_lora_indices == slot  # -1: a token of the base alone
            chosen = slice(None) if of_slot.all() else of_slot
            given = inputs[chosen].float()
            for part, a, b in zip(parts, lora_a_stacked, lora_b_stacked, strict=True):
                # as vLLM does: the inner product in float32, the outer one in the model's arithmetic
                inner = given @ a[slot, 0].float().T * scale
                part[chosen] += inner.to(y.dtype) @ b[slot, 0].to(y.dtype).T

    PunicaWrapperCPU.add_lora_linear = add_lora_linear


def _mixtures(model: nn.Module) -> Iterator[tuple[nn.Module, Any]]:
    """Each layer of experts with the object that computes it."""
    for module in model.modules():
        kernel = getattr(getattr(module, "quant_method", None), "moe_kernel", None)
        experts = getattr(kernel, "fused_experts", None)
        if hasattr(experts, "rlcore_packed"):
            yield module, experts
