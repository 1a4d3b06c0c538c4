"""Products in bfloat16 on a CPU without instructions for them, against float64 products of the same numbers."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rlcore.bfloat16 import replace_products

ULP = 2.0**-8
"""Relative distance of neighbours in bfloat16."""


@pytest.fixture
def replaced() -> Iterator[None]:
    """torch's kernels are replaced for one test."""
    library = replace_products.__wrapped__()
    yield
    library._destroy()
    del library
    gc.collect()


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


A, B, ROW, FULL = draw(37, 64, seed=0), draw(64, 53, seed=1), draw(53, seed=2), draw(37, 53, seed=3)
BATCH_A, BATCH_B, BATCH_FULL = draw(5, 37, 64, seed=4), draw(5, 64, 53, seed=5), draw(5, 37, 53, seed=6)


def into(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function writing into a tensor that has another size before."""
    return lambda *inputs: function(*inputs, out=torch.empty(0, dtype=inputs[0].dtype))


PRODUCTS = {
    "mm": (torch.mm, (A, B)),
    "mm into a tensor": (into(torch.mm), (A, B)),
    "linear": (lambda x, w: F.linear(x, w.t()), (A, B)),
    "linear with a bias": (lambda x, w, b: F.linear(x, w.t(), b), (A, B, ROW)),
    "linear of three dimensions": (lambda x, w, b: F.linear(x, w.t(), b), (BATCH_A, B, ROW)),
    "addmm with factors": (lambda c, a, b: torch.addmm(c, a, b, beta=0.5, alpha=-2), (ROW, A, B)),
    "addmm into a tensor": (into(torch.addmm), (FULL, A, B)),
    "addmm in place": (lambda c, a, b: c.clone().addmm_(a, b), (FULL, A, B)),
    "bmm": (torch.bmm, (BATCH_A, BATCH_B)),
    "bmm into a tensor": (into(torch.bmm), (BATCH_A, BATCH_B)),
    "baddbmm with factors": (lambda c, a, b: torch.baddbmm(c, a, b, beta=3, alpha=0.5), (BATCH_FULL, BATCH_A, BATCH_B)),
    "einsum": (lambda a, b: torch.einsum("bij,bjk->bik", a, b), (BATCH_A, BATCH_B)),
}


def require_rounded(got: Tensor, exact: Tensor) -> None:
    """`got` is `exact` rounded to bfloat16, but for a few numbers that lie near the middle of two."""
    assert got.dtype == torch.bfloat16 and got.shape == exact.shape
    assert (got == exact.bfloat16()).double().mean() > 0.99
    assert ((got.double() - exact).abs() <= ULP * exact.abs() + 1e-3).all()


@pytest.mark.usefixtures("replaced")
@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_is_rounded_once(name: str) -> None:
    function, inputs = PRODUCTS[name]
    require_rounded(function(*inputs), function(*(value.double() for value in inputs)))
    with torch.inference_mode():
        require_rounded(function(*inputs), function(*(value.double() for value in inputs)))


@pytest.mark.usefixtures("replaced")
@pytest.mark.parametrize("autocast", [False, True])
def test_its_gradients_are_too(autocast: bool) -> None:
    weight = B.t().contiguous()
    wanted = draw(37, 53, seed=7)
    x, w, b = (
        (value.float() if autocast else value.clone()).requires_grad_() for value in (A, weight, ROW)
    )
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = F.linear(x, w, b)
    y.backward(wanted)
    exact = wanted.double()
    require_rounded(x.grad.bfloat16(), exact @ weight.double())
    require_rounded(w.grad.bfloat16(), exact.t() @ A.double())


def test_other_types_are_what_they_were() -> None:
    def products() -> list[Tensor]:
        wide = [[value.to(dtype) for value in inputs] for _, inputs in PRODUCTS.values() for dtype in (torch.float32, torch.float64)]
        functions = [function for function, _ in PRODUCTS.values() for _ in range(2)]
        return [function(*inputs) for function, inputs in zip(functions, wide, strict=True)]

    before = products()
    library = replace_products.__wrapped__()
    during = products()
    library._destroy()
    after = products()
    for one, two, three in zip(before, during, after, strict=True):
        assert torch.equal(one, two) and torch.equal(one, three)
