"""Bytes of an engine, on the devices that it has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from rlcore.plan.memory import CUDA_BYTES, Item, Machine, share_in_words
from rlcore.plan.model import ShapedModel
from rlcore.recipe.schema import Recipe
from rlcore.rollout.vllm_config import (
    CPU_CACHE_CAP,
    GPU_CACHE_SHARE,
    cache_bytes,
    token_bytes,
)

LIBRARY_BYTES = 70 << 20
"""What a run on a CPU takes beside its tensors: the excess of the recipe `tiny` of `rlcore bench memory`, with 64 sequences."""
KERNEL_BYTES = 600 << 10
"""A kernel that oneDNN compiles for one number of sequences decoded together; measured, 0.5 to 0.9 MiB."""
KERNELS_KEPT = (64, 224)
"""Kernels in `LIBRARY_BYTES`, and most that are kept: 64 by oneDNN, and 32 by vLLM for each of some 5 shapes of a layer."""
PREFILL_TOKENS = 8192
"""Tokens of prompts that vLLM reads in one forward (`max_num_batched_tokens`)."""
SCORED_TOKENS = 512
"""Tokens of a canary text whose log-probabilities an engine computes at once."""
LOGIT_COPIES = 4
"""Copies of the logits that sampling holds: as they are, processed, probabilities, log-probabilities."""


def tensor_parallel(recipe: Recipe) -> int:
    """Devices of one engine."""
    return int(recipe.engine.parameters.get("tensor_parallel", 1))


def engine_items(
    recipe: Recipe, shaped: ShapedModel, machine: Machine, *, cache: int
) -> list[Item]:
    """Of the engine, on each device that has one (or a part of one). cache: bytes of its keys and values."""
    section = recipe.engine
    parallel = tensor_parallel(recipe)
    dtype = recipe.model.dtype
    element = getattr(torch, dtype).itemsize
    items = [
        _engine(
            "weights" + share_in_words(parallel), shaped.base_parameters * element // parallel
        )
    ]
    is_vllm = section.use.startswith("vllm")
    if is_vllm and machine.device == "cpu":
        items.append(_engine("weights as the CPU kernels read them", _packed(shaped) * element))
    rows = section.max_sequences
    longest = min(section.max_length, _positions(shaped))
    phase = "" if is_vllm else "generate"
    items.append(_engine("keys and values", cache, phase))
    logits = rows * shaped.config.vocab_size * 4 * LOGIT_COPIES
    forward = PREFILL_TOKENS * _token_workspace(shaped.config) * element // parallel
    if is_vllm and machine.device == "cpu":
        counted, most = KERNELS_KEPT
        kernels = KERNEL_BYTES * max(0, min(rows, most) - counted)
        items.append(_engine("libraries and kernels they compile", LIBRARY_BYTES + kernels))
    scored = min(SCORED_TOKENS, longest) * shaped.config.vocab_size * 4 * LOGIT_COPIES
    items.append(_engine("workspace", max(forward, logits), "generate"))
    items.append(_engine("log-probabilities of the canary", scored, "publish"))
    return list(_while_awake(items)) if sleeps(recipe, machine) else items


def sleeps(recipe: Recipe, machine: Machine) -> bool:
    """Whether the engine leaves its memory to the learner while the learner works."""
    return machine.device == "cuda" and recipe.engine.sleeps


def _while_awake(items: list[Item]) -> Iterator[Item]:
    for item in items:
        for phase in [item.phase] if item.phase else ["generate", "publish"]:
            yield replace(item, phase=phase)


def sleeping_items(recipe: Recipe, shaped: ShapedModel, machine: Machine) -> list[Item]:
    """On the host of a node: the weights of its engines while they sleep."""
    if not sleeps(recipe, machine):
        return []
    element = getattr(torch, recipe.model.dtype).itemsize
    engines = machine.gpus // tensor_parallel(recipe)
    weights = engines * shaped.base_parameters * element
    return [Item("host", "weights of engines that sleep", weights)]


def key_value_bytes(recipe: Recipe, shaped: ShapedModel, machine: Machine, *, held: int) -> int:
    """Of an engine's keys and values on one device. held: bytes of the device that others hold when the engine starts."""
    section = recipe.engine
    dtype = recipe.model.dtype
    longest = min(section.max_length, _positions(shaped))
    rows = section.max_sequences
    if not section.use.startswith("vllm"):
        return token_bytes(shaped.config, dtype) * longest * rows
    cap = CPU_CACHE_CAP
    if machine.device == "cuda":
        cap = int(GPU_CACHE_SHARE * max(0, machine.memory - CUDA_BYTES - held))
    memory_gb = section.parameters.get("memory_gb")
    parallel = tensor_parallel(recipe)
    return cache_bytes(shaped.config, dtype, longest, rows, memory_gb, parallel, cap=cap)


def tokens_in_flight(recipe: Recipe, machine: Machine, cache: int, token: int) -> int:
    """Tokens of completions and prompts that all engines hold at once at most."""
    section = recipe.engine
    parallel = tensor_parallel(recipe)
    engines = machine.serve // parallel if machine.serve else machine.ranks
    return engines * min(section.max_sequences * section.max_length, cache * parallel // token)


def _engine(what: str, size: int, phase: str = "") -> Item:
    return Item("engine", what, size, phase)


def _packed(shaped: ShapedModel) -> int:
    """Numbers in linear layers and the head: vLLM's CPU back end packs each of these and rlcore keeps the raw one too."""
    linear = [
        module.weight.numel()
        for name, module in shaped.model.named_modules()
        if isinstance(module, nn.Linear) and "lora_" not in name
    ]
    experts = [p.numel() for p in shaped.model.parameters() if p.ndim == 3]
    return sum(linear) + sum(experts)


def _positions(shaped: ShapedModel) -> int:
    return getattr(shaped.config, "max_position_embeddings", None) or 1 << 30


def _token_workspace(config: Any) -> int:
    """Numbers a token that vLLM holds inside a layer: both halves of the gated projection, their product, and the residual."""
    hidden = config.hidden_size
    return 3 * (getattr(config, "intermediate_size", None) or 4 * hidden) + 2 * hidden
