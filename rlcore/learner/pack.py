"""From samples to micro-batches of flat tokens: sequences end to end in one row, no padding.

    tokens    a b c d | e f g |          lengths = (4, 3): what the model reads of each sequence
    source        * *     * *            positions in that row whose hidden state predicts a trained token, [N]
    target        d x     g y            the tokens predicted there, [N]

A sequence is read up to the token before its last trained one: what comes after influences nothing. In the layout `shared`, what
sequences begin with in common is stored once (`rlcore.learner.forest`), and several (source, target) point to one place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate, pairwise
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlcore.learner.forest import Forest, common, grow, join
from rlcore.learner.support import Support, pack_support
from rlcore.types import Sample

Layout = Literal["auto", "packed", "shared"]

LEAST = {"auto": 16, "shared": 1}
"""Tokens that sequences must begin with in common, beyond what is shared already, for a layout to store them once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """One forward pass: T tokens in S segments, R sequences, N tokens to be predicted. Vectors over those follow `source`."""

    token_ids: Tensor  # [T] int64
    positions: Tensor  # [T] int64, from 0 in each sequence
    lengths: tuple[int, ...]  # [S] of the segments, sums to T; packed: a segment is a sequence
    parents: tuple[int, ...]  # [S], the segment that each one continues, -1 for none
    order: tuple[int, ...]  # [R], place of each sequence in the list that was packed
    streams: tuple[str, ...]  # [R]
    source: Tensor  # [N] int64
    target: Tensor  # [N] int64
    row: Tensor  # [N] int64, 0..R-1
    advantage: Tensor  # [N] float64
    behaviour: Tensor  # [N] float64, recorded log-probability; 0 where none was recorded
    has_behaviour: Tensor  # [N] bool
    on_policy: Tensor  # [N] bool, True where the current log-probability is the old_policy
    weight: Tensor  # [N] float64
    support: Support | None = None
    """Tokens that truncated sampling kept; None if nothing was truncated."""

    @property
    def shares(self) -> bool:
        """Whether a token is stored once for several sequences."""
        return any(parent >= 0 for parent in self.parents) or len(self.lengths) < len(self.order)

    def to(self, device: torch.device, dtype: torch.dtype) -> MicroBatch:
        """On `device`, with floats as `dtype`."""
        moved = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                moved[item.name] = value.to(
                    device, dtype if value.is_floating_point() else value.dtype
                )
            elif isinstance(value, Support):
                moved[item.name] = value.to(device)
        return replace(self, **moved)

    def of_stream(self, stream: str) -> Tensor | None:
        """Indices [n] of the trained tokens of `stream`; None if that is all of them."""
        mine = [name == stream for name in self.streams]
        if all(mine):
            return None
        return torch.tensor(mine, device=self.row.device)[self.row].nonzero()[:, 0]


class _Unit(NamedTuple):
    """Samples that stay together: those of one tree, or one alone."""

    members: tuple[int, ...]  # in the order of the forest's paths
    forest: Forest
    tokens: int
    cost: float


def pack(
    samples: Sequence[Sample], *, max_tokens: int, version: int = 0, layout: Layout = "packed"
) -> list[MicroBatch]:
    """Micro-batches of at most `max_tokens` tokens; a longer sequence gets one of its own.

    Samples without a trained token drop out. The layout says what is stored once: `packed` nothing, `shared` all that sequences
    begin with in common, `auto` where that is at least 16 tokens. Trees stay whole where they fit. As few micro-batches as first
    fit finds (at most about 11/9 of the fewest possible), then balanced by cost; deterministic. `version` is the learner's:
    samples it wrote itself are on-policy, so their old_policy is the log-probability about to be computed.
    """
    tokens = {
        i: sample.token_ids[: _read_length(sample)]
        for i, sample in enumerate(samples)
        if any(sample.mask)
    }
    if not tokens:
        return []
    units = _alone(tokens) if layout == "packed" else _trees(tokens, LEAST[layout], max_tokens)
    return [_micro_batch(samples, members, version) for members in _bins(units, max_tokens)]


def idle_micro_batch() -> MicroBatch:
    """A forward pass over one token that trains nothing: keeps a rank without work in step with the others' collectives."""
    sample = Sample(id="idle", token_ids=[0], mask=[False], advantages=[0.0])
    return _micro_batch([sample], _alone({0: [0]}), 0)


def _read_length(sample: Sample) -> int:
    return max((index for index, trained in enumerate(sample.mask) if trained), default=1)


def _unit(
    members: Sequence[int], lengths: Sequence[int], shared: Sequence[int], least: int
) -> _Unit:
    forest = grow(lengths, shared, least)
    return _Unit(tuple(members), forest, forest.tokens, forest.cost)


def _alone(tokens: dict[int, list[int]]) -> list[_Unit]:
    return [_unit([index], [len(read)], [0], 1) for index, read in tokens.items()]


def _trees(tokens: dict[int, list[int]], least: int, max_tokens: int) -> list[_Unit]:
    """Samples that begin alike as trees; a tree of more than `max_tokens` tokens is cut into several that fit."""
    order = sorted(tokens, key=tokens.__getitem__)
    lengths = [len(tokens[index]) for index in order]
    shared = [0, *(common(tokens[a], tokens[b]) for a, b in pairwise(order))]
    units = []
    cuts = [place for place, alike in enumerate(shared) if alike < least] + [len(order)]
    for start, stop in pairwise(cuts):
        whole = _unit(order[start:stop], lengths[start:stop], shared[start:stop], least)
        if whole.tokens <= max_tokens:
            units.append(whole)
            continue
        held: _Unit | None = None
        for end in range(start + 1, stop + 1):
            grown = _unit(order[start:end], lengths[start:end], shared[start:end], least)
            if held and grown.tokens > max_tokens:
                units.append(held)
                start = end - 1
                grown = _unit(order[start:end], lengths[start:end], shared[start:end], least)
            held = grown
        units.append(held)
    return units


def _bins(units: list[_Unit], max_tokens: int) -> list[list[_Unit]]:
    """Units in micro-batches: as many as first fit needs, longest first; then each, costliest first, to the least cost so far."""
    room: list[int] = []
    first_fit: list[list[_Unit]] = []
    for unit in sorted(units, key=lambda unit: -unit.tokens):
        place = next((at for at, left in enumerate(room) if unit.tokens <= left), len(room))
        if place == len(room):
            room.append(max_tokens)
            first_fit.append([])
        room[place] -= unit.tokens
        first_fit[place].append(unit)
    room, cost = [max_tokens] * len(room), [0.0] * len(room)
    balanced: list[list[_Unit]] = [[] for _ in room]
    for unit in sorted(units, key=lambda unit: -unit.cost):
        fitting = [at for at, left in enumerate(room) if unit.tokens <= left or not balanced[at]]
        if not fitting:
            return first_fit
        place = min(fitting, key=cost.__getitem__)
        room[place] -= unit.tokens
        cost[place] += unit.cost
        balanced[place].append(unit)
    return balanced


def _micro_batch(samples: Sequence[Sample], units: list[_Unit], version: int) -> MicroBatch:
    units = sorted(
        units, key=lambda unit: (len(unit.members) == 1, -unit.tokens)
    )  # equal lengths side by side
    forest = join([unit.forest for unit in units])
    order = [index for unit in units for index in unit.members]
    starts = [0, *accumulate(forest.lengths)]
    token_ids, positions = np.zeros(starts[-1], np.int64), np.zeros(starts[-1], np.int64)
    source, target, row, vectors, trained_samples = [], [], [], [], []
    for number, (index, path) in enumerate(zip(order, forest.paths, strict=True)):
        sample = samples[index]
        places = np.concatenate(
            [np.arange(starts[segment], starts[segment + 1]) for segment in path]
        )
        ids = np.array(sample.token_ids, np.int64)
        token_ids[places], positions[places] = ids[: len(places)], np.arange(len(places))
        trained = np.flatnonzero(sample.mask)
        trained_samples.append((sample, trained.tolist()))
        source.append(places[trained - 1])
        target.append(ids[trained])
        row.append(np.full(len(trained), number))
        known = sample.logprobs is not None
        on_policy = not known or sample.version == version
        columns = (
            sample.advantages,
            sample.logprobs or [0.0] * len(ids),
            [known] * len(ids),
            [on_policy] * len(ids),
        )
        vectors.append(
            [np.array(column)[trained] for column in (*columns, [sample.weight] * len(ids))]
        )
    advantage, behaviour, has_behaviour, on_policy, weight = (
        np.concatenate(parts) for parts in zip(*vectors, strict=True)
    )
    return MicroBatch(
        token_ids=torch.from_numpy(token_ids),
        positions=torch.from_numpy(positions),
        lengths=forest.lengths,
        parents=forest.parents,
        order=tuple(order),
        streams=tuple(samples[index].stream for index in order),
        source=_tensor(source, torch.int64),
        target=_tensor(target, torch.int64),
        row=_tensor(row, torch.int64),
        advantage=torch.from_numpy(advantage).double(),
        behaviour=torch.from_numpy(behaviour).double(),
        weight=torch.from_numpy(weight).double(),
        has_behaviour=torch.from_numpy(has_behaviour),
        on_policy=torch.from_numpy(on_policy),
        support=pack_support(trained_samples),
    )


def _tensor(parts: list[np.ndarray], dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(np.concatenate(parts)).to(dtype)
