"""pass@k: the chance that at least one of k completions of a task is right."""

from __future__ import annotations

import math


def pass_at_k(n: int, right: int, k: int) -> float:
    """Unbiased estimate from n >= k completions of which `right` are right: 1 - C(n - right, k) / C(n, k).

    It is the fraction of all k-subsets that hold a right completion (Chen et al. 2021, arXiv
    2107.03374, equation 1). Raises `ValueError` where n < k: then there is no such subset.
    """
    if not 0 <= right <= n:
        raise ValueError(f"{right} right completions of {n}")
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs at least {k} completions of a task, not {n}")
    return 1 - math.comb(n - right, k) / math.comb(n, k)


def powers_up_to(n: int) -> list[int]:
    """1, 2, 4, ... and n itself: the k for which n completions of a task are usually reported."""
    powers = [2**i for i in range(n.bit_length()) if 2**i <= n]
    return powers if powers[-1] == n else [*powers, n]
