"""A `Term` puts five parts together; an `Objective` is a sum of terms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from rlcore.errors import RecipeError
from rlcore.objective.parts import Counts, Tokens, credit, everywhere, live, token, token_mean

if TYPE_CHECKING:
    from torch import Tensor

    from rlcore.objective.parts import Advantage, Average, Denominator, Likelihood, Mask


class Evaluated(NamedTuple):
    """A term on one micro-batch: its share of the loss (scalar, differentiable) and the mask [N] it applied."""

    loss: Tensor
    mask: Tensor


@dataclass(frozen=True, kw_only=True)
class Term:
    """One summand of an objective over the tokens of one stream. See `rlcore.objective.parts` for what each part is.

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
        """Loss of the micro-batch: its gradient is the objective's, and summed over micro-batches and ranks the whole step's.

        Its *value* is that of the surrogate, -sum of coefficient times likelihood: the negative log-likelihood for SFT, but no
        measure of progress for a policy gradient.
        """
        return self.evaluate(tokens, counts).loss

    def evaluate(self, tokens: Tokens, counts: Counts) -> Evaluated:
        """Loss and mask; `counts` are those of the term's stream over the whole step."""
        frozen = tokens._replace(logp=tokens.logp.detach(), entropy=tokens.entropy.detach())
        ratio = (
            (frozen.logp - self.denominator(frozen)).clamp(max=80).exp()
        )  # finite, so that a mask of 0 gives 0
        advantage = self.advantage(frozen)
        mask = self.mask(frozen, ratio, advantage)
        coefficient = (
            self.weight * frozen.weight * mask * ratio * advantage * self.average(frozen, counts)
        )
        return Evaluated(-(coefficient * self.likelihood(tokens)).sum(), mask)

    @property
    def needs_reference(self) -> bool:
        """Whether a part reads the reference model's log-probabilities."""
        parts = (self.mask, self.denominator, self.advantage, self.likelihood, self.average)
        return any(getattr(part, "needs_reference", False) for part in parts)


@dataclass(frozen=True)
class Objective:
    """A sum of terms. `objective_a + objective_b` trains both, each on its own streams and counts."""

    terms: tuple[Term, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.terms, tuple) or not all(
            isinstance(term, Term) for term in self.terms
        ):
            raise RecipeError(
                f"an objective is a tuple of terms, as in Objective((Term(...),)), not {type(self.terms).__name__}"
            )
        names = [term.name for term in self.terms]
        if not names or len(set(names)) < len(names):
            raise RecipeError(
                f"an objective needs at least one term and a different name for each, got {names}"
            )

    def __add__(self, other: Objective) -> Objective:
        return Objective(self.terms + other.terms)

    @property
    def needs_reference(self) -> bool:
        """Whether any term reads the reference model."""
        return any(term.needs_reference for term in self.terms)

    @property
    def streams(self) -> tuple[str, ...]:
        """Streams its terms read, each once, in order."""
        return tuple(dict.fromkeys(term.stream for term in self.terms))
