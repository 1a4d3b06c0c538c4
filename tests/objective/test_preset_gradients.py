"""Gradients of every preset against native losses on padded tensors, in float64; and that the comparison notices mistakes."""

from dataclasses import replace

import pytest
import torch
from native_losses import (
    CASES,
    IDS,
    MARKED_BELOW,
    TWO_STREAMS,
    awr,
    clipped,
    dapo,
    dft,
    dppo,
    dro,
    gmpo,
    grpo,
    gspo,
    gspo_token,
    kimi,
    luspo,
    topr,
    vespo,
)

from rlcore.objective import PRESETS, Counts, Objective, Term, Tokens, objective
from rlcore.objective.parts import (
    capped,
    clip,
    constant,
    entropy,
    exponential,
    gamma_weighted,
    less_sequence_log_ratio,
    live,
    old_policy,
    sequence_mean,
    sequence_old_policy,
    sequence_product,
    sequence_sum,
    unit,
)

LENGTHS = torch.tensor([9, 4, 7, 1, 5, 8])
B, T = len(LENGTHS), int(LENGTHS.max())
ON = (torch.arange(T) < LENGTHS[:, None]).double()
ROW = torch.arange(B).repeat_interleave(LENGTHS)
COUNTS = Counts(int(LENGTHS.sum()), B)


def draw(seed=0, spread=0.4):
    """Padded [B, T] logp, old, reference, advantage (one number a sequence)."""
    g = torch.Generator().manual_seed(seed)
    lp = -3 * torch.rand(B, T, generator=g, dtype=torch.float64)
    old = lp + spread * torch.randn(B, T, generator=g, dtype=torch.float64)
    ref = lp + 0.3 * torch.randn(B, T, generator=g, dtype=torch.float64)
    a = torch.randn(B, 1, generator=g, dtype=torch.float64).expand(B, T)
    return lp, old, ref, a


def flat(lp, old, ref, a, rows=range(B)):
    """The trained tokens of `rows` as the learner hands them to a term."""
    keep, number = (
        (ROW[:, None] == torch.tensor(list(rows))).any(1),
        {row: i for i, row in enumerate(rows)},
    )
    on = ON.bool()
    row = torch.tensor([number[int(r)] for r in ROW[keep]])
    values = [x[on][keep] for x in (lp, old, old, ref, lp * 0, a)]
    marked = values[1] < MARKED_BELOW
    return Tokens(
        *values, weight=torch.ones_like(values[0]), row=row, rows=len(number), marked=marked
    )


def gradient(loss, lp):
    lp = lp.clone().requires_grad_()
    loss(lp).backward()
    return lp.grad


def ours(objective, batch, parts=(range(B),), counts=COUNTS):
    lp, *rest = batch
    return gradient(
        lambda x: sum(
            term(flat(x, *rest, rows), counts) for rows in parts for term in objective.terms
        ),
        lp,
    )


def native(loss, batch, **params):
    lp, old, ref, a = batch
    return gradient(lambda x: loss(x, old, ref, a, ON, *COUNTS, **params), lp)


def error(got, want):
    return ((got - want).norm() / want.norm()).item()


@pytest.mark.parametrize(("name", "params", "loss", "loss_params"), CASES, ids=IDS)
def test_gradient_equals_the_native_loss(name, params, loss, loss_params):
    for seed in range(3):
        batch = draw(seed)
        assert (
            error(ours(objective(name, **params), batch), native(loss, batch, **loss_params))
            < 1e-14
        )


@pytest.mark.parametrize(("name", "params"), [case[:2] for case in CASES], ids=IDS)
def test_gradient_is_blind_to_micro_batches_and_order(name, params):
    made, batch = objective(name, **params), draw()
    assert error(ours(made, batch, parts=([5, 0], [3], [4, 1, 2])), ours(made, batch)) < 1e-14


def test_every_preset_is_compared():
    of_teachers = {"opd", "gkd"}  # in tests/learner/test_distillation.py
    assert {name for name, *_ in CASES} | set(TWO_STREAMS) | of_teachers == set(PRESETS)


@pytest.mark.parametrize("name", TWO_STREAMS)
def test_two_streams_are_two_losses(name):
    """Own answers in the first three rows, demonstrations in the others, each with its own counts."""
    batch, made = draw(), objective(name)
    want = torch.zeros_like(batch[0])
    rows = {"policy": [0, 1, 2], "demonstration": [3, 4, 5]}
    for loss, mine in zip(TWO_STREAMS[name], rows.values(), strict=True):
        lp, old, ref, a = (x[mine] for x in batch)
        on = ON[mine]
        want[mine] = gradient(lambda x: loss(x, old, ref, a, on, on.sum(), len(mine)), lp)  # noqa: B023

    def both(lp):
        counts = {
            stream: Counts(int(LENGTHS[mine].sum()), len(mine)) for stream, mine in rows.items()
        }
        return sum(
            term(flat(lp, *batch[1:], rows[term.stream]), counts[term.stream])
            for term in made.terms
        )

    assert error(gradient(both, batch[0]), want) < 1e-14
    assert made.streams == tuple(rows)


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("ppo", clipped),
        ("gspo_token", gspo_token),
        ("gspo", gspo),
        ("luspo", luspo),
        ("grpo", grpo),
        ("awr", awr),
    ],
)
def test_credit_may_differ_from_token_to_token(name, loss):
    lp, old, ref, _ = draw()
    batch = (
        lp,
        old,
        ref,
        torch.randn(B, T, dtype=torch.float64, generator=torch.Generator().manual_seed(5)),
    )
    assert error(ours(objective(name), batch), native(loss, batch)) < 1e-14
    if name == "gspo":
        assert error(ours(objective("gspo_token"), batch), native(loss, batch)) > 1e-2


def test_kimi_is_the_printed_gradient():
    """(r - mean(r)) grad log pi(y) - tau/2 grad log^2(pi(y) / pi_i(y)), per problem of k samples.

    pi_i is the policy of the previous iteration, which drew the samples (arXiv 2501.12599).
    """
    lp, old, ref, a = draw()

    def printed(start):
        def loss(x):
            sequence = (x * ON).sum(1)
            log_ratio = sequence - (start * ON).sum(1)
            return -((a[:, 0] * sequence).sum() - 0.15 * (log_ratio**2).sum()) / B

        return gradient(loss, lp)

    made = objective("kimi", tau=0.3)
    got = ours(made, (lp, old, ref, a))
    assert not made.needs_reference
    assert error(got, printed(old)) < 1e-14
    assert error(got, printed(ref)) > 1e-2


def test_kimis_zero_loss_point_is_the_tilted_old_policy():
    """Where pi = pi_i exp((r - mean r) / tau) every squared error is 0, so the gradient is too."""
    old = torch.tensor([0.1, 0.7, -0.5, 0.9], dtype=torch.float64).log_softmax(0)
    reward = torch.tensor([1.0, 0.0, 0.5, 0.0], dtype=torch.float64)
    advantage = reward - reward.mean()
    tau = 0.4

    def pull(logp):
        live = logp.clone().requires_grad_()
        zero = torch.zeros_like(logp)
        tokens = Tokens(live, old, old, None, zero, advantage, zero + 1, torch.arange(4), 4)
        return torch.autograd.grad(objective("kimi", tau=tau).terms[0](tokens, Counts(4, 4)), live)[
            0
        ]

    assert pull(old + advantage / tau).abs().max() < 1e-15
    assert pull(old).abs().max() > 0.05


@pytest.mark.parametrize("name", ["grpo", "dapo", "ppo"])
def test_dual_clip_bounds_what_a_bad_answer_is_pushed_down_by(name):
    lp, old, ref, a = batch = draw(spread=1.0)
    r = (lp - old).exp()
    made = objective(name, dual_clip=1.5)
    want = ours(objective(name), batch).masked_fill((a < 0) & (r > 1.5), 0)
    assert (
        error(ours(made, batch), want) < 1e-14 and error(ours(objective(name), batch), want) > 1e-2
    )


@pytest.mark.parametrize(
    ("wrong", "loss"),
    [
        (Term(mask=clip(0.28, 0.2), denominator=old_policy), dapo),
        (Term(mask=clip(0.2, 0.28)), dapo),
        (Term(denominator=old_policy), dapo),
        (Term(mask=clip(0.2, 0.28), denominator=unit), dapo),
        (Term(mask=clip(0.2, 0.28), denominator=old_policy, average=sequence_mean), dapo),
        (Term(mask=clip(0.2, 0.28), denominator=capped(1.1)), dapo),
        (Term(mask=clip(0.2, 0.2), denominator=old_policy), grpo),
        (Term(mask=clip(3e-4, 4e-4), denominator=old_policy, average=sequence_mean), gspo),
        (
            Term(mask=clip(3e-4, 4e-4), denominator=sequence_old_policy, average=sequence_mean),
            luspo,
        ),
        (Term(denominator=gamma_weighted((3.0, 2.0), (2.0, 3.0))), vespo),
        (Term(advantage=less_sequence_log_ratio(0.2), average=sequence_sum), kimi),
        (Term(advantage=less_sequence_log_ratio(0.1)), kimi),
        (Term(advantage=exponential(1.0, 2.0)), awr),
        (Term(advantage=exponential(2.0, 20.0)), awr),
        (Term(advantage=constant(1.0)), dft),
        (objective("gspo", clip_low=0.4, clip_high=0.4).terms[0], gmpo),
        (replace(objective("gmpo").terms[0], mask=clip(0.4, 0.4)), gmpo),
        (replace(objective("gmpo").terms[0], average=sequence_sum), gmpo),
        (objective("rloo").terms[0], topr),
        (Term(denominator=sequence_product, average=sequence_sum), topr),
        (replace(objective("topr").terms[0], denominator=capped(1.0)), topr),
        (objective("dppo", divergence="kl").terms[0], dppo),
        (replace(objective("dppo").terms[0], mask=clip(0.2, 0.2)), dppo),
        (replace(objective("dppo").terms[0], denominator=live), dppo),
        (objective("kimi", tau=0.05).terms[0], dro),
        (objective("dro", beta=0.1).terms[0], dro),
    ],
    ids="clip-sides-swapped live-denominator no-mask no-denominator sequence-mean cap token-mean token-ratio "
    "no-length gamma-sides tau token-average-of-kimi awr-cap awr-beta sft-for-dft gspo-for-gmpo mean-clipped-in-gmpo gmpo-times-length "
    "no-taper taper-of-good-ones-too token-taper kl-for-tv ratio-clip-for-dppo no-ratio sequence-for-dro beta".split(),
)
def test_a_planted_mistake_is_noticed(wrong, loss):
    batch = draw()
    assert error(ours(Objective((wrong,)), batch), native(loss, batch)) > 1e-2


def test_counts_of_the_micro_batch_are_a_mistake():
    made, batch = objective("dapo"), draw()
    per_batch = sum(
        ours(made, batch, parts=[rows], counts=Counts(int(LENGTHS[list(rows)].sum()), len(rows)))
        / 2
        for rows in (range(3), range(3, 6))
    )
    assert error(per_batch, native(dapo, batch)) > 1e-2


def test_at_ratio_one_the_clipped_objectives_agree():
    lp, _, ref, a = draw()
    batch = (lp, lp, ref, a)
    want = ours(objective("grpo"), batch)
    for name in ("gspo", "sapo"):
        assert error(ours(objective(name), batch), want) < 1e-14
    assert error(ours(objective("cispo"), batch), ours(objective("dapo"), batch)) < 1e-14
    assert (
        error(ours(Objective((Term(denominator=capped(5.0), average=sequence_mean),)), batch), want)
        < 1e-14
    )
    off = draw()
    assert error(ours(objective("sapo"), off), ours(objective("grpo"), off)) > 1e-2


@pytest.mark.parametrize(
    ("advantage", "ratio", "kept"),
    [
        (1.0, 0.7, True),
        (1.0, 1.0, True),
        (1.0, 1.3, False),
        (-1.0, 0.7, False),
        (-1.0, 1.0, True),
        (-1.0, 1.3, True),
    ],
)
def test_clip_truth_table(advantage, ratio, kept):
    def slope(name):
        old = torch.zeros(1, dtype=torch.float64)
        lp = torch.tensor([ratio], dtype=torch.float64).log().requires_grad_()
        one = torch.ones_like(old)
        tokens = Tokens(
            lp, old, old, None, old, one * advantage, one, torch.zeros(1, dtype=torch.int64), 1
        )
        sum(term(tokens, Counts(1, 1)) for term in objective(name).terms).backward()
        return lp.grad.item()

    assert (slope("grpo") != 0) == kept
    assert slope("cispo") == pytest.approx(-advantage * ratio)


def test_doubling_a_sequence_doubles_its_weight_only_where_it_should():
    """Share of the second of two sequences in the gradient, when it has twice the tokens of the first."""
    row = torch.tensor([0, 0, 1, 1, 1, 1])
    lp = torch.zeros(6, dtype=torch.float64)

    def share(name, **params):
        live = lp.clone().requires_grad_()
        tokens = Tokens(live, lp, lp, None, lp, lp + 1, lp + 1, row, 2)
        sum(term(tokens, Counts(6, 2)) for term in objective(name, **params).terms).backward()
        return (live.grad[2:].sum() / live.grad[:2].sum()).item()

    assert share("grpo") == pytest.approx(1)
    assert share("dapo") == share("dr_grpo", max_tokens=10) == share("rloo") == pytest.approx(2)


def test_a_ratio_beyond_floating_point_is_masked_not_nan():
    lp = torch.tensor([-1.0]).requires_grad_()
    old, one = torch.tensor([-1e4]), torch.ones(1)
    tokens = Tokens(lp, old, old, None, old, one, one, torch.zeros(1, dtype=torch.int64), 1)
    objective("dapo").terms[0](tokens, Counts(1, 1)).backward()
    assert lp.grad.item() == 0


def test_entropy_bonus_is_a_term():
    h = torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
    z = torch.zeros(3)
    tokens = Tokens(z, z, z, None, h, z, z + 1, torch.tensor([0, 0, 1]), 2)
    loss = Term(advantage=constant(0.5), likelihood=entropy, name="entropy")(tokens, Counts(3, 2))
    loss.backward()
    assert loss.item() == pytest.approx(-0.5 * 7 / 3)
    assert torch.allclose(h.grad, torch.full((3,), -0.5 / 3))


def test_sample_weight_multiplies_the_gradient():
    batch = draw()
    tokens = flat(*batch)
    term = objective("grpo").terms[0]
    assert torch.equal(
        term(tokens._replace(weight=tokens.weight * 2), COUNTS), 2 * term(tokens, COUNTS)
    )
