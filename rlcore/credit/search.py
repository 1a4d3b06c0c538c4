"""Which prefixes of a completion are worth continuing next, given the values estimated so far.

A search reads the values [L + 1] of one completion of L steps, None where not estimated, and
names the steps (1 to L - 1) after which to continue it now; none when it is done. It is asked
again after each round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Search = Callable[[Sequence[float | None], float], list[int]]
"""(values [L + 1], the value up to which a prefix counts as dead) -> steps."""


def every_step(values: Sequence[float | None], dead: float) -> list[int]:
    """All at once: L - 1 prefixes, one round."""
    return [i for i, value in enumerate(values) if value is None]


def until_dead(values: Sequence[float | None], dead: float) -> list[int]:
    """Step by step, up to the first dead one: nothing is spent after the pit, at one round a
    step.
    """
    for i in range(1, len(values)):
        value = values[i]
        if value is None:
            return [i]
        if value <= dead:
            break
    return []


def bisect(values: Sequence[float | None], dead: float) -> list[int]:
    """The first dead step in about log2(L) prefixes and rounds, supposing that what is dead stays
    dead.

    It closes in on one place where a living prefix is followed by a dead one. A completion with a
    reward above `dead` has none.
    """
    alive_at = 0
    for i in range(1, len(values)):
        value = values[i]
        if value is None:
            continue
        if value > dead:
            alive_at = i
            continue
        # The first dead step that is known, i; the pit lies between it and the last living one
        # before it.
        return [(alive_at + i) // 2] if i - alive_at > 1 else []
    return []


def backwards(values: Sequence[float | None], dead: float) -> list[int]:
    """Step by step from the last one, up to the first prefix that is alive: continuations are as
    short as they can be.

    The pit is the step after that prefix, supposing that what is dead stays dead. A late pit, and
    a value that is above 0 only near the end, are found for the tokens of a few steps. The order
    of starts in R3 (arXiv 2402.05808).
    """
    for i in range(len(values) - 2, 0, -1):
        value = values[i]
        if value is None:
            return [i]
        if value > dead:
            break
    return []


SEARCHES: dict[str, Search] = {
    "all": every_step,
    "until_dead": until_dead,
    "bisect": bisect,
    "backwards": backwards,
}
