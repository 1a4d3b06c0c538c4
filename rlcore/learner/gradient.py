"""The objective on one micro-batch: as a loss of pieces of its tokens, and as sums for the report."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rlcore.errors import LearnerError
from rlcore.learner.pack import MicroBatch
from rlcore.objective.parts import Counts, Tokens
from rlcore.objective.term import Objective, Term


class BatchLoss:
    """The loss of a micro-batch, called with all its tokens at once or with one piece after another."""

    def __init__(
        self,
        objective: Objective,
        batch: MicroBatch,
        counts: dict[str, Counts],
        reference: Tensor | None,
        *,
        pieces: bool,
    ) -> None:
        """`counts` are those of each stream over the whole update, `reference` [N] the frozen model's log-probabilities."""
        self._objective = objective
        self._batch = batch
        self._counts = counts
        self._reference = reference
        self._chosen = {stream: batch.of_stream(stream) for stream in objective.streams}
        # A piece has no sums over its sequences, so it is told how long they are.
        self._lengths = None
        if pieces:
            trained_tokens = batch.row.bincount(minlength=1)
            self._lengths = trained_tokens[batch.row].to(batch.weight.dtype)
        self.losses = batch.weight.new_zeros(len(objective.terms))
        self.reduced = torch.zeros_like(batch.has_behaviour)

    def __call__(self, logp: Tensor, entropy: Tensor, part: slice) -> Tensor:
        """logp [n] or [n, 1 + K] and entropy [n] of the tokens `part` -> their summand of the loss.

        K: tokens of the teacher, after the sampled one.
        """
        tokens = self._tokens(logp, entropy, part)
        losses = []
        for term in self._objective.terms:
            counts = self._counts[term.stream]
            if counts.tokens == 0:
                losses.append(logp.new_zeros(()))
                continue
            index = self._indices(term.stream, part)
            of_stream = tokens if index is None else _select(tokens, index)
            loss, mask = term.evaluate(of_stream, counts)
            losses.append(loss)
            reduced = self.reduced[part]
            reduced[... if index is None else index] |= mask < 1
        total = torch.stack(losses)
        self.losses += total.detach()
        return total.sum()

    def tally(self, logp: Tensor, entropy: Tensor) -> Tensor:
        """[terms + 9] float64: the loss of each term, then the values of `rlcore.learner.report.SUMS` and `MAXIMA`."""
        batch = self._batch
        logp = _sampled(logp).detach()
        from_engine = (logp - batch.behaviour)[batch.has_behaviour]
        from_old = (logp - batch.old)[~batch.live]
        values = [
            entropy.detach().sum(),
            batch.advantage.abs().sum(),
            self.reduced.sum(),
            _k3(from_engine),
            batch.has_behaviour.sum(),
            _k3(from_old),
            (~batch.live).sum(),
            _largest_ratio(from_engine),
            _largest_ratio(from_old),
        ]
        return torch.cat(
            [self.losses.double(), torch.stack([value.double() for value in values])]
        )

    def _tokens(self, logp: Tensor, entropy: Tensor, part: slice) -> Tokens:
        batch = self._batch
        top = logp[:, 1:] if logp.dim() == 2 else None
        logp = _sampled(logp)
        old = torch.where(batch.live[part], logp.detach(), batch.old[part])
        behaviour = torch.where(batch.has_behaviour[part], batch.behaviour[part], old)
        return Tokens(
            logp=logp,
            old=old,
            behaviour=behaviour,
            reference=None if self._reference is None else self._reference[part],
            entropy=entropy,
            advantage=batch.advantage[part],
            weight=batch.weight[part],
            row=batch.row[part],
            rows=len(batch.order),
            lengths=None if self._lengths is None else self._lengths[part],
            marked=batch.marked[part] if "marked" in self._objective.reads else None,
            **self._of_teacher(logp, top, part),
        )

    def _of_teacher(self, logp: Tensor, top: Tensor | None, part: slice) -> dict[str, Tensor]:
        """What a teacher says of the tokens, where the objective reads it.

        Where no sample of the micro-batch has scores, its terms have no tokens in it: what stands
        for the scores then is not read, and keeps the loss a function of the policy.
        """
        batch = self._batch
        columns = {}
        if "teacher" in self._objective.reads:
            columns["teacher"] = logp.detach() if batch.teacher is None else batch.teacher[part]
        if "teacher_top" in self._objective.reads:
            columns["top"] = logp[:, None] if top is None else top
            columns["teacher_top"] = (
                logp.detach()[:, None] if batch.teacher_top is None else batch.teacher_top[part]
            )
        return columns

    def _indices(self, stream: str, part: slice) -> Tensor | None:
        """Indices in `part` of the tokens of `stream`; None if it is all of them."""
        index = self._chosen[stream]
        if index is None or part == slice(None):
            return index
        return index[(index >= part.start) & (index < part.stop)] - part.start


def _sampled(logp: Tensor) -> Tensor:
    """Log-probabilities [n] of the sampled tokens, which come first."""
    return logp[:, 0] if logp.dim() == 2 else logp


def _k3(log_ratio: Tensor) -> Tensor:
    """Sum of exp(d) - 1 - d: Schulman's estimate of KL(p || q) from samples of p, with d = log(q / p)."""
    return (log_ratio.exp() - 1 - log_ratio).sum()


def _largest_ratio(log_ratio: Tensor) -> Tensor:
    return log_ratio.max().exp() if len(log_ratio) else log_ratio.new_zeros(())


def sums_over_tokens(objective: Objective) -> bool:
    """Whether the loss of many tokens is the sum of the losses of its tokens, so that it can be computed piece by piece.

    Found by trying, on random tokens near to and far from their old policy: all together, and each alone. Parts need not
    declare it; one that sums over sequences is noticed because the pieces do not let it.
    """
    for tokens, counts in _trials():
        tokens = tokens._replace(**_not_read(objective))
        count = len(tokens.row)
        lengths = tokens.row.bincount()[tokens.row].double()
        for term in objective.terms:
            try:
                together = _derivatives(term, tokens, counts)
            except Exception as error:
                raise LearnerError(
                    f"term {term.name!r} of the objective fails on {count} tokens: {type(error).__name__}: {error}; "
                    "see rlcore.objective.parts for what each part takes and returns (one that reads tokens.reference is "
                    "marked with reads_reference, others with reads)"
                ) from error
            pieces = []
            try:
                for index in range(count):
                    alone = _select(tokens._replace(lengths=lengths), torch.tensor([index]))
                    pieces.append(_derivatives(term, alone, counts))
            except Exception:
                # whatever a part raises on a piece, it cannot be taken piece by piece
                return False
            separate = torch.cat(pieces, 1)
            if not torch.allclose(together, separate, rtol=1e-9, atol=1e-12, equal_nan=True):
                return False
    return True


def reads_behaviour(objective: Objective) -> bool:
    """Whether the gradient depends on the log-probabilities of the policy that wrote the tokens. Found by trying, too."""
    for tokens, counts in _trials():
        shifted = tokens._replace(
            old=tokens.old + 0.3 * tokens.advantage,
            behaviour=tokens.behaviour - 0.3 * tokens.advantage,
        )
        for term in objective.terms:
            before = _derivatives(term, tokens, counts)
            after = _derivatives(term, shifted, counts)
            if not torch.equal(before, after):
                return True
    return False


def _trials() -> Iterator[tuple[Tokens, Counts]]:
    """Random tokens of five sequences, near to and far from their old policy."""
    generator = torch.Generator().manual_seed(0)
    count = 48
    rows = 5
    row = torch.arange(count) * rows // count
    for spread in (0.0, 0.01, 0.5, 3.0):
        logp = -4 * torch.rand(count, generator=generator, dtype=torch.float64)
        top, teacher_top = (
            torch.randn(count, 5, generator=torch.Generator().manual_seed(seed)).double()
            for seed in (1, 2)
        )
        old, behaviour, reference, advantage = (
            logp + spread * torch.randn(count, generator=generator, dtype=torch.float64)
            for _ in range(4)
        )
        tokens = Tokens(
            logp=logp,
            old=old,
            behaviour=behaviour,
            reference=reference,
            entropy=-logp,
            advantage=advantage + 2,
            weight=logp.exp(),
            row=row,
            rows=rows,
            teacher=reference + advantage,
            top=top.log_softmax(1)[:, :3],
            teacher_top=teacher_top.log_softmax(1)[:, :3],
            marked=row % 2 == 0,
        )
        yield tokens, Counts(count, rows)


def _derivatives(term: Term, tokens: Tokens, counts: Counts) -> Tensor:
    """Derivatives of the loss by all log-probabilities and entropy, and the mask: one row each, [..., n]."""
    leaves = {"logp": tokens.logp, "entropy": tokens.entropy, "top": tokens.top}
    leaves = {
        name: value.clone().requires_grad_()
        for name, value in leaves.items()
        if value is not None
    }
    loss, mask = term.evaluate(tokens._replace(**leaves), counts)
    grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    rows = [mask[None]]
    for leaf, grad in zip(leaves.values(), grads, strict=True):
        value = torch.zeros_like(leaf) if grad is None else grad
        rows.append(value[None] if value.dim() == 1 else value.t())
    return torch.cat(rows)


def _not_read(objective: Objective) -> dict[str, None]:
    """Fields that are not there for an objective that does not read them."""
    absent: dict[str, None] = {}
    if not objective.needs_reference:
        absent["reference"] = None
    if not objective.needs_teacher:
        absent["teacher"] = None
    if "marked" not in objective.reads:
        absent["marked"] = None
    if "teacher_top" not in objective.reads:
        absent |= {"top": None, "teacher_top": None}
    return absent


def _select(tokens: Tokens, index: Tensor) -> Tokens:
    """The tokens at `index`; rows keep their numbers."""
    selected = []
    for value in tokens:
        selected.append(value.index_select(0, index) if isinstance(value, Tensor) else value)
    return Tokens(*selected)
