"""From samples to micro-batches of flat tokens: sequences end to end in one row, no padding.

    tokens    a b c d | e f g |          lengths = (4, 3): what the model reads of each sequence
    source        * *     * *            positions in that row whose hidden state predicts a trained token, [N]
    target        d x     g y            the tokens predicted there, [N]

A sequence is read up to the token before its last trained one: what comes after influences nothing.
In the layout `shared`, a beginning that several sequences have in common is stored once
(`rlcore.learner.forest`), and several (source, target) pairs point to one position.
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
from rlcore.learner.teacher_columns import teacher_columns
from rlcore.types import Sample

Layout = Literal["auto", "packed", "shared"]

LEAST = {"auto": 16, "shared": 1}
"""Tokens that sequences must begin with in common, beyond what is shared already, to be stored once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """One forward pass: T tokens in S segments, R sequences, N tokens to be predicted.

    Vectors over the N tokens follow the order of `source`. All sequences have one temperature.
    """

    token_ids: Tensor  # [T] int64
    positions: Tensor  # [T] int64, from 0 in each sequence
    lengths: tuple[int, ...]  # [S] of the segments, sums to T; packed: a segment is a sequence
    parents: tuple[int, ...]  # [S], the segment that each one continues, -1 for none
    order: tuple[int, ...]  # [R], index of each sequence in the list that was packed
    streams: tuple[str, ...]  # [R]
    temperature: float  # of the distribution whose log-probabilities are computed
    source: Tensor  # [N] int64
    target: Tensor  # [N] int64
    row: Tensor  # [N] int64, 0..R-1
    advantage: Tensor  # [N] float64
    behaviour: Tensor  # [N] float64, log-probability the engine recorded; 0 where there is none
    has_behaviour: Tensor  # [N] bool
    old: Tensor  # [N] float64, denominator of the ratio; 0 where `live`
    live: Tensor  # [N] bool, True where the denominator is the log-probability being computed
    weight: Tensor  # [N] float64
    marked: Tensor  # [N] bool, by the objective's selection
    support: Support | None = None
    """Tokens that truncated sampling kept; None if nothing was truncated."""
    teacher: Tensor | None = None  # [N] float64, 0 in samples without a teacher's scores
    top_ids: Tensor | None = None  # [N, K] int64, the teacher's most probable tokens
    teacher_top: Tensor | None = None  # [N, K] float64, its log-probabilities of them

    @property
    def shares(self) -> bool:
        """Whether a token is stored once for several sequences."""
        return any(parent >= 0 for parent in self.parents) or len(self.lengths) < len(
            self.order
        )

    @property
    def with_top_ids(self) -> Tensor:
        """The target and the teacher's tokens, [N, 1 + K]; the target alone where no sample has any, [N]."""
        if self.top_ids is None:
            return self.target
        return torch.cat([self.target[:, None], self.top_ids], dim=1)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> MicroBatch:
        """On `device`, with floats as `dtype`."""
        moved = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                target_dtype = dtype if value.is_floating_point() else value.dtype
                moved[item.name] = sent(value.to(target_dtype), device)
            elif isinstance(value, Support):
                moved[item.name] = value.to(device)
        return replace(self, **moved)

    def of_stream(self, stream: str) -> Tensor | None:
        """Indices [n] of the trained tokens of `stream`; None if that is all of them."""
        in_stream = [name == stream for name in self.streams]
        if all(in_stream):
            return None
        return torch.tensor(in_stream, device=self.row.device)[self.row].nonzero()[:, 0]


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on `device`. To a GPU it goes through pinned memory, which nobody waits for: the next launches follow at once.

    Pinned memory is not used again before the copy is over; torch's allocator sees to that.
    """
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class _Unit(NamedTuple):
    """Samples that stay together: those of one tree, or a single one."""

    members: tuple[int, ...]  # in the order of the forest's paths
    forest: Forest
    tokens: int
    cost: float


def pack(
    samples: Sequence[Sample], *, max_tokens: int, version: int = 0, layout: Layout = "packed"
) -> list[MicroBatch]:
    """Micro-batches of at most `max_tokens` tokens; a longer sequence gets one of its own.

    Samples without a trained token drop out. The layout says what is stored once: `packed` nothing,
    `shared` every common beginning, `auto` one of at least 16 tokens. Trees stay in one micro-batch
    where they fit. Samples of different temperatures never share a micro-batch. The number of
    micro-batches is what first fit finds (at most about 11/9 of the fewest possible); they are then
    balanced by cost. Deterministic.

    `version` is the learner's: for samples written by it that have no `old_logprobs`, the ratio is
    taken to the log-probability about to be computed.
    """
    by_temperature: dict[float, dict[int, list[int]]] = {}
    for index, sample in enumerate(samples):
        if any(sample.mask):
            tokens_read = sample.context_ids[: _read_length(sample)]
            by_temperature.setdefault(_temperature(sample), {})[index] = tokens_read
    batches = []
    for tokens in by_temperature.values():
        if layout == "packed":
            units = _single_units(tokens)
        else:
            units = _tree_units(tokens, LEAST[layout], max_tokens)
        for members in _bins(units, max_tokens):
            batches.append(_micro_batch(samples, members, version))
    return batches


def in_step(batches: Sequence[MicroBatch], rounds: int) -> list[MicroBatch]:
    """As many micro-batches as every rank goes through, where this one has work in its first `len(batches)`."""
    return [*batches, *(idle_micro_batch() for _ in range(rounds - len(batches)))]


def idle_micro_batch() -> MicroBatch:
    """A forward pass over one token that trains nothing.

    It keeps a rank without work in step with the collectives of the others.
    """
    sample = Sample(id="idle", token_ids=[0], mask=[False], advantages=[0.0])
    return _micro_batch([sample], _single_units({0: [0]}), 0)


def _temperature(sample: Sample) -> float:
    """Greedy completions (temperature 0) have log-probabilities at temperature 1, as in vLLM."""
    return sample.temperature or 1.0


def _read_length(sample: Sample) -> int:
    """Tokens the model must read to predict the last trained one."""
    trained = [index for index, is_trained in enumerate(sample.mask) if is_trained]
    return max(trained, default=1)


def _unit(
    members: Sequence[int], lengths: Sequence[int], shared: Sequence[int], least: int
) -> _Unit:
    forest = grow(lengths, shared, least)
    return _Unit(tuple(members), forest, forest.tokens, forest.cost)


def _single_units(tokens: dict[int, list[int]]) -> list[_Unit]:
    return [_unit([index], [len(read)], [0], 1) for index, read in tokens.items()]


def _tree_units(tokens: dict[int, list[int]], least: int, max_tokens: int) -> list[_Unit]:
    """Samples with a common beginning as trees; a tree above `max_tokens` is cut into several.

    Sorted by their tokens, sequences with a common beginning are neighbours, so a tree is a range
    [start, stop) of the sorted list: wherever two neighbours have less than `least` tokens in
    common, one tree ends and the next begins.
    """
    order = sorted(tokens, key=tokens.__getitem__)
    lengths = [len(tokens[index]) for index in order]
    shared = [0]  # shared[i]: tokens that sequence i has in common with sequence i - 1
    for previous, index in pairwise(order):
        shared.append(common(tokens[previous], tokens[index]))

    def tree(start: int, stop: int) -> _Unit:
        return _unit(order[start:stop], lengths[start:stop], shared[start:stop], least)

    cuts = [index for index, alike in enumerate(shared) if alike < least]
    units = []
    for start, stop in pairwise([*cuts, len(order)]):
        full_tree = tree(start, stop)
        if full_tree.tokens <= max_tokens:
            units.append(full_tree)
            continue
        # Too large: add one sequence after another, and start a new tree where the next one
        # does not fit any more. A sequence that is too long by itself is a tree of its own.
        current: _Unit | None = None
        for end in range(start + 1, stop + 1):
            extended = tree(start, end)
            if current is not None and extended.tokens > max_tokens:
                units.append(current)
                start = end - 1
                extended = tree(start, end)
            current = extended
        units.append(current)
    return units


def _bins(units: list[_Unit], max_tokens: int) -> list[list[_Unit]]:
    """Units in micro-batches of at most `max_tokens` tokens and of similar cost.

    Two passes. First fit, longest unit first, decides how many micro-batches there are. Then the
    units are dealt out again, costliest first, each to the cheapest micro-batch with room for it:
    this evens out the cost, which grows faster than the tokens (attention). Where the second pass
    finds no room for a unit, the result of the first stands.
    """
    first_fit = _first_fit(units, max_tokens)
    room = [max_tokens] * len(first_fit)
    cost = [0.0] * len(first_fit)
    balanced: list[list[_Unit]] = [[] for _ in first_fit]
    for unit in sorted(units, key=lambda unit: -unit.cost):
        fitting = [
            index
            for index in range(len(room))
            if unit.tokens <= room[index] or not balanced[index]  # too long: needs an empty one
        ]
        if not fitting:
            return first_fit
        cheapest = min(fitting, key=cost.__getitem__)
        room[cheapest] -= unit.tokens
        cost[cheapest] += unit.cost
        balanced[cheapest].append(unit)
    return balanced


def _first_fit(units: list[_Unit], max_tokens: int) -> list[list[_Unit]]:
    room: list[int] = []
    bins: list[list[_Unit]] = []
    for unit in sorted(units, key=lambda unit: -unit.tokens):
        fitting = [index for index, left in enumerate(room) if unit.tokens <= left]
        if not fitting:
            room.append(max_tokens)
            bins.append([])
        index = fitting[0] if fitting else len(bins) - 1
        room[index] -= unit.tokens
        bins[index].append(unit)
    return bins


def _micro_batch(samples: Sequence[Sample], units: list[_Unit], version: int) -> MicroBatch:
    # Trees first, then single sequences by length: attention runs equal lengths side by side.
    units = sorted(units, key=lambda unit: (len(unit.members) == 1, -unit.tokens))
    forest = join([unit.forest for unit in units])
    order = [index for unit in units for index in unit.members]
    starts = [0, *accumulate(forest.lengths)]
    token_ids = np.zeros(starts[-1], np.int64)
    positions = np.zeros(starts[-1], np.int64)
    source, target, row, trained_samples = [], [], [], []
    columns: dict[str, list[np.ndarray]] = {name: [] for name in _COLUMNS}
    for number, (index, path) in enumerate(zip(order, forest.paths, strict=True)):
        sample = samples[index]
        # The sequence's tokens lie in the segments on its path from the root of the tree.
        segments = [np.arange(starts[segment], starts[segment + 1]) for segment in path]
        places = np.concatenate(segments)
        ids = np.array(sample.token_ids, np.int64)
        token_ids[places] = sample.context_ids[: len(places)]
        positions[places] = np.arange(len(places))
        trained = np.flatnonzero(sample.mask)
        trained_samples.append((sample, trained.tolist()))
        source.append(places[trained - 1])
        target.append(ids[trained])
        row.append(np.full(len(trained), number))
        for name, values in _token_columns(sample, version).items():
            columns[name].append(np.broadcast_to(np.asarray(values), ids.shape)[trained])
    vectors = {
        name: _tensor(parts, torch.bool if name in _FLAGS else torch.float64)
        for name, parts in columns.items()
    }
    return MicroBatch(
        token_ids=torch.from_numpy(token_ids),
        positions=torch.from_numpy(positions),
        lengths=forest.lengths,
        parents=forest.parents,
        order=tuple(order),
        streams=tuple(samples[index].stream for index in order),
        temperature=_temperature(samples[order[0]]),
        source=_tensor(source, torch.int64),
        target=_tensor(target, torch.int64),
        row=_tensor(row, torch.int64),
        support=pack_support(trained_samples),
        **teacher_columns(trained_samples),
        **vectors,
    )


_FLAGS = ("has_behaviour", "live", "marked")
_COLUMNS = ("advantage", "behaviour", "old", "weight", *_FLAGS)


def _token_columns(sample: Sample, version: int) -> dict[str, list[float] | float | bool]:
    """For each vector of a micro-batch the sample's values: one a token, or one for all tokens.

    The ratio's denominator is, in this order: the sample's `old_logprobs`; the log-probability
    being computed (`live`), where this version wrote the sample or nobody recorded anything; the
    engine's `logprobs`.
    """
    recorded = sample.logprobs is not None
    live = sample.old_logprobs is None and (not recorded or sample.version == version)
    old = sample.old_logprobs or sample.logprobs or 0.0
    return {
        "advantage": sample.advantages,
        "behaviour": sample.logprobs or 0.0,
        "has_behaviour": recorded,
        "old": 0.0 if live else old,
        "live": live,
        "weight": sample.weight,
        "marked": sample.marked or False,
    }


def _tensor(parts: list[np.ndarray], dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(np.concatenate(parts)).to(dtype)
