"""Bytes that a stage needs on a learner's device, on a server's device and on the host of a node."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import nn

from rlcore.learner.gradient import sums_over_tokens
from rlcore.learner.settings import OptimSettings
from rlcore.objective.term import Objective
from rlcore.plan.batch import Lengths, MicroBatch, micro_batch
from rlcore.plan.model import ShapedModel
from rlcore.plan.trace import activation_bytes, optimizer_states
from rlcore.recipe.schema import Recipe
from rlcore.rollout.vllm_config import (
    CPU_CACHE_CAP,
    GPU_CACHE_SHARE,
    cache_bytes,
    token_bytes,
)
from rlcore.weight_files import FILE_BYTES

STATE_BYTES = {"adamw": 8, "adamw8bit": 2, "muon": 4, "sgd": 4}
"""Of an optimiser in float32, a number of the model, about."""
CUDA_BYTES = 2 << 30
"""Context, graphs and kernels of torch and vLLM on a GPU. Assumed, not measured."""
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
ROLLOUT_TOKEN_BYTES = 150
"""Of a token in a batch of rollouts and samples: Python's ids, log-probabilities, masks and advantages."""

Side = Literal["learner", "engine", "host"]


@dataclass(frozen=True)
class Item:
    """One thing that takes memory."""

    side: Side
    what: str
    bytes: int
    phase: str = ""
    """"" for what is there throughout, else the phase in which it is there."""


@dataclass(frozen=True)
class Machine:
    """What the recipe is to run on."""

    gpus: int
    """Of a node; 0: one process a node, on its CPU."""
    nodes: int
    memory: int
    """Bytes of a GPU, or of a node without GPUs."""
    sharding: Literal["ddp", "fsdp"] = "ddp"
    serve: int = 0
    """GPUs, of all nodes together, that servers have instead of the learner."""

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        return "cuda" if self.gpus else "cpu"

    @property
    def ranks(self) -> int:
        """Processes of the learner."""
        return max(1, self.gpus) * self.nodes - self.serve

    @property
    def shards(self) -> int:
        return self.ranks if self.sharding == "fsdp" else 1


@dataclass(frozen=True)
class StageBytes:
    """What one stage needs on one kind of device."""

    stage: str
    where: Literal["learner", "server", "host"]
    items: tuple[Item, ...] = field(default_factory=tuple)

    @property
    def peak(self) -> int:
        """Bytes at once: what is there throughout, and the phase that takes most."""
        throughout = sum(item.bytes for item in self.items if not item.phase)
        return throughout + max(self.phases.values(), default=0)

    @property
    def phases(self) -> dict[str, int]:
        sums: dict[str, int] = {}
        for item in self.items:
            if item.phase:
                sums[item.phase] = sums.get(item.phase, 0) + item.bytes
        return sums

    def of(self, side: Side) -> int:
        """Bytes of one side in the phase that takes most, and throughout."""
        largest = max(self.phases, key=self.phases.get, default="")
        return sum(i.bytes for i in self.items if i.side == side and i.phase in ("", largest))


def tensor_parallel(recipe: Recipe) -> int:
    """Devices of one engine."""
    return int(recipe.engine.parameters.get("tensor_parallel", 1))


def host_memory() -> int:
    """Bytes of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def learner_items(
    recipe: Recipe,
    stage: Any,
    shaped: ShapedModel,
    machine: Machine,
    objective: Objective,
    lengths: Lengths,
) -> tuple[list[Item], MicroBatch]:
    """Of a stage that trains, on each device of the learner."""
    shards = machine.shards
    settings = _optim_settings(stage)
    batch = micro_batch(stage, lengths, ranks=machine.ranks)
    gradients = shaped.trained_bytes // shards
    activations = activation_bytes(
        recipe,
        shaped,
        batch.tree,
        one_pass=sums_over_tokens(objective),
        several=batch.count > 1,
        device=machine.device,
    )
    kind = settings.optimizer
    items = [
        _learner("weights" + _split(shards), shaped.weight_bytes // shards),
        _learner(f"{kind} states", optimizer_states(shaped, settings) // shards),
        _learner("gradients", gradients, "learn"),
        _learner(f"activations of {batch.tree.tokens:,} tokens", activations, "learn"),
        _learner("a tensor that is published", _largest_tensor(shaped), "publish"),
    ]
    if settings.ema is not None:
        items.append(_learner("average of the weights (ema)", 4 * shaped.trained // shards))
        items.append(_learner("weights beside the average", gradients, "checkpoint"))
    if objective.needs_reference and recipe.model.peft is None:
        items.append(_learner("reference model", shaped.weight_bytes // shards))
    if getattr(stage, "critic", None) is not None:
        items += _critic_items(stage.critic.optim.use, shaped, shards)
    items += _teacher_items(stage, shaped)
    items += _sharding_items(shaped, machine)
    return items, batch


def _optim_settings(stage: Any) -> OptimSettings:
    keys = stage.optim.settings()
    known = OptimSettings.__dataclass_fields__
    return OptimSettings(total_updates=1, **{k: v for k, v in keys.items() if k in known})


def _critic_items(optimizer: str, shaped: ShapedModel, shards: int) -> Iterable[Item]:
    """A copy of the decoder, trained as a whole in float32; its activations are below the policy's, and at another time."""
    named = shaped.model.get_decoder().named_parameters()
    numbers = sum(p.numel() for name, p in named if "lora_" not in name)
    yield _learner("weights of the critic", 4 * numbers // shards)
    yield _learner(
        f"{optimizer} states of the critic", STATE_BYTES[optimizer] * numbers // shards
    )
    yield _learner("gradients of the critic", 4 * numbers // shards, "learn")


def _teacher_items(stage: Any, shaped: ShapedModel) -> Iterable[Item]:
    """Whole models in each process, counted as large as the policy: no other is opened here."""
    section = getattr(stage, "teacher", None)
    if section is None or section.engine is not None:
        return
    models = len(section.models) * (1 if section.base is None else 2)
    yield _learner("teachers, each as large as the policy", models * shaped.weight_bytes)


def _sharding_items(shaped: ShapedModel, machine: Machine) -> Iterable[Item]:
    if machine.ranks > 1 and machine.sharding == "ddp":
        yield _learner("gradient buckets of DDP", shaped.trained_bytes)
    if machine.shards > 1:
        # the layer that computes, the next one, and the gradient of the one before; embeddings and head
        gathered = 3 * shaped.largest_layer + 2 * shaped.outer_bytes
        yield _learner("layers gathered by FSDP2", gathered, "learn")
        rest = shaped.weight_bytes - shaped.weight_bytes // machine.shards
        yield _learner("the whole model, before it is sharded", rest, "start")
    if machine.device == "cuda":
        yield _learner(
            "gradients in the update", shaped.trained_bytes // machine.shards, "update"
        )
        yield _learner("AdamW's intermediate", shaped.trained_bytes // machine.shards, "update")


def engine_items(
    recipe: Recipe, shaped: ShapedModel, machine: Machine, *, cache: int
) -> list[Item]:
    """Of the engine, on each device that has one (or a part of one). cache: bytes of its keys and values."""
    section = recipe.engine
    parallel = tensor_parallel(recipe)
    dtype = recipe.model.dtype
    element = getattr(torch, dtype).itemsize
    items = [
        _engine("weights" + _split(parallel), shaped.base_parameters * element // parallel)
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
    if is_vllm and machine.device == "cpu" and section.sync == "adapter":
        forward += PREFILL_TOKENS * _adapter_row(shaped) * element
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
    return machine.device == "cuda" and bool(recipe.engine.parameters.get("sleep"))


def _while_awake(items: list[Item]) -> Iterator[Item]:
    for item in items:
        for phase in [item.phase] if item.phase else ["generate", "publish"]:
            yield replace(item, phase=phase)


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


def host_items(
    recipe: Recipe, stage: Any, shaped: ShapedModel, machine: Machine, lengths: Lengths
) -> list[Item]:
    """Of a node's own memory, above what Python, torch and vLLM take."""
    tokens = lengths.prompt + lengths.completion
    if hasattr(stage, "groups_per_step"):
        rollouts = stage.groups_per_step * stage.group_size * (1 + stage.max_staleness)
    else:
        rollouts = getattr(stage, "batch_size", 0)
    share = rollouts * tokens * ROLLOUT_TOKEN_BYTES // machine.nodes
    items = [_host("rollouts of a batch", share)]
    if sleeps(recipe, machine):
        element = getattr(torch, recipe.model.dtype).itemsize
        asleep = machine.gpus * shaped.base_parameters * element // tensor_parallel(recipe)
        items.append(_host("weights of engines that sleep", asleep))
    if machine.device == "cuda":
        reading = machine.gpus * 4 * shaped.base_parameters
        items.append(_host("the model as each process reads it, in float32", reading, "start"))
        if machine.shards > 1:
            states = 12 * shaped.trained * machine.gpus // machine.shards
            piece = min(FILE_BYTES, 4 * shaped.parameters)
            items.append(_host("shards that each process writes", states, "checkpoint"))
            items.append(_host("a file of the model", piece, "checkpoint"))
    if recipe.run.checkpoint_async and hasattr(stage, "optim"):
        copied = _copied_bytes(stage, shaped, machine)
        items.append(_host("the copy of a checkpoint", copied))
    return items


def _copied_bytes(stage: Any, shaped: ShapedModel, machine: Machine) -> int:
    """The model on the first process, states of the optimiser in each one's shards, and the average as both."""
    settings = _optim_settings(stage)
    models, states = shaped.weight_bytes, optimizer_states(shaped, settings)
    if settings.ema is not None:
        models, states = 2 * models, states + 4 * shaped.trained
    here = max(1, machine.gpus) if machine.shards > 1 else 1
    return models + states * here // machine.shards


def tokens_in_flight(recipe: Recipe, machine: Machine, cache: int, token: int) -> int:
    """Tokens of completions and prompts that all engines hold at once at most."""
    section = recipe.engine
    parallel = tensor_parallel(recipe)
    engines = machine.serve // parallel if machine.serve else machine.ranks
    return engines * min(section.max_sequences * section.max_length, cache * parallel // token)


def _learner(what: str, size: int, phase: str = "") -> Item:
    return Item("learner", what, size, phase)


def _engine(what: str, size: int, phase: str = "") -> Item:
    return Item("engine", what, size, phase)


def _host(what: str, size: int, phase: str = "") -> Item:
    return Item("host", what, size, phase)


def _split(parts: int) -> str:
    return f", 1/{parts} of them" if parts > 1 else ""


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


def _largest_tensor(shaped: ShapedModel) -> int:
    return max(parameter.nbytes for parameter in shaped.module.parameters())


def _adapter_row(shaped: ShapedModel) -> int:
    """Numbers of the largest matrix of the adapter: vLLM's CPU kernels copy it for every token of a forward."""
    named = shaped.module.named_parameters()
    return max(parameter.numel() for name, parameter in named if "lora_" in name)


def _token_workspace(config: Any) -> int:
    """Numbers a token that vLLM holds inside a layer: both halves of the gated projection, their product, and the residual."""
    hidden = config.hidden_size
    return 3 * (getattr(config, "intermediate_size", None) or 4 * hidden) + 2 * hidden
