"""RM@N: accuracy of the completion that a reward model likes best of N (Qwen2.5-Math, arXiv 2409.12122)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby


def best_of_n(scores: Sequence[float], rights: Sequence[float], n: int) -> float:
    """Expected accuracy of the best-scored of N completions, over all N-subsets of those there are.

    scores: what the reward model gives each completion. rights: how right each is, 0 to 1. Of
    completions with equal scores each is chosen equally often. Never above pass@N of the same completions.
    """
    total = len(scores)
    if len(rights) != total:
        raise ValueError(f"{total} scores, but {len(rights)} say whether they are right")
    if not 1 <= n <= total:
        raise ValueError(f"RM@{n} needs at least {n} completions of a task, not {total}")
    ranked = sorted(zip(scores, rights, strict=True))
    accuracy, below = 0.0, 0
    for _, tied in groupby(ranked, key=lambda pair: pair[0]):
        of_tied = [right for _, right in tied]
        up_to = below + len(of_tied)
        # subsets whose best score is this one: those within it, without those wholly below it
        subsets = math.comb(up_to, n) - math.comb(below, n)
        accuracy += subsets * sum(of_tied) / len(of_tied)
        below = up_to
    return accuracy / math.comb(total, n)
