"""A part that is made of other parts needs the reference model exactly if one of them does."""

import pytest
import torch

from rlcore.errors import LearnerError
from rlcore.learner.gradient import sums_over_tokens
from rlcore.objective import Counts, Objective, Term, Tokens
from rlcore.objective.correction import KINDS, correct
from rlcore.objective.kl import k1, less_kl_to_go, weighted
from rlcore.objective.parts import (
    both,
    capped,
    clip,
    credit,
    dual,
    less_sequence_log_ratio,
    old_policy,
)
from rlcore.objective.presets import objective
from rlcore.objective.tokens import needs_reference, reads_reference, wrapping


@reads_reference
def near_reference(tokens: Tokens, ratio, advantage):
    """A mask of one's own that reads the reference model."""
    return (k1(tokens).abs() < 0.3).to(ratio.dtype)


@reads_reference
def to_reference(tokens: Tokens):
    """A denominator, advantage or likelihood that reads it."""
    return tokens.reference


PLAIN = clip(0.2, 0.2)
WRAPPERS = {
    "both-first": (lambda part: both(part, PLAIN), near_reference, PLAIN),
    "both-second": (lambda part: both(PLAIN, part), near_reference, PLAIN),
    "both-twice": (lambda part: both(both(PLAIN, part), dual(3.0)), near_reference, PLAIN),
    "capped": (lambda part: capped(2.0, part), to_reference, old_policy),
    "less_sequence_log_ratio": (
        lambda part: less_sequence_log_ratio(0.1, part),
        to_reference,
        credit,
    ),
    "weighted": (weighted, to_reference, old_policy),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapper_carries_the_mark_of_what_it_wraps(name):
    wrap, marked, plain = WRAPPERS[name]
    assert needs_reference(wrap(marked))
    assert not needs_reference(wrap(plain))


def test_kl_to_go_always_reads_the_reference():
    assert needs_reference(less_kl_to_go(0.1, credit))


PLACES = {"mask": near_reference, "denominator": to_reference, "advantage": to_reference}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_a_corrected_term_carries_the_mark(kind, place):
    marked = Objective((Term(**{place: PLACES[place]}),))
    assert correct(marked, kind, high=2.0).needs_reference
    assert not correct(Objective((Term(),)), kind, high=2.0).needs_reference


OWN = """from rlcore.objective import Objective, Term
from rlcore.objective.kl import k1
from rlcore.objective.tokens import reads_reference

@reads_reference
def near(tokens, ratio, advantage):
    return (k1(tokens).abs() < 0.3).to(ratio.dtype)

def loss():
    return Objective((Term(mask=near),))
"""


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"dual_clip": 3.0},
        {"correction": {"kind": "token_mask", "high": 2.0}},
        {"dual_clip": 3.0, "correction": {"kind": "sequence_mask", "high": 2.0}, "entropy": 0.1},
    ],
)
def test_a_mask_of_ones_own_keeps_the_reference_whatever_wraps_it(tmp_path, settings):
    (tmp_path / "own.py").write_text(OWN)
    made = objective(f"{tmp_path}/own.py:loss", **settings)
    assert made.needs_reference
    assert not objective("grpo", **settings).needs_reference


def test_wrapping_marks_a_new_part_and_leaves_the_wrapped_ones():
    def inner(tokens):
        return tokens.logp

    @wrapping(inner, to_reference)
    def outer(tokens):
        return inner(tokens) + to_reference(tokens)

    assert needs_reference(outer) and not needs_reference(inner)


def test_a_part_that_reads_the_reference_without_the_mark_is_met_with_a_sentence():
    unmarked = Objective((Term(advantage=lambda tokens: tokens.logp - tokens.reference),))
    with pytest.raises(LearnerError, match="reads_reference"):
        sums_over_tokens(unmarked)
    marked = reads_reference(lambda tokens: tokens.logp - tokens.reference)
    assert sums_over_tokens(Objective((Term(advantage=marked),)))


def test_a_corrected_gradient_with_a_reference_is_the_product_of_both():
    n = 6
    g = torch.Generator().manual_seed(0)
    logp, old, behaviour, reference = (
        -torch.rand(n, generator=g, dtype=torch.float64) for _ in range(4)
    )
    one = torch.ones(n, dtype=torch.float64)
    live = logp.clone().requires_grad_()
    row = torch.arange(n)
    tokens = Tokens(live, old, behaviour, reference, one, one, one, row, n)
    base = Objective((Term(mask=both(near_reference, PLAIN), denominator=old_policy),))
    made = correct(base, "token_truncate", high=1.1)
    got = torch.autograd.grad(made.terms[0](tokens, Counts(n, n)), live)[0]
    kept = ((logp - reference).abs() < 0.3) & ((logp - old).exp() <= 1.2)
    delta = (old - behaviour).exp().clamp(max=1.1)
    want = -kept.double() * (logp - old).exp() * delta / n
    assert (got - want).abs().max() < 1e-15
