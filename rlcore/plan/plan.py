"""From a recipe and a machine to the bytes of every stage, and which key to change where they do not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from rlcore.errors import RecipeError
from rlcore.objective.presets import objective as preset
from rlcore.objective.term import Objective
from rlcore.plan.batch import Lengths, MicroBatch, stage_lengths
from rlcore.plan.engine_memory import (
    engine_items,
    key_value_bytes,
    sleeping_items,
    tensor_parallel,
    tokens_in_flight,
)
from rlcore.plan.memory import (
    CUDA_BYTES,
    Item,
    Machine,
    StageBytes,
    host_items,
    learner_items,
)
from rlcore.plan.model import ShapedModel, shaped_model
from rlcore.recipe.build_learner import (
    build_objective,
    encoder_without_model,
    starting_point,
)
from rlcore.recipe.schema import Recipe
from rlcore.rollout.prompt import PromptEncoder
from rlcore.rollout.vllm_config import token_bytes

LEAST_SEQUENCES = 8
"""Sequences at a time below which no engine is advised to go."""
_DEEP = ("model.dtype", "model.peft", "model.quantize")
"""Keys whose change makes another run of it, where the others change speed and memory only."""
LEAST_TOKENS = 512
"""Tokens of a micro-batch below which none is advised."""


@dataclass(frozen=True)
class Plan:
    """What a recipe needs on a machine."""

    recipe: Recipe
    machine: Machine
    parameters: int
    trained: int
    stages: tuple[StageBytes, ...]
    """Of each stage what a learner's device needs, then a server's, then a node's own memory, where there are such."""
    lengths: dict[str, Lengths]
    """Of the stages with texts."""
    batches: dict[str, MicroBatch]
    """Of the stages that train."""
    in_flight: int
    """Tokens that all engines hold at once at most; 0 without an engine."""
    unplanned: tuple[str, ...]
    """Stages whose own memory is not known here."""

    @property
    def devices(self) -> list[StageBytes]:
        return [stage for stage in self.stages if stage.where != "host"]

    @property
    def peak(self) -> int:
        """Bytes of the device that needs most."""
        return max((stage.peak for stage in self.devices), default=0)

    @property
    def fits(self) -> bool:
        return self.peak <= self.machine.memory


def plan(recipe: Recipe, machine: Machine, run: Path | None = None) -> Plan:
    """run: a run folder, whose metrics say how long completions are. Raises `RecipeError` or `ModelError`."""
    check_machine(recipe, machine)
    shaped = shaped_model(recipe)
    encoder = cache(lambda: _encoder(recipe))
    builder = _Builder(recipe, machine, shaped, encoder, run)
    for stage in recipe.stages:
        builder.add(stage)
    return builder.plan()


def check_machine(recipe: Recipe, machine: Machine) -> None:
    """Raise `RecipeError` for a division of devices that cannot be."""
    parallel = tensor_parallel(recipe)
    if parallel < 1:
        raise RecipeError(f"engine.tensor_parallel is {parallel}: it is a whole number from 1")
    if machine.serve % parallel:
        raise RecipeError(
            f"--serve {machine.serve} is no multiple of engine.tensor_parallel ({parallel}): each server takes {parallel} GPUs"
        )
    if machine.serve and machine.ranks < 1:
        raise RecipeError(
            f"--serve {machine.serve} leaves no GPU of {machine.gpus * machine.nodes} to the learner"
        )


class _Builder:
    def __init__(
        self,
        recipe: Recipe,
        machine: Machine,
        shaped: ShapedModel,
        encoder: Callable[[], PromptEncoder],
        run: Path | None,
    ) -> None:
        self._recipe = recipe
        self._machine = machine
        self._shaped = shaped
        self._encoder = encoder
        self._run = run
        self._stages: list[StageBytes] = []
        self._lengths: dict[str, Lengths] = {}
        self._batches: dict[str, MicroBatch] = {}
        self._unplanned: list[str] = []
        self._cache = 0
        """Bytes of keys and values: fixed when the engine starts, in the first stage that generates."""

    def add(self, stage: Any) -> None:
        recipe, machine, shaped = self._recipe, self._machine, self._shaped
        generates = hasattr(stage, "sampling")
        lengths = stage_lengths(recipe, stage, self._encoder, self._run)
        objective = stage_objective(stage)
        if objective is not None:
            items, batch = learner_items(recipe, stage, shaped, machine, objective, lengths)
            self._batches[stage.label] = batch
        else:
            items = [Item("learner", "weights", shaped.stored_bytes(machine.shards))]
            if stage.trains:
                self._unplanned.append(stage.label)
        if generates or objective is not None:
            self._lengths[stage.label] = lengths
        if generates and not self._cache:
            held = sum(item.bytes for item in items if not item.phase)
            held = 0 if machine.serve else held
            self._cache = key_value_bytes(recipe, shaped, machine, held=held)
        host = host_items(recipe, stage, shaped, machine, lengths)
        engine = []
        if self._cache:
            engine = engine_items(recipe, shaped, machine, cache=self._cache)
            host += sleeping_items(recipe, shaped, machine)
        if not generates:
            engine = [item for item in engine if not item.phase]
        self._put(stage.label, items, engine, host)

    def _put(
        self, label: str, learner: list[Item], engine: list[Item], host: list[Item]
    ) -> None:
        cuda = self._machine.device == "cuda"
        own = (
            [Item("engine", "CUDA context, graphs, kernels (assumed)", CUDA_BYTES)]
            if cuda
            else []
        )
        on_server = [*engine, *own] if self._machine.serve and engine else []
        beside = [] if self._machine.serve else engine
        on_host = [] if not cuda else host
        on_device = host if not cuda else own
        self._stages.append(StageBytes(label, "learner", (*learner, *beside, *on_device)))
        if on_server:
            self._stages.append(StageBytes(label, "server", tuple(on_server)))
        if on_host:
            self._stages.append(StageBytes(label, "host", tuple(on_host)))

    def plan(self) -> Plan:
        recipe, machine, shaped = self._recipe, self._machine, self._shaped
        token = token_bytes(shaped.config, recipe.model.dtype)
        in_flight = tokens_in_flight(recipe, machine, self._cache, token) if self._cache else 0
        return Plan(
            recipe=recipe,
            machine=machine,
            parameters=shaped.parameters,
            trained=shaped.trained,
            stages=tuple(self._stages),
            lengths=self._lengths,
            batches=self._batches,
            in_flight=in_flight,
            unplanned=tuple(self._unplanned),
        )


def stage_objective(stage: Any) -> Objective | None:
    """What a stage trains with rlcore's learner; None for stages that do not."""
    if not hasattr(getattr(stage, "optim", None), "micro_batch_tokens"):
        return None
    if not hasattr(stage, "objective"):
        return preset("sft")
    longest = stage.sampling.max_tokens if hasattr(stage, "sampling") else 1
    return build_objective(stage.objective, max_tokens=longest)


@dataclass(frozen=True)
class Advice:
    """A change after which the recipe fits, or with the ones before it."""

    change: str
    """As it is typed: `engine.max_sequences=64`, or an option of the command."""
    peak: int
    fits: bool


def advise(before: Plan, run: Path | None = None) -> list[Advice]:
    """Changes of a recipe that does not fit: each that is enough alone, else those that are together, in order.

    The last one says whether they are.
    """
    if before.fits:
        return []
    alone = [_tried(change, before, run) for change in _changes(before)]
    enough = [advice for advice, _ in alone if advice.fits]
    if enough:
        return enough
    together: list[Advice] = []
    tried: set[str] = set()
    now = before
    while not now.fits:
        left = [change for change in _changes(now) if _key(change) not in tried]
        if not left:
            break
        tried.add(_key(left[0]))
        advice, after = _tried(left[0], now, run)
        if advice.peak < now.peak:
            together.append(advice)
            now = after
    return together


_Change = tuple[str, Recipe, Machine]


def _key(change: _Change) -> str:
    return change[0].partition("=")[0]


def _tried(change: _Change, before: Plan, run: Path | None) -> tuple[Advice, Plan]:
    name, recipe, machine = change
    after = plan(recipe, machine, run)
    return Advice(name, after.peak, after.fits), after


def _changes(now: Plan) -> list[_Change]:
    """What could be changed, what costs least first."""
    recipe, machine = now.recipe, now.machine
    changes: list[_Change] = []
    worst = max(now.devices, key=lambda stage: stage.peak)
    index = [stage.label for stage in recipe.stages].index(worst.stage)
    optim = getattr(recipe.stages[index], "optim", None)
    keys = list(_keys(now, index, optim))
    gentle = [key for key in keys if key[0] not in _DEEP]
    for key, value in gentle:
        changes.append((f"{key}={value}", changed(recipe, key, value), machine))
    if machine.ranks > 1 and machine.sharding == "ddp":
        changes.append(("--sharding fsdp", recipe, replace(machine, sharding="fsdp")))
    for key, value in keys:
        if key in _DEEP:
            changes.append((f"{key}={value}", changed(recipe, key, value), machine))
    return changes


def _keys(now: Plan, index: int, optim: Any) -> Iterator[tuple[str, Any]]:
    model, engine = now.recipe.model, now.recipe.engine
    limit = getattr(optim, "micro_batch_tokens", 0)
    batch = now.batches.get(now.recipe.stages[index].label)
    if batch is not None and min(limit, batch.tree.tokens) > LEAST_TOKENS:
        target = LEAST_TOKENS * max(1, min(limit, batch.tree.tokens) // LEAST_TOKENS // 4)
        yield f"stages.{index}.optim.micro_batch_tokens", target
    if engine.max_sequences > LEAST_SEQUENCES and now.in_flight:
        yield "engine.max_sequences", max(LEAST_SEQUENCES, engine.max_sequences // 4)
    if engine.use == "vllm_local" and not engine.sleeps and now.machine.device == "cuda":
        yield "engine.sleep", True
    if not model.gradient_checkpointing:
        yield "model.gradient_checkpointing", True
    if model.dtype == "float32":
        yield "model.dtype", "bfloat16"
    movable = getattr(optim, "use", "adamw8bit") != "adamw8bit"
    if movable and hasattr(optim, "offload") and now.machine.device == "cuda":
        yield f"stages.{index}.optim.offload", True
    if model.peft is None:
        yield "model.peft", {"type": "lora", "r": 16, "target_modules": "all-linear"}
    elif model.quantize is None:
        yield "model.quantize", "nf4"


def changed(recipe: Recipe, key: str, value: Any) -> Recipe:
    """The recipe with one key at another value. key: with dots, as in an override."""
    keys = recipe.model_dump(mode="json")
    inner: Any = keys
    *path, last = key.split(".")
    for name in path:
        inner = inner[int(name)] if isinstance(inner, list) else inner[name]
    inner[last] = value
    return Recipe.model_validate(keys)


def _encoder(recipe: Recipe) -> PromptEncoder:
    model = recipe.model
    return encoder_without_model(recipe, model.tokenizer or starting_point(model.path or ""))
