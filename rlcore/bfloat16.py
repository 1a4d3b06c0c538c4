"""bfloat16 matrix products on CPUs that have no instructions for them.

There torch's own take 5 to 60 times as long as those of float32. A product in float32 that is rounded at its end gives the
same numbers, but for the order of a sum: kernels for bfloat16 add up in float32 as well.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.library import Library, get_kernel

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
"""Functions of torch that others, such as `linear` and its backward, are made of."""


def speed_up_bfloat16() -> None:
    """On such a CPU, replace torch's kernels for matrix products in this process. Doing it twice is harmless."""
    if (
        torch.backends.mkldnn.is_available()
        and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    ):
        replace_products()


@cache
def replace_products() -> Library:
    """Take over torch's products on CPUs; those of other types are passed on. They last as long as what is returned."""
    library = Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that kernels are replaced, which is meant
        for name in PRODUCTS:
            kernel = get_kernel(f"aten::{name}", "CPU")
            into = get_kernel(f"aten::{name}.out", "CPU")
            for form, function in (
                (name, _product(kernel)),
                (f"{name}.out", _product_into(into, kernel)),
            ):
                library.impl(form, function, "CPU", with_keyset=True, allow_override=True)
    return library


def _product(kernel: Any) -> Callable[..., Tensor]:
    def product(keys: Any, *inputs: Tensor, **factors: Any) -> Tensor:
        if inputs[0].dtype != torch.bfloat16:
            return kernel.call_boxed(keys, *inputs, **factors)
        wide = [value.float() for value in inputs]
        return kernel.call_boxed(keys, *wide, **factors).bfloat16()

    return product


def _product_into(into: Any, kernel: Any) -> Callable[..., Tensor]:
    """The form with `out`."""

    def product(keys: Any, *inputs: Tensor, out: Tensor, **factors: Any) -> Tensor:
        if inputs[0].dtype != torch.bfloat16:
            return into.call_boxed(keys, *inputs, out=out, **factors)
        wide = [value.float() for value in inputs]
        result = kernel.call_boxed(keys, *wide, **factors)
        return out.resize_(result.shape).copy_(result)

    return product
