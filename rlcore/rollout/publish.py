"""Proof of sync: after every publish, what the engine serves is compared with what the learner published.

Two checks that fail for different reasons. The *fingerprint* covers every raw parameter bit, whatever names and fusions
the engine uses. The *canary*, natural texts scored on both sides, also covers what a back end derives from the raw
parameters (packed or transposed copies) and how it computes with them, which no fingerprint of parameters can see.

In bfloat16 both sides are right and yet differ, by as much as bfloat16 rounds. How much that is depends on the model and on
the text, so it is measured: the learner scores the texts in its own arithmetic and in float32, and the mean difference of the
two, the *noise*, is what the mean gap between engine and learner is compared with. The largest gap of a single token says
nothing (0.5 nats were seen with right weights) and is only reported. Means over some 250 tokens are steady; over the 45 tokens
of one short text the two were seen to differ by a factor of 2.2 with right weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from rlcore.errors import PublishError, TaskError
from rlcore.rollout.engine import Engine
from rlcore.rollout.prompt import PromptEncoder
from rlcore.types import Rollout, Task

LEAST_LIMIT = 1e-3
"""Mean canary gap that is always allowed, in nats a token: above what float32 rounds."""
NOISE_FACTOR = 3.0
"""Mean canary gap allowed, in multiples of the learner's own noise.

With right weights the gap of vLLM on CPU was 1.1 to 1.5 times the noise (SmolLM2-135M, bfloat16).
"""

CANARY_TOKENS = 256
"""Tokens of the canary, where there are as many."""
LONGEST_CANARY = 512
"""Tokens of its longest text."""
SHORTEST_CANARY = 24

Score = Callable[[list[list[int]]], list[list[float]]]
"""Sequences of T token ids -> the T - 1 log-probabilities of each one's `sequence[1:]`, at temperature 1."""

# elements mixed at a time: the integers stay in cache and the extra memory small
_CHUNK = 1 << 18
_BITS = {2: torch.int16, 4: torch.int32}


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishReport:
    """What one successful publish showed."""

    version: int
    fingerprint: str
    gap: float
    """Mean |log-probability difference| between engine and learner over the canary's tokens, in nats."""
    gap_max: float
    """The largest of them. No limit applies to it."""
    limit: float
    """What `gap` was allowed to be."""
    seconds: float

    def metrics(self) -> dict[str, float]:
        """What a step logs of it."""
        return {
            "publish/gap": self.gap,
            "publish/gap_max": self.gap_max,
            "publish/gap_limit": self.limit,
        }


@torch.no_grad()
def tensor_digest(tensor: torch.Tensor, dtype: str | None = None) -> tuple[int, int]:
    """Sum of the mixed bits of all elements (read as `dtype` where given), and how many elements have a non-zero bit.

    Any change of one element changes the sum, the order of elements does not, and zero padding is invisible.
    """
    flat = (
        (tensor if dtype is None else tensor.to(getattr(torch, dtype)))
        .detach()
        .contiguous()
        .view(-1)
    )
    bits = flat.view(_BITS[flat.element_size()])
    step = _CHUNK if bits.device.type == "cpu" else 64 * _CHUNK
    total = nonzero = 0
    for start in range(0, bits.numel(), step):
        chunk = bits[start : start + step].to(torch.int32, copy=True)
        nonzero += int(torch.count_nonzero(chunk))
        total += int(mix(chunk).sum(dtype=torch.int64))
    return total, nonzero


def mix(bits: torch.Tensor) -> torch.Tensor:
    """Scramble int32 values in place, one to one, with mix(0) = 0: odd multipliers and logical shifts can be undone."""
    bits.mul_(-1640531535).bitwise_xor_((bits >> 15).bitwise_and_(0x1FFFF)).mul_(-2048144777)
    return bits.bitwise_xor_((bits >> 13).bitwise_and_(0x7FFFF))


def format_fingerprint(digests: Iterable[tuple[int, int]]) -> str:
    """`<16 hex digits>/<number of non-zero elements>` of the sum of `tensor_digest` results."""
    digests = list(digests)
    return f"{sum(total for total, _ in digests) % 2**64:016x}/{sum(nonzero for _, nonzero in digests)}"


def fingerprint_of_workers(
    digests: Sequence[Sequence[tuple[str, int, int]]], stale: Sequence[Sequence[str]]
) -> str:
    """Fingerprint of the parameters that tensor-parallel workers hold, from what `WeightExtension` says of each.

    digests: (name, total, non-zero) of the parameters of each worker. A parameter of equal content on all workers is one
    replicated parameter; others are shards. stale: names of layers that compute with a packed copy that is not one of its
    raw weight; where there is one, the fingerprint says so and equals no other.
    """
    distinct: list[tuple[int, int]] = []
    for shards in zip(*digests, strict=True):
        contents = [(total, nonzero) for _, total, nonzero in shards]
        distinct += contents[:1] if len(set(contents)) == 1 else contents
    fingerprint = format_fingerprint(distinct)
    names = [name for of_worker in stale for name in of_worker]
    if names:
        return f"{fingerprint} (but {len(names)} packed copies, first of {names[0]}, hold other weights)"
    return fingerprint


class Distinct:
    """Tells tensors of new memory from repeats (tied weights).

    Weak references keep the identity of a freed storage from being reused: temporary tensors, freed one after another at
    the same address, are all new.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int, torch.Size], StorageWeakRef] = {}

    def __call__(self, tensor: torch.Tensor) -> bool:
        ref = StorageWeakRef(tensor.untyped_storage())
        return (
            self._seen.setdefault((ref.cdata, tensor.storage_offset(), tensor.shape), ref)
            is ref
        )


def fingerprint(tensors: Iterable[torch.Tensor], dtype: str | None = None) -> str:
    """Exact fingerprint of a multiset of parameter elements, read as `dtype` where given.

    Equal for any order, split or fusion of the tensors and any zero padding; different for any other bits. Tensors that
    share memory count once, so a stream of temporaries must name each tied parameter once (as `named_parameters` does).
    """
    return format_fingerprint(
        tensor_digest(tensor, dtype) for tensor in filter(Distinct(), tensors)
    )


def publish(
    weights: Callable[[], Iterable[tuple[str, torch.Tensor]]],
    engine: Engine,
    version: int,
    *,
    canary: list[list[int]],
    score: Score,
    score_float32: Score | None = None,
    served_dtype: str,
    tolerance: float | None = None,
    on_loaded: Callable[[], None] | None = None,
) -> PublishReport:
    """Load the learner's weights into the engine and prove that it serves them.

    The tensors of `weights()` are fingerprinted as they pass; an engine that has lost a server reads them from the beginning
    again. canary: natural texts as token ids, each of at least two; the gap is the mean over the tokens of all. score: the
    learner's own scoring, as in `Policy.score`.
    score_float32: the same weights computed with in float32; None where `score` already does that. tolerance: the largest
    mean gap in nats, by default max(`LEAST_LIMIT`, `NOISE_FACTOR` x noise).
    on_loaded: called between load and proof. Raises `PublishError` with the numbers of both sides.
    """
    started = time.monotonic()
    passing = _Passing(weights, served_dtype)
    engine.load(passing, version)
    if on_loaded is not None:
        on_loaded()
    published = passing.fingerprint()
    failed = f"proof of sync failed at version {version}:"
    if engine.version != version:
        raise PublishError(
            f"{failed} the engine says it serves version {engine.version}; its load() did not take effect"
        )
    served = engine.fingerprint()
    if served != published:
        raise PublishError(
            f"{failed} the engine does not hold the published weights: {_difference(served, published)} "
            f"(its fingerprint is {served}, the learner's {published}); both must be made from one model in "
            f"the dtype {served_dtype!r}: if they are, set engine.use=hf, or engine.sync=merged for an adapter"
        )
    ours = score(canary)
    gap, gap_max = canary_gap([scored.logprobs for scored in engine.score(canary)], ours)
    noise = 0.0 if score_float32 is None else canary_gap(ours, score_float32(canary))[0]
    limit = max(LEAST_LIMIT, NOISE_FACTOR * noise) if tolerance is None else tolerance
    if not gap <= limit:
        raise PublishError(
            f"{failed} the canary's log-probabilities differ by {gap:.3g} nats a token between engine and learner (limit "
            f"{limit:.3g}, the learner's own rounding makes {noise:.3g}) although the fingerprints agree ({served}): the "
            "engine's code for this model computes something else than transformers', or with other weights than those it "
            "holds; set engine.use=hf"
        )
    return PublishReport(
        version=version,
        fingerprint=served,
        gap=gap,
        gap_max=gap_max,
        limit=limit,
        seconds=time.monotonic() - started,
    )


def _difference(served: str, published: str) -> str:
    """What two fingerprints say about how the weights differ."""
    held, sent = (int(text.split("/")[1].split()[0]) for text in (served, published))
    if held < sent:
        return f"it lacks {sent - held} of {sent} numbers"
    if held > sent:
        return f"it holds {held - sent} numbers more than the {sent} published"
    return "it holds as many numbers, some of other values (of an earlier version, or in a lower precision)"


def longest_texts(rollouts: Sequence[Rollout], max_length: int) -> list[list[int]]:
    """A canary of rollouts: the longest, until there are enough tokens. max_length: of one text."""
    texts: list[list[int]] = []
    sequences = [
        sequence.token_ids
        for rollout in rollouts
        for sequence in rollout.sequences
        if sequence.token_ids  # an environment that fails at once leaves none
    ]
    for token_ids in sorted(sequences, key=len, reverse=True):
        if sum(map(len, texts)) >= CANARY_TOKENS:
            break
        texts.append(token_ids[: min(LONGEST_CANARY, max_length)])
    return texts


def first_canary(encoder: PromptEncoder, task: Task) -> list[int]:
    """A canary before there are rollouts: the task's prompt, or any text where only its environment makes a prompt."""
    try:
        return lengthened(encoder.encode(task))
    except TaskError:
        return lengthened(encoder.ids("the first text"))


def lengthened(text: list[int]) -> list[int]:
    """A canary before there are rollouts: a text, repeated where it is short."""
    return text * -(-SHORTEST_CANARY // len(text))


def canary_gap(theirs: list[list[float]], ours: list[list[float]]) -> tuple[float, float]:
    """Mean and largest absolute difference over the tokens of all texts, in nats.

    NaN if a value is NaN, and then no limit is met. Raises `ValueError` if the two sides differ in lengths.
    """
    pairs = [
        pair
        for their_text, our_text in zip(theirs, ours, strict=True)
        for pair in zip(their_text, our_text, strict=True)
    ]
    their_values, our_values = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    difference = (their_values - our_values).abs()
    return difference.mean().item(), difference.max().item()


class _Passing:
    """Weights on their way to an engine, fingerprinted as they pass. Read again, they begin again."""

    def __init__(
        self, weights: Callable[[], Iterable[tuple[str, torch.Tensor]]], dtype: str
    ) -> None:
        self._weights, self._dtype = weights, dtype
        self._digests: list[tuple[int, int]] = []
        self._rest: Iterator[tuple[str, torch.Tensor]] | None = None

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        self._digests = []
        self._rest = self._read()
        return self._rest

    def _read(self) -> Iterator[tuple[str, torch.Tensor]]:
        is_new = Distinct()
        for name, tensor in self._weights():
            if is_new(tensor):
                self._digests.append(tensor_digest(tensor, self._dtype))
            yield name, tensor

    def fingerprint(self) -> str:
        """Of all the weights; what an engine has left unread was published as well."""
        for _ in self if self._rest is None else self._rest:
            pass
        return format_fingerprint(self._digests)
