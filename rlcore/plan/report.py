"""A plan as tables for a person and as JSON for a program."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table

from rlcore.plan.memory import StageBytes
from rlcore.plan.plan import Advice, Plan

_WHERE = {"learner": "each learner device", "server": "each server device", "host": "each node"}


def gib(size: int) -> str:
    """Bytes in GiB, with the digits that matter."""
    value = size / 2**30
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def stage_table(plan: Plan, stage: StageBytes) -> Table:
    """What a stage needs on one kind of device, item by item."""
    title = f"{stage.stage}: {_WHERE[stage.where]}"
    table = Table("of", "what", "while", "GiB", title=title, title_justify="left")
    for item in sorted(stage.items, key=lambda item: (item.phase != "", item.phase, item.side)):
        if item.bytes:
            table.add_row(item.side, item.what, item.phase or "always", gib(item.bytes))
    limit = f" of {gib(plan.machine.memory)}" if stage.where != "host" else ""
    table.add_section()
    table.add_row("", "most at once", _largest_phase(stage), f"{gib(stage.peak)}{limit}")
    return table


def shown_stages(plan: Plan) -> list[StageBytes]:
    """Of each kind of device the stage that needs most: the others need no more."""
    worst: dict[str, StageBytes] = {}
    for stage in plan.stages:
        if stage.where not in worst or stage.peak > worst[stage.where].peak:
            worst[stage.where] = stage
    return list(worst.values())


def sentences(plan: Plan, advice: Sequence[Advice]) -> Iterator[str]:
    """The verdict and what follows from it."""
    machine = plan.machine
    devices = f"{machine.ranks} learner process(es) with {machine.sharding}"
    if machine.serve:
        devices += f", {machine.serve} GPU(s) for servers"
    yield f"{plan.parameters / 1e6:,.2f}M parameters, {plan.trained / 1e6:,.2f}M trained; {devices}"
    peaks = ", ".join(f"{s.stage} {gib(s.peak)}" for s in plan.devices if s.where == "learner")
    yield f"most at once on a learner device, GiB: {peaks}"
    for label, lengths in plan.lengths.items():
        batch = plan.batches.get(label)
        words = f"{label}: prompts of {lengths.prompt} and completions of {lengths.completion} tokens ({lengths.source})"
        if batch is not None:
            words += f"; {batch.count} micro-batch(es) of {batch.tree.tokens:,} tokens in an update of a process"
        yield words
    if plan.in_flight:
        yield f"tokens in flight in all engines: at most {plan.in_flight:,}"
    for label in plan.unplanned:
        yield f"{label}: not planned beyond the weights, as another library trains there"
    yield from _verdict(plan, advice)


def _verdict(plan: Plan, advice: Sequence[Advice]) -> Iterator[str]:
    room = plan.machine.memory
    if plan.fits:
        yield f"it fits: {gib(plan.peak)} of {gib(room)} GiB"
        return
    yield f"it does not fit: {gib(plan.peak)} of {gib(room)} GiB"
    if not advice:
        yield "no key of the recipe changes that: take more or larger devices"
    elif advice[0].fits:
        yield "each of these is enough alone:"
    elif advice[-1].fits:
        yield "these are enough together:"
    else:
        yield "these together are not enough, so take more or larger devices as well:"
    for change in advice:
        yield f"  {change.change}: {gib(change.peak)} GiB"


def as_json(plan: Plan, advice: Sequence[Advice]) -> dict[str, Any]:
    """Everything that the tables show, in bytes."""
    machine = plan.machine
    return {
        "recipe": plan.recipe.name,
        "machine": {
            "gpus": machine.gpus,
            "nodes": machine.nodes,
            "memory": machine.memory,
            "sharding": machine.sharding,
            "serve": machine.serve,
        },
        "parameters": plan.parameters,
        "trained": plan.trained,
        "peak": plan.peak,
        "fits": plan.fits,
        "tokens_in_flight": plan.in_flight,
        "stages": [_stage(stage) for stage in plan.stages],
        "lengths": {name: vars(lengths) for name, lengths in plan.lengths.items()},
        "micro_batches": {
            name: {"tokens": batch.tree.tokens, "count": batch.count}
            for name, batch in plan.batches.items()
        },
        "unplanned": list(plan.unplanned),
        "changes": [vars(change) for change in advice],
    }


def _stage(stage: StageBytes) -> dict[str, Any]:
    return {
        "stage": stage.stage,
        "where": stage.where,
        "peak": stage.peak,
        "learner": stage.of("learner"),
        "engine": stage.of("engine"),
        "host": stage.of("host"),
        "items": [vars(item) for item in stage.items],
    }


def _largest_phase(stage: StageBytes) -> str:
    return max(stage.phases, key=stage.phases.get, default="")
