"""A `Term` puts five parts together; an `Objective` is a sum of terms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from rlcore.errors import RecipeError
from rlcore.objective.entropy_control import EntropyControl
from rlcore.objective.parts import credit, everywhere, live, token, token_mean
from rlcore.objective.tokens import Counts, Tokens, fields_read

if TYPE_CHECKING:
    from torch import Tensor

    from rlcore.objective.parts import Advantage, Average, Denominator, Likelihood, Mask

Selection = Callable[..., list[Any]]
"""(samples of a step in this process, gather) -> the samples, with advantage 0 at tokens that are left
out. Collective."""

MAX_LOG_RATIO = 80.0
"""Ratios are kept finite, so that a mask of 0 gives a gradient of 0 and not NaN."""


class Evaluated(NamedTuple):
    """A term on one micro-batch: its part of the loss (scalar, differentiable) and the mask [N]
    it applied."""

    loss: Tensor
    mask: Tensor


@dataclass(frozen=True, kw_only=True)
class Term:
    """One summand of an objective over the tokens of one stream; `rlcore.objective.parts` explains
    the parts.

    Example, DAPO: `Term(mask=clip(0.2, 0.28), denominator=old_policy)`.
    """

    mask: Mask = everywhere
    denominator: Denominator = live
    advantage: Advantage = credit
    likelihood: Likelihood = token
    average: Average = token_mean
    weight: float = 1.0
    stream: str = "policy"
    name: str = "policy"

    def __call__(self, tokens: Tokens, counts: Counts) -> Tensor:
        """Loss of the micro-batch.

        Its gradient is the objective's; summed over micro-batches and ranks it is the whole
        update's. Its *value* is that of the surrogate, -sum of coefficient times likelihood: the
        negative log-likelihood for SFT, but no measure of progress for a policy gradient.
        """
        return self.evaluate(tokens, counts).loss

    def evaluate(self, tokens: Tokens, counts: Counts) -> Evaluated:
        """Loss and mask; `counts` are those of the term's stream over the whole update."""
        frozen = tokens._replace(logp=tokens.logp.detach(), entropy=tokens.entropy.detach())
        if frozen.top is not None:
            frozen = frozen._replace(top=frozen.top.detach())
        log_ratio = frozen.logp - self.denominator(frozen)
        ratio = log_ratio.clamp(max=MAX_LOG_RATIO).exp()
        advantage = self.advantage(frozen)
        mask = self.mask(frozen, ratio, advantage)
        average = self.average(frozen, counts)
        coefficient = self.weight * frozen.weight * mask * ratio * advantage * average
        loss = -(coefficient * self.likelihood(tokens)).sum()
        return Evaluated(loss, mask)

    @property
    def reads(self) -> frozenset[str]:
        """Fields of `Tokens` that its parts read and that are not always there."""
        parts = (self.mask, self.denominator, self.advantage, self.likelihood, self.average)
        return frozenset().union(*(fields_read(part) for part in parts))

    @property
    def needs_teacher(self) -> bool:
        """Whether a part reads what a teacher says of the tokens."""
        return bool(self.reads & {"teacher", "teacher_top"})


@dataclass(frozen=True)
class Objective:
    """A sum of terms. `objective_a + objective_b` trains both, each on its own streams and
    counts."""

    terms: tuple[Term, ...]
    select: Selection | None = None
    """What leaves out tokens by comparing all tokens of a step; see `rlcore.objective.selection`."""

    def __post_init__(self) -> None:
        is_tuple = isinstance(self.terms, tuple)
        if not is_tuple or not all(isinstance(term, Term) for term in self.terms):
            kind = type(self.terms).__name__
            raise RecipeError(
                f"an objective is a tuple of terms, as in Objective((Term(...),)), not {kind}"
            )
        names = [term.name for term in self.terms]
        if not names or len(set(names)) < len(names):
            raise RecipeError(
                f"an objective needs at least one term and a different name for each, got {names}"
            )

    def __add__(self, other: Objective) -> Objective:
        return Objective(self.terms + other.terms, self.select or other.select)

    @property
    def controls(self) -> dict[str, EntropyControl]:
        """Term name -> what moves its coefficient from update to update."""
        return {
            term.name: term.advantage
            for term in self.terms
            if isinstance(term.advantage, EntropyControl)
        }

    @property
    def reads(self) -> frozenset[str]:
        """Fields of `Tokens` that its terms read and that are not always there."""
        return frozenset().union(*(term.reads for term in self.terms))

    @property
    def needs_reference(self) -> bool:
        """Whether any term reads the reference model."""
        return "reference" in self.reads

    @property
    def needs_teacher(self) -> bool:
        """Whether any term reads what a teacher says of the tokens."""
        return any(term.needs_teacher for term in self.terms)

    @property
    def reads_advantages(self) -> bool:
        """Whether any term does: `constant` puts a number in their place."""
        return not all(getattr(term.advantage, "is_constant", False) for term in self.terms)

    @property
    def streams(self) -> tuple[str, ...]:
        """Streams its terms read, each once, in order."""
        streams = [term.stream for term in self.terms]
        return tuple(dict.fromkeys(streams))
