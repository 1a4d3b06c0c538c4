"""What the parts of a term are given: the trained tokens and the counts; and how parts are wrapped.

No torch import here: tensor methods suffice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Part = TypeVar("Part", bound=Callable[..., Any])


class Tokens(NamedTuple):
    """Trained tokens of one stream in one micro-batch; all vectors are [N]."""

    logp: Tensor
    """log pi of the policy being trained; carries the gradient."""
    old: Tensor
    """log pi_old, the denominator of the clipped ratio: `logp` itself (detached) on-policy,
    else as recorded."""
    behaviour: Tensor
    """What the engine recorded; equals `old` where nothing was recorded."""
    reference: Tensor | None
    """log pi of the frozen reference; None unless a part of the objective `reads_reference`."""
    entropy: Tensor
    """Entropy of the policy's distribution at the token; carries gradient."""
    advantage: Tensor
    weight: Tensor
    """Weight of the token's sample."""
    row: Tensor
    """Sequence index of the token, int64, 0..rows-1."""
    rows: int
    """Sequences of the micro-batch (some may have no token here)."""
    lengths: Tensor | None = None
    """Trained tokens in each token's sequence; set where the vectors are only a piece of the
    micro-batch."""
    teacher: Tensor | None = None
    """log pi of the teacher at the token, less that of the teacher's base where it has one."""
    top: Tensor | None = None
    """[N, K] log pi of the teacher's K most probable tokens; carries gradient."""
    teacher_top: Tensor | None = None
    """[N, K] the teacher's own log-probabilities of them."""
    marked: Tensor | None = None
    """[N] bool, tokens that the objective's `select` marked."""


class Counts(NamedTuple):
    """Trained tokens of a stream, and sequences with at least one, in the whole update (all
    micro-batches and ranks)."""

    tokens: int
    sequences: int


def row_sum(values: Tensor, tokens: Tokens) -> Tensor:
    """Sum of `values` [N] over each sequence, repeated for every token of it, [N]."""
    if tokens.lengths is not None:
        # The learner catches this and evaluates the whole micro-batch at once instead.
        raise ValueError("a piece of a micro-batch has no sums over its sequences")
    sums = values.new_zeros(tokens.rows)
    sums = sums.index_add(0, tokens.row, values)
    return sums[tokens.row]


def row_length(tokens: Tokens) -> Tensor:
    """Trained tokens in each token's sequence, [N]."""
    if tokens.lengths is not None:
        return tokens.lengths
    ones = tokens.logp.new_ones(tokens.logp.shape)
    return row_sum(ones, tokens)


def row_mean(values: Tensor, tokens: Tokens) -> Tensor:
    """Mean of `values` [N] over each sequence, repeated for every token of it, [N]."""
    return row_sum(values, tokens) / row_length(tokens)


def reads(*fields: str) -> Callable[[Part], Part]:
    """Decorator for a part that uses fields of `Tokens` which are not always there: reference,
    teacher, teacher_top, marked; and teacher_base, where `teacher` must be relative to a base."""

    def mark(part: Part) -> Part:
        part.reads = fields_read(part) | frozenset(fields)  # type: ignore[attr-defined]
        return part

    return mark


def fields_read(part: Callable[..., Any]) -> frozenset[str]:
    """Such fields of a part, and of the parts inside it."""
    return getattr(part, "reads", frozenset())


def reads_reference(part: Part) -> Part:
    """Mark a part that uses `tokens.reference`, so that the learner keeps a reference model."""
    return reads("reference")(part)


def needs_reference(part: Callable[..., Any]) -> bool:
    """Whether a part, or a part inside it, reads the reference model."""
    return "reference" in fields_read(part)


def wrapping(*inner: Callable[..., Any]) -> Callable[[Part], Part]:
    """Decorator for a part that calls the parts `inner`: it reads what they read.

    Every part that is made of other parts goes through here.
    """
    fields = frozenset().union(*(fields_read(part) for part in inner))
    return reads(*fields)
