"""The objective on one micro-batch: as a loss of pieces of its tokens, and as a tally for the report."""

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
        """`counts` are those of each stream over the whole step, `reference` [N] the frozen model's log-probabilities."""
        self._objective, self._batch, self._counts, self._reference = (
            objective,
            batch,
            counts,
            reference,
        )
        self._chosen = {stream: batch.of_stream(stream) for stream in objective.streams}
        self._lengths = (
            batch.row.bincount(minlength=1)[batch.row].to(batch.weight.dtype) if pieces else None
        )
        self.losses = batch.weight.new_zeros(len(objective.terms))
        self.reduced = torch.zeros_like(batch.has_behaviour)

    def __call__(self, logp: Tensor, entropy: Tensor, part: slice) -> Tensor:
        """logp and entropy [n] of the tokens `part` -> their share of the loss."""
        tokens, losses = self._tokens(logp, entropy, part), []
        for term in self._objective.terms:
            if self._counts[term.stream].tokens == 0:
                losses.append(logp.new_zeros(()))
                continue
            index = self._places(term.stream, part)
            loss, mask = term.evaluate(
                tokens if index is None else _select(tokens, index), self._counts[term.stream]
            )
            losses.append(loss)
            reduced = self.reduced[part]
            reduced[... if index is None else index] |= mask < 1
        total = torch.stack(losses)
        self.losses += total.detach()
        return total.sum()

    def tally(self, logp: Tensor, entropy: Tensor) -> Tensor:
        """[terms + 5]: the loss of each term, the sums over trained tokens of entropy, KL to the engine, recorded and reduced
        ones, and the largest ratio."""
        batch = self._batch
        drift = (logp.detach() - batch.behaviour)[batch.has_behaviour]
        largest = drift.max().exp() if len(drift) else logp.new_zeros(())
        sums = [
            entropy.detach().sum(),
            (drift.exp() - 1 - drift).sum(),
            batch.has_behaviour.sum(),
            self.reduced.sum(),
            largest,
        ]
        return torch.cat([self.losses.double(), torch.stack([value.double() for value in sums])])

    def _tokens(self, logp: Tensor, entropy: Tensor, part: slice) -> Tokens:
        batch = self._batch
        old = torch.where(batch.on_policy[part], logp.detach(), batch.behaviour[part])
        return Tokens(
            logp=logp,
            old=old,
            behaviour=torch.where(batch.has_behaviour[part], batch.behaviour[part], old),
            reference=None if self._reference is None else self._reference[part],
            entropy=entropy,
            advantage=batch.advantage[part],
            weight=batch.weight[part],
            row=batch.row[part],
            rows=len(batch.order),
            lengths=None if self._lengths is None else self._lengths[part],
        )

    def _places(self, stream: str, part: slice) -> Tensor | None:
        """Where in `part` the tokens of `stream` are; None if everywhere."""
        index = self._chosen[stream]
        if index is None or part == slice(None):
            return index
        return index[(index >= part.start) & (index < part.stop)] - part.start


def sums_over_tokens(objective: Objective) -> bool:
    """Whether a loss of many tokens is the sum of the losses of its tokens, so that it may be taken piece by piece.

    Found by trying, on random tokens near to and far from their old_policy: whole, and one by one. Parts need not say what they are;
    one that sums over sequences is noticed because the pieces do not let it.
    """
    for tokens, counts in _trials():
        if not objective.needs_reference:
            tokens = tokens._replace(reference=None)
        n, lengths = len(tokens.row), tokens.row.bincount()[tokens.row].double()
        for term in objective.terms:
            try:
                whole = _pull(term, tokens, counts)
            except Exception as error:
                raise LearnerError(
                    f"term {term.name!r} of the objective fails on {len(tokens.row)} tokens: {type(error).__name__}: {error}; "
                    "see rlcore.objective.parts for what each part takes and gives (one that reads tokens.reference is "
                    "marked with reads_reference)"
                ) from error
            try:
                pieces = [
                    _pull(
                        term, _select(tokens._replace(lengths=lengths), torch.tensor([at])), counts
                    )
                    for at in range(n)
                ]
            except (
                Exception
            ):  # whatever a part raises on a piece, it cannot be taken piece by piece
                return False
            if not torch.allclose(
                whole, torch.cat(pieces, 1), rtol=1e-9, atol=1e-12, equal_nan=True
            ):
                return False
    return True


def reads_behaviour(objective: Objective) -> bool:
    """Whether the gradient depends on the log-probabilities that the policy which wrote the tokens had; found by trying, too."""
    for tokens, counts in _trials():
        shifted = tokens._replace(
            old=tokens.old + 0.3 * tokens.advantage,
            behaviour=tokens.behaviour - 0.3 * tokens.advantage,
        )
        for term in objective.terms:
            if not torch.equal(_pull(term, tokens, counts), _pull(term, shifted, counts)):
                return True
    return False


def _trials() -> Iterator[tuple[Tokens, Counts]]:
    """Random tokens of five sequences, near to and far from their old_policy."""
    generator = torch.Generator().manual_seed(0)
    n, rows = 48, 5
    row = torch.arange(n) * rows // n
    for spread in (0.0, 0.01, 0.5, 3.0):
        logp = -4 * torch.rand(n, generator=generator, dtype=torch.float64)
        old, behaviour, reference, advantage = (
            logp + spread * torch.randn(n, generator=generator, dtype=torch.float64)
            for _ in range(4)
        )
        yield (
            Tokens(logp, old, behaviour, reference, -logp, advantage + 2, logp.exp(), row, rows),
            Counts(n, rows),
        )


def _pull(term: Term, tokens: Tokens, counts: Counts) -> Tensor:
    """Derivatives of the loss by log-probability and entropy, and the mask: [3, n]."""
    leaves = [value.clone().requires_grad_() for value in (tokens.logp, tokens.entropy)]
    loss, mask = term.evaluate(tokens._replace(logp=leaves[0], entropy=leaves[1]), counts)
    grads = torch.autograd.grad(loss, leaves, allow_unused=True)
    return torch.stack(
        [*(torch.zeros_like(mask) if grad is None else grad for grad in grads), mask]
    )


def _select(tokens: Tokens, index: Tensor) -> Tokens:
    """The tokens at `index`; rows keep their numbers."""
    return Tokens(
        *[value.index_select(0, index) if isinstance(value, Tensor) else value for value in tokens]
    )
