"""What each use of a KL estimator descends, by enumeration over the five tokens of a softmax policy."""

import pytest
import torch
from test_preset_gradients import COUNTS, LENGTHS, ON, ROW, B, draw, error, flat, gradient

from rlcore.objective import PRESETS, Counts, Objective, Term, Tokens, objective
from rlcore.objective.kl import ESTIMATORS, k1, k3, less_kl_to_go, weighted, with_kl
from rlcore.objective.parts import constant, credit

REFERENCE = torch.tensor([0.5, -1.0, 0.3, 1.2, -0.4], dtype=torch.float64).log_softmax(0)
LOGITS = torch.tensor([-0.2, 0.9, 0.1, -1.1, 0.6], dtype=torch.float64)
ZERO = LOGITS * 0


def reverse(logits):
    logp = logits.log_softmax(0)
    return (logp.exp() * (logp - REFERENCE)).sum()


def forward(logits):
    return (REFERENCE.exp() * (REFERENCE - logits.log_softmax(0))).sum()


def nothing(logits):
    return (logits * 0).sum()


def expected(made, logits, old=None):
    """Loss over the five one-token answers, each weighed by its probability under the policy that draws them."""
    logp = logits.log_softmax(0)
    old = logp.detach() if old is None else old
    tokens = Tokens(logp, old, old, REFERENCE, ZERO, ZERO, old.exp(), torch.arange(5), 5)
    return sum(term(tokens, Counts(1, 1)) for term in made.terms)


def pull(kind):
    return with_kl(Objective((Term(),)), 1.0, kind)


TABLE = {
    "k1": nothing,
    "k2": reverse,
    "k3": forward,
    "ratio_k1": reverse,
    "ratio_k3": reverse,
    "reward": reverse,
}


@pytest.mark.parametrize(("kind", "descends"), TABLE.items())
def test_expected_gradient_on_policy(kind, descends):
    got, want = gradient(lambda x: expected(pull(kind), x), LOGITS), gradient(descends, LOGITS)
    assert (got - want).abs().max() < 1e-15
    other = forward if descends is reverse else reverse
    assert (got - gradient(other, LOGITS)).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("kind", "right"),
    [("ratio_k1", True), ("ratio_k3", True), ("k1", False), ("k2", False), ("k3", False)],
)
def test_only_the_ratio_weighted_stay_right_off_policy(kind, right):
    old = (LOGITS + torch.tensor([0.3, -0.2, 0.0, 0.1, -0.4], dtype=torch.float64)).log_softmax(0)
    got = gradient(lambda x: expected(pull(kind), x, old), LOGITS)
    assert ((got - gradient(reverse, LOGITS)).abs().max() < 1e-15) == right


def test_a_constant_ratio_is_a_planted_mistake():
    held = Term(advantage=constant(-1.0), likelihood=weighted(k3))
    frozen = Term(
        advantage=constant(-1.0), likelihood=lambda t: (t.logp - t.old).exp().detach() * k3(t)
    )
    want = gradient(reverse, LOGITS)
    assert error(gradient(lambda x: expected(Objective((held,)), x), LOGITS), want) < 1e-15
    assert error(gradient(lambda x: expected(Objective((frozen,)), x), LOGITS), want) > 1e-2


@pytest.mark.parametrize("kind", ["k1", "k3", "ratio_k1", "ratio_k3"])
def test_the_reported_value_is_the_kl(kind):
    assert expected(pull(kind), LOGITS).item() == pytest.approx(reverse(LOGITS).item(), rel=1e-12)


def test_kl_to_go_is_the_sum_of_what_is_still_to_come():
    lp, old, ref, a = batch = draw()
    d = (lp - ref) * ON
    want = (a - 0.3 * d.flip(1).cumsum(1).flip(1))[ON.bool()]
    tokens = flat(*batch)
    assert (less_kl_to_go(0.3, credit)(tokens) - want).abs().max() < 1e-14
    place = torch.cat([torch.arange(int(n)) for n in LENGTHS])
    order = (place * B + ROW).argsort()  # rows interleaved
    mixed = Tokens(*[x[order] if isinstance(x, torch.Tensor) else x for x in tokens])
    assert (less_kl_to_go(0.3, credit)(mixed) - want[order]).abs().max() < 1e-14
    assert (less_kl_to_go(0.3, credit)(tokens) - a[ON.bool()] + 0.3 * k1(tokens)).abs().max() > 1e-2


@pytest.mark.parametrize("kind", [*ESTIMATORS, "reward"])
@pytest.mark.parametrize("name", PRESETS)
def test_any_preset_takes_any_kind(name, kind):
    params = {"max_tokens": 9} if name == "dr_grpo" else {}
    plain, made = objective(name, **params), objective(name, **params, kl=0.1, kl_kind=kind)
    assert made.needs_reference and made.streams == plain.streams
    if kind != "reward":
        assert made.terms[:-1] == plain.terms or [t.name for t in made.terms[:-1]] == [
            t.name for t in plain.terms
        ]
        assert made.terms[-1](flat(*draw()), COUNTS).isfinite()
