"""Bytes that a stage needs on a learner's device, on a server's device and on the host of a node."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from rlcore.learner.gradient import sums_over_tokens
from rlcore.learner.offload import PIECE
from rlcore.learner.settings import OptimSettings
from rlcore.objective.term import Objective
from rlcore.plan.batch import Lengths, MicroBatch, micro_batch
from rlcore.plan.model import ShapedModel
from rlcore.plan.trace import activation_bytes, optimizer_states
from rlcore.recipe.schema import Recipe
from rlcore.weight_files import FILE_BYTES

STATE_BYTES = {"adamw": 8, "adamw8bit": 2, "muon": 4, "sgd": 4}
"""Of an optimiser in float32, a number of the model, about."""
CUDA_BYTES = 2 << 30
"""Context, graphs and kernels of torch and vLLM on a GPU. Assumed, not measured."""
KEPT_OF_ACTIVATIONS = 0.5
"""Of the activations' bytes, what glibc keeps on a CPU in gaps between blocks. Measured, and no derivation: 0.2 to 0.6 (docs/scale.md)."""
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
    items = [
        _learner("weights" + share_in_words(shards), shaped.stored_bytes(shards)),
        _states_item(shaped, settings, machine),
        _learner("gradients", gradients, "learn"),
        _learner(f"activations of {batch.tree.tokens:,} tokens", activations, "learn"),
        _learner("a tensor that is published", _largest_tensor(shaped), "publish"),
    ]
    if machine.device == "cpu":
        kept = int(KEPT_OF_ACTIVATIONS * activations)
        items.append(_learner("freed blocks that the C library keeps", kept, "learn"))
    if settings.ema is not None:
        items.append(_learner("average of the weights (ema)", 4 * shaped.trained // shards))
        items.append(_learner("weights beside the average", gradients, "checkpoint"))
    if objective.needs_reference and recipe.model.peft is None:
        items.append(_learner("reference model", shaped.weight_bytes // shards))
    if getattr(stage, "critic", None) is not None:
        items += _critic_items(stage.critic.optim, shaped, machine)
    items += _teacher_items(stage, shaped)
    items += _sharding_items(shaped, machine)
    return items, batch


def _states_item(shaped: ShapedModel, settings: OptimSettings, machine: Machine) -> Item:
    """The optimiser's on a device: all throughout, or a piece in an update where they wait on the host."""
    states = optimizer_states(shaped, settings) // machine.shards
    if not _on_host(settings, machine):
        return _learner(f"{settings.optimizer} states", states)
    piece = min(states, states * PIECE * machine.shards // max(1, shaped.trained))
    return _learner(f"a piece of the {settings.optimizer} states", piece, "update")


def _on_host(optim: Any, machine: Machine) -> bool:
    """Whether an optimiser's states wait elsewhere than on the device."""
    return getattr(optim, "offload", False) and machine.device == "cuda"


def _optim_settings(stage: Any) -> OptimSettings:
    keys = stage.optim.settings()
    known = OptimSettings.__dataclass_fields__
    return OptimSettings(total_updates=1, **{k: v for k, v in keys.items() if k in known})


def _critic_items(optim: Any, shaped: ShapedModel, machine: Machine) -> Iterable[Item]:
    """A copy of the decoder, trained as a whole in float32; its activations are below the policy's, and at another time."""
    numbers = _critic_numbers(shaped) // machine.shards
    yield _learner("weights of the critic", 4 * numbers)
    if not _on_host(optim, machine):
        states = STATE_BYTES[optim.use] * numbers
        yield _learner(f"{optim.use} states of the critic", states)
    yield _learner("gradients of the critic", 4 * numbers, "learn")


def _critic_numbers(shaped: ShapedModel) -> int:
    named = shaped.model.get_decoder().named_parameters()
    return sum(p.numel() for name, p in named if "lora_" not in name)


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
    if machine.device == "cuda":
        yield _learner(
            "gradients in the update", shaped.trained_bytes // machine.shards, "update"
        )
        yield _learner("AdamW's intermediate", shaped.trained_bytes // machine.shards, "update")


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
    if machine.device == "cuda":
        reading = machine.gpus * 4 * shaped.base_parameters
        items.append(_host("the model as each process reads it, in float32", reading, "start"))
        if machine.shards > 1:
            states = 12 * shaped.trained * machine.gpus // machine.shards
            piece = min(FILE_BYTES, 4 * shaped.parameters)
            items.append(_host("shards that each process writes", states, "checkpoint"))
            items.append(_host("a file of the model", piece, "checkpoint"))
    items += _offloaded_items(stage, shaped, machine)
    if recipe.run.checkpoint_async and hasattr(stage, "optim"):
        copied = _copied_bytes(stage, shaped, machine)
        items.append(_host("the copy of a checkpoint", copied))
    return items


def _offloaded_items(stage: Any, shaped: ShapedModel, machine: Machine) -> Iterable[Item]:
    """States of optimisers that wait here for the devices of a node."""
    optim = getattr(stage, "optim", None)
    if _on_host(optim, machine):
        states = optimizer_states(shaped, _optim_settings(stage))
        here = states * machine.gpus // machine.shards
        yield _host(f"{optim.use} states", here)
    critic = getattr(stage, "critic", None)
    if critic is not None and _on_host(critic.optim, machine):
        states = STATE_BYTES[critic.optim.use] * _critic_numbers(shaped)
        here = states * machine.gpus // machine.shards
        yield _host(f"{critic.optim.use} states of the critic", here)


def _copied_bytes(stage: Any, shaped: ShapedModel, machine: Machine) -> int:
    """The model on the first process, states of the optimiser in each one's shards, and the average as both."""
    settings = _optim_settings(stage)
    models, states = shaped.weight_bytes, optimizer_states(shaped, settings)
    if settings.ema is not None:
        models, states = 2 * models, states + 4 * shaped.trained
    here = max(1, machine.gpus) if machine.shards > 1 else 1
    return models + states * here // machine.shards


def share_in_words(parts: int) -> str:
    """After the name of what a device holds a part of."""
    return f", 1/{parts} of them" if parts > 1 else ""


def _learner(what: str, size: int, phase: str = "") -> Item:
    return Item("learner", what, size, phase)


def _host(what: str, size: int, phase: str = "") -> Item:
    return Item("host", what, size, phase)


def _largest_tensor(shaped: ShapedModel) -> int:
    return max(parameter.nbytes for parameter in shaped.module.parameters())
