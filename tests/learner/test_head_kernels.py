"""Triton's kernels of the output head: on a GPU, or through Triton's interpreter (TRITON_INTERPRET=1)."""

import itertools
import os
import subprocess
import sys

import pytest
import torch

from rlcore.learner import logprobs
from rlcore.learner.head import Head
from rlcore.learner.logprobs import chunked_logprobs, one_pass

triton = pytest.importorskip("triton", reason="Triton is not installed")
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs a GPU, or TRITON_INTERPRET=1", allow_module_level=True)

from rlcore.learner import head_kernels  # noqa: E402  (only where Triton is)

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
N, H, V = 9, 8, 50
SETTINGS = list(itertools.product([None, True], [1.0, 0.7], [None, 3.0]))


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    """Blocks narrower than a row, and the head in kernels, also on a CPU. Their calls are counted."""
    made = []

    class Counted(head_kernels.KernelHead):
        def __init__(self, *args, **settings):
            made.append(self)
            super().__init__(*args, **settings)

    monkeypatch.setattr(head_kernels, "BLOCK", 16)
    monkeypatch.setattr(logprobs, "Head", Counted)
    monkeypatch.setattr(logprobs, "gpu_head", lambda device: Counted)
    return made


def inputs(dtype, bias, targets=1):
    g = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, H, generator=g) for n in (N, V))
    offset = torch.randn(V, generator=g) if bias else None
    target = torch.randint(V, (N, targets), generator=g).to(DEVICE)
    made = [
        None if x is None else x.to(DEVICE, dtype).requires_grad_() for x in (hidden, weight, offset)
    ]
    return made, target


def whole(hidden, weight, bias, target, temperature, softcap):
    """All logits in float64 -> log-probabilities [n, M] and entropies."""
    z = torch.nn.functional.linear(hidden, weight, bias)
    z = z if softcap is None else softcap * torch.tanh(z / softcap)
    log_p = (z / temperature).log_softmax(-1)
    return log_p.gather(1, target), -(log_p.exp() * log_p).sum(-1)


def loss_of(entropy_weight):
    pull = torch.randn(N, generator=torch.Generator().manual_seed(1))

    def loss(logp, entropy, part):
        value = logp if logp.dim() == 1 else logp.sum(1)
        part_pull = pull[part].to(value.device, value.dtype)
        total = (value.exp() * part_pull).sum()
        return total if entropy_weight == 0 else total + entropy_weight * (entropy * part_pull).sum()

    return loss


def close(got, want, limit):
    for one, other in zip(got, want, strict=True):
        assert (one.double() - other).norm() <= limit * other.norm().clamp(min=1e-3)


def result(way, values, target, loss, tile, **settings):
    """Log-probabilities, entropies and gradients of one of the ways."""
    leaves = [x for x in values if x is not None]
    if way == "whole":
        logp, entropy = whole(*values, target, **settings)
        value = loss(logp, entropy, slice(None))
    elif way == "one_pass":
        logp, entropy, value = one_pass(*values, target, loss, chunk=tile[0], **settings)
    else:
        logp, entropy = chunked_logprobs(*values, target, tile=tile, **settings)
        value = loss(logp, entropy, slice(None))
    return [logp.detach(), entropy.detach(), *torch.autograd.grad(value, leaves)]


@pytest.mark.parametrize(("bias", "temperature", "softcap"), SETTINGS)
@pytest.mark.parametrize("way", ["one_pass", "recompute"])
def test_equals_all_logits_in_float64(kernels, way, bias, temperature, softcap):
    settings = {"temperature": temperature, "softcap": softcap}
    for entropy_weight, tile in ((0.0, (4, 50)), (0.3, (4, 21))):
        values, target = inputs(torch.float32, bias)
        loss = loss_of(entropy_weight)
        got = result(way, values, target, loss, tile, **settings)
        exact = [None if x is None else x.detach().double().requires_grad_() for x in values]
        close(got, result("whole", exact, target, loss, tile, **settings), 2e-5)
    assert len(kernels) == 2


def test_several_targets_of_a_token():
    values, target = inputs(torch.float32, None, targets=3)
    settings = {"temperature": 0.7, "softcap": 3.0}
    loss = loss_of(0.3)
    exact = [None if x is None else x.detach().double().requires_grad_() for x in values]
    want = result("whole", exact, target, loss, (4, 21), **settings)
    for way in ("one_pass", "recompute"):
        close(result(way, values, target, loss, (4, 21), **settings), want, 2e-5)


def test_bfloat16_is_rounded_once():
    """As far from float64 as the plain head is."""
    values, target = inputs(torch.bfloat16, None)
    settings = {"temperature": 0.7, "softcap": None}
    loss = loss_of(0.3)
    exact = [None if x is None else x.detach().double().requires_grad_() for x in values]
    want = result("whole", exact, target, loss, (4, 21), **settings)
    close(result("recompute", values, target, loss, (4, 21), **settings), want, 2e-2)


def test_a_tile_of_lower_logits_takes_nothing_from_the_sums():
    """The running maximum falls behind in the first tile, or stays in the second."""
    hidden = torch.ones(2, 1, device=DEVICE)
    weight = torch.tensor([[90.0], [0.0], [-90.0], [95.0]], device=DEVICE)
    target = torch.tensor([0, 3], device=DEVICE)
    logp, entropy = chunked_logprobs(hidden, weight, None, target, tile=(2, 2))
    want, entropies = whole(
        hidden.double(), weight.double(), None, target[:, None], temperature=1.0, softcap=None
    )
    assert (logp - want[:, 0]).abs().max() < 1e-5 and (entropy - entropies).abs().max() < 1e-5


def test_the_check_before_use_finds_a_wrong_kernel(monkeypatch):
    assert head_kernels.difference(DEVICE) < head_kernels.TOLERANCE
    plain = head_kernels.KernelHead.scale
    for wrong in ({"temperature": 0.75}, {"CAPPED": False}, {"softcap": 9.0}):
        monkeypatch.setattr(
            head_kernels.KernelHead, "scale", lambda self, w=wrong: plain(self) | w
        )
        assert head_kernels.difference(DEVICE) > head_kernels.TOLERANCE


def test_the_plain_head_takes_what_kernels_cannot(monkeypatch):
    monkeypatch.undo()
    values, target = inputs(torch.float64, None)
    head = logprobs._head(*values, 1.0, None, None)
    assert type(head) is Head


CARDS = {80: "A100", 90: "H100 and H200", 100: "B200"}
COMPILE = """
import sys
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from rlcore.learner import head_kernels as kernels

SUMS = {"z_ptr": "*bf16", "width": "i32", "temperature": "fp32", "softcap": "fp32"}
SUMS |= dict.fromkeys(("top_ptr", "total_ptr", "weighted_ptr"), "*fp32")
PULL = {"z_ptr": "*bf16", "target_ptr": "*i64", "grad_logp_ptr": "*fp32", "pulled_ptr": "*fp32"}
PULL |= dict.fromkeys(("log_total_ptr", "entropy_ptr", "grad_entropy_ptr"), "*fp32")
PULL |= {"width": "i32", "targets": "i32", "temperature": "fp32", "softcap": "fp32"}
target = GPUTarget("cuda", int(sys.argv[1]), 32)
for kernel, types, names in (
    (kernels._sums, SUMS, ("CAPPED",)),
    (kernels._pull, PULL, ("CAPPED", "HAS_ENTROPY")),
):
    for value in (False, True):
        chosen = dict.fromkeys(names, value) | {"BLOCK": kernels.BLOCK}
        signature = types | dict.fromkeys(chosen, "constexpr")
        source = ASTSource(kernel, signature, chosen)
        made = compile(source, target=target, options={"num_warps": kernels.WARPS})
        assert made.asm["cubin"]
"""


@pytest.mark.parametrize("capability", CARDS, ids=CARDS.values())
def test_compiles_to_machine_code_without_a_gpu(tmp_path, capability):
    environment = dict(os.environ, TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, str(capability)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_used_where_it_compiles_and_agrees(monkeypatch, caplog):
    monkeypatch.undo()
    caplog.set_level("INFO")
    choose = logprobs.gpu_head.__wrapped__  # without what it remembers
    assert choose(DEVICE) is head_kernels.KernelHead
    monkeypatch.setattr(head_kernels, "difference", lambda device: float("nan"))
    assert choose(DEVICE) is Head
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
