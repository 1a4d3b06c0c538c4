"""The chunked head against a full float64 log-softmax, and what it holds in memory."""

import gc
import itertools
import sys
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rlcore.errors import LearnerError
from rlcore.learner import logprobs
from rlcore.learner.head import Head
from rlcore.learner.logprobs import chunked_logprobs, one_pass
from rlcore.learner.pack import pack
from rlcore.learner.support import pack_support
from rlcore.types import Sample

N, H, V = 23, 8, 50
SETTINGS = list(itertools.product([None, True], [1.0, 0.7], [None, 3.0]))


def inputs(dtype=torch.float64, bias=None):
    g = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, H, generator=g, dtype=torch.float64) for n in (N, V))
    offset = torch.randn(V, generator=g, dtype=torch.float64) if bias else None
    target = torch.randint(V, (N,), generator=g)
    made = [None if x is None else x.to(dtype).requires_grad_() for x in (hidden, weight, offset)]
    return *made, target


def full(hidden, weight, bias, target, temperature, softcap):
    z = torch.nn.functional.linear(hidden, weight, bias)
    z = z if softcap is None else softcap * torch.tanh(z / softcap)
    log_p = (z / temperature).log_softmax(-1)
    return log_p.gather(1, target[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)


def run(head, bias, dtype=torch.float64, pulls=(1.0, 1.0)):
    """Outputs and gradients of a fixed random pull on them."""
    hidden, weight, offset, target = inputs(dtype, bias)
    outputs = head(hidden, weight, offset, target)
    g = torch.Generator().manual_seed(1)
    random = [torch.randn(N, generator=g, dtype=torch.float64) for _ in outputs]
    sum(
        pull * (out * r).sum() for out, r, pull in zip(outputs, random, pulls, strict=True)
    ).backward()
    return [*outputs, hidden.grad, weight.grad] + ([offset.grad] if bias else [])


@pytest.mark.parametrize(("bias", "temperature", "softcap"), SETTINGS)
@pytest.mark.parametrize("pulls", [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0)])
def test_equals_full_log_softmax(bias, temperature, softcap, pulls):
    want = run(lambda *x: full(*x, temperature, softcap), bias, pulls=pulls)
    for tile in ((1, V), (7, 13), (N, 1), None):
        got = run(
            lambda *x, t=tile: chunked_logprobs(
                *x, temperature=temperature, softcap=softcap, tile=t
            ),
            bias,
            pulls=pulls,
        )
        for one, other in zip(got, want, strict=True):
            assert (one - other).abs().max() <= 1e-10 * other.abs().max()


@pytest.mark.parametrize(("bias", "temperature", "softcap"), SETTINGS)
def test_gradcheck(bias, temperature, softcap):
    hidden, weight, offset, target = inputs(bias=bias)
    hidden = hidden[:5].detach().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda h, w, b: chunked_logprobs(
            h, w, b, target[:5], temperature=temperature, softcap=softcap, tile=(2, 20)
        ),
        (hidden, weight, offset),
    )


def test_bf16_sums_in_fp32():
    logp, entropy, *grads = run(
        lambda *x: chunked_logprobs(*x, tile=(4, 16)), None, dtype=torch.bfloat16
    )
    want = run(lambda *x: full(*x, 1.0, None), None)
    assert logp.dtype == entropy.dtype == torch.float32 and grads[0].dtype == torch.bfloat16
    for got, exact in zip((logp, entropy, *grads), want, strict=True):
        assert (got.double() - exact).norm() / exact.norm() < 0.02


def test_autocast_computes_logits_in_its_dtype_and_gradients_in_the_weights():
    def head(*x):
        with torch.autocast("cpu", torch.bfloat16):
            return chunked_logprobs(*x, tile=(4, 16))

    logp, entropy, *grads = run(head, True, dtype=torch.float32)
    want = run(lambda *x: full(*x, 1.0, None), True)
    assert {x.dtype for x in (logp, entropy, *grads)} == {torch.float32}
    for got, exact in zip((logp, entropy, *grads), want, strict=True):
        assert (got.double() - exact).norm() / exact.norm() < 0.02


def test_no_tokens_give_zero_gradients():
    hidden, weight, _, target = inputs()
    logp, entropy = chunked_logprobs(hidden[:0], weight, None, target[:0])
    logp.sum().backward()
    assert len(logp) == len(entropy) == 0 and not weight.grad.any() and not hidden.grad.any()


class Largest(TorchDispatchMode):
    """Largest tensor any operation returned, in elements."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else [out]:
            if isinstance(value, torch.Tensor):
                self.elements = max(self.elements, value.numel())
        return out


def largest(head, n=512, vocabulary=1000):
    hidden, weight = (
        torch.randn(n, 4, requires_grad=True),
        torch.randn(vocabulary, 4, requires_grad=True),
    )
    with Largest() as seen:
        logp, entropy = head(hidden, weight, None, torch.zeros(n, dtype=torch.int64))
        (logp.sum() + entropy.sum()).backward()
    return seen.elements


def test_logits_of_all_tokens_are_never_held():
    assert largest(lambda *x: chunked_logprobs(*x, tile=(64, 250))) == 16 * 1000
    assert largest(lambda *x: full(*x, 1.0, None)) >= 512 * 1000


@pytest.mark.parametrize("has_backward", [True, False])
@pytest.mark.parametrize("way", ["recompute", "one_pass"])
def test_nothing_is_held_when_the_outputs_are_gone(way, has_backward):
    """The inputs of each call, among them a copy of the weight under autocast, are freed without a garbage collection."""
    hidden, weight, _, target = inputs(torch.float32)
    gc.collect()
    gc.disable()
    try:
        held = weakref.ref(held_input := hidden * 1.0)
        if way == "recompute":
            outputs = chunked_logprobs(held_input, weight, None, target)
            total = outputs[0].sum() + outputs[1].sum()
        else:
            outputs = one_pass(held_input, weight, None, target, lambda logp, entropy, part: logp.sum() + entropy.sum())
            total = outputs[2]
        if has_backward:
            total.backward()
        del outputs, total, held_input
        assert held() is None
    finally:
        gc.enable()


def test_one_pass_equals_full_and_recompute():
    """Loss and gradients of a loss that bends in both values, for every bias, temperature, cap and chunk."""

    def loss(logp, entropy, part):
        scale = torch.arange(1.0, N + 1, dtype=torch.float64)[part]
        return (scale * logp.exp() * logp + scale.sqrt() * entropy * entropy).sum()

    for bias, temperature, softcap in SETTINGS:
        settings = {"temperature": temperature, "softcap": softcap}
        want = gradients(
            lambda *x, t=temperature, c=softcap: loss(*full(*x, t, c), slice(None)), bias
        )
        sizes = [(one_pass_loss, {"chunk": n}) for n in (1, 7, None)] + [
            (recompute_loss, {"tile": t}) for t in ((7, 13), None)
        ]
        for way, size in sizes:
            got = gradients(lambda *x, w=way, s=settings | size: w(x, loss, **s), bias)
            for one, other in zip(got, want, strict=True):
                assert (one - other).abs().max() <= 1e-10 * other.abs().max()


def one_pass_loss(inputs, loss, **settings):
    logp, entropy, value = one_pass(*inputs, loss, **settings)
    assert not logp.requires_grad and not entropy.requires_grad
    return value


def recompute_loss(inputs, loss, **settings):
    return loss(*chunked_logprobs(*inputs, **settings), slice(None))


def gradients(value_of, bias):
    """A loss, and its gradients when it is a third of something."""
    hidden, weight, offset, target = inputs(bias=bias)
    value = value_of(hidden, weight, offset, target)
    (value / 3).backward()
    return [value.detach(), hidden.grad, weight.grad] + ([offset.grad] if bias else [])


def test_one_pass_in_fp32_is_exact_to_a_millionth_and_in_bf16_sums_in_fp32():
    def loss(logp, entropy, part):
        return (logp * logp).sum()

    for dtype, limit in ((torch.float32, 1e-6), (torch.bfloat16, 0.02)):
        results = []
        for head_dtype, way in ((dtype, one_pass_loss), (torch.float64, recompute_loss)):
            hidden, weight, _, target = inputs(head_dtype)
            way(
                (hidden, weight, None, target),
                loss,
                **({"chunk": 4} if way is one_pass_loss else {}),
            ).backward()
            results.append((hidden.grad, weight.grad))
        for got, exact in zip(*results, strict=True):
            assert (got.double() - exact).norm() / exact.norm() < limit


def test_one_pass_holds_a_chunk_and_the_gradients():
    def loss(logp, entropy, part):
        return logp.sum() + entropy.sum()

    assert largest(lambda *x: (one_pass(*x, loss, chunk=16)[2], torch.zeros(()))) == 16 * 1000


def test_a_frozen_weight_gets_no_gradient(monkeypatch):
    """Under an adapter the head's weight is frozen: its gradient, the largest of all, is not made."""
    hidden, weight, _, target = inputs()
    made = []
    take = logprobs.HeadGradients.take
    monkeypatch.setattr(
        logprobs.HeadGradients, "take", lambda self: made.append(take(self)) or made[-1]
    )
    one_pass(hidden, weight.detach(), None, target, lambda logp, entropy, part: logp.sum())[
        2
    ].backward()
    chunked_logprobs(hidden, weight.detach(), None, target)[0].sum().backward()
    assert len(made) == 2 and all(grads[1] is None for grads in made)
    want = inputs()[0]
    full(want, weight, None, target, 1.0, None)[0].sum().backward()
    assert (hidden.grad / 2 - want.grad).abs().max() < 1e-12


def drawn_support(bias=None, seed=2):
    """Kept tokens of the N rows: the target and some others, in a mixed order; every third row keeps all."""
    g = torch.Generator().manual_seed(seed)
    target = inputs(bias=bias)[3].tolist()
    lists = []
    for row in range(N):
        others = torch.randperm(V, generator=g)[: int(torch.randint(0, 9, (1,), generator=g))]
        kept = sorted({target[row], *others.tolist()})
        lists.append(None if row % 3 == 2 else kept)
    return lists


def packed(lists, bias=None):
    mask = [False] + [True] * N
    sample = Sample(
        id="s",
        token_ids=[0, *inputs(bias=bias)[3].tolist()],
        mask=mask,
        advantages=[0.0] * (N + 1),
        support=[None, *lists],
    )
    return pack_support([(sample, list(range(1, N + 1)))])


def full_over(lists, hidden, weight, bias, target, temperature, softcap):
    """Log-softmax over the kept tokens of each row, one row after the other."""
    z = torch.nn.functional.linear(hidden, weight, bias)
    z = z if softcap is None else softcap * torch.tanh(z / softcap)
    logp, entropy = [], []
    for row, kept in enumerate(lists):
        kept = list(range(V)) if kept is None else kept
        log_p = (z[row, kept] / temperature).log_softmax(-1)
        logp.append(log_p[kept.index(int(target[row]))])
        entropy.append(-(log_p.exp() * log_p).sum())
    return torch.stack(logp), torch.stack(entropy)


@pytest.mark.parametrize(("bias", "temperature", "softcap"), SETTINGS)
@pytest.mark.parametrize("pulls", [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0)])
def test_with_a_support_the_softmax_is_over_the_kept_tokens(bias, temperature, softcap, pulls):
    lists = drawn_support(bias)
    support = packed(lists, bias)
    settings = {"temperature": temperature, "softcap": softcap, "support": support}
    want = run(lambda *x: full_over(lists, *x, temperature, softcap), bias, pulls=pulls)
    for tile in ((1, V), (7, 13), (N, 1), (5, 3), None):
        got = run(lambda *x, t=tile: chunked_logprobs(*x, **settings, tile=t), bias, pulls=pulls)
        for one, other in zip(got, want, strict=True):
            assert one.isfinite().all()
            assert (one - other).abs().max() <= 1e-10 * max(1e-3, other.abs().max())


@pytest.mark.parametrize(("bias", "temperature", "softcap"), SETTINGS)
def test_one_pass_with_a_support(bias, temperature, softcap):
    def loss(logp, entropy, part):
        scale = torch.arange(1.0, N + 1, dtype=torch.float64)[part]
        return (scale * logp.exp() * logp + scale.sqrt() * entropy * entropy).sum()

    lists = drawn_support(bias)
    settings = {"temperature": temperature, "softcap": softcap, "support": packed(lists, bias)}
    want = gradients(
        lambda *x: loss(*full_over(lists, *x, temperature, softcap), slice(None)), bias
    )
    for way, size in ((one_pass_loss, {"chunk": 4}), (one_pass_loss, {}), (recompute_loss, {})):
        got = gradients(lambda *x, w=way, s=settings | size: w(x, loss, **s), bias)
        for one, other in zip(got, want, strict=True):
            assert (one - other).abs().max() <= 1e-10 * other.abs().max()


def test_a_support_in_half_precision_and_fp32_has_no_nan():
    lists = drawn_support()
    want = run(lambda *x: full_over(lists, *x, 1.0, 3.0), None)
    for dtype, limit in ((torch.float32, 1e-5), (torch.bfloat16, 0.03)):
        settings = {"softcap": 3.0, "support": packed(lists), "tile": (4, 16)}
        got = run(lambda *x, s=settings: chunked_logprobs(*x, **s), None, dtype=dtype)
        for one, exact in zip(got, want, strict=True):
            assert (one.double() - exact).norm() / exact.norm() < limit


def test_a_single_kept_token_is_certain_and_pulls_nothing():
    target = inputs(bias=True)[3].tolist()
    alone = packed([[token] for token in target], bias=True)
    logp, entropy, *grads = run(lambda *x: chunked_logprobs(*x, support=alone, tile=(4, 7)), True)
    assert not logp.any() and entropy.abs().max() < 1e-15
    assert all(grad.abs().max() < 1e-14 for grad in grads)


def test_a_support_of_the_whole_vocabulary_changes_no_bit():
    everything = packed([list(range(V))] * N, bias=True)
    for softcap in (None, 3.0):
        plain = run(lambda *x, c=softcap: chunked_logprobs(*x, softcap=c, tile=(7, 13)), True)
        kept = run(
            lambda *x, c=softcap: chunked_logprobs(*x, softcap=c, tile=(7, 13), support=everything),
            True,
        )
        assert all(torch.equal(one, other) for one, other in zip(plain, kept, strict=True))


def test_a_wrong_support_is_noticed():
    lists = drawn_support()
    want = run(lambda *x: full_over(lists, *x, 1.0, None), None)
    shifted = [None if kept is None else sorted({*kept, (kept[0] + 1) % V}) for kept in lists]
    got = run(lambda *x: chunked_logprobs(*x, support=packed(shifted)), None)
    assert (got[0] - want[0]).abs().max() > 1e-3
    missing = [None if kept is None else [(t + 1) % V for t in kept] for kept in lists]
    with pytest.raises(LearnerError, match="not among the"):
        packed(missing)


def test_untruncated_samples_have_no_support():
    assert packed([None] * N) is None
    g = [Sample(id="s", token_ids=[1, 2], mask=[False, True], advantages=[0.0, 1.0])]
    assert pack(g, max_tokens=9)[0].support is None


def test_a_gpu_without_kernels_has_the_plain_head(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "rlcore.learner.head_kernels", None)  # as where Triton is missing
    assert logprobs.gpu_head.__wrapped__(torch.device("cpu")) is Head
    assert caplog.messages[0].startswith("output head without Triton's kernels: import of")
