"""Which prefixes of an answer are worth continuing next, given what is known of it.

A search sees the values [L + 1] of one answer of L steps, None where not estimated, and names the steps (1 to L - 1) after which
to continue it now; none when it is done. It is asked again after each round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Search = Callable[[Sequence[float | None], float], list[int]]
"""(values [L + 1], the value up to which a prefix counts as dead) -> steps."""


def every_step(values: Sequence[float | None], dead: float) -> list[int]:
    """All at once: L - 1 prefixes, one round."""
    return [i for i, value in enumerate(values) if value is None]


def until_dead(values: Sequence[float | None], dead: float) -> list[int]:
    """Step by step, up to the first dead one: nothing is spent after the pit, at one round a step."""
    for i in range(1, len(values)):
        value = values[i]
        if value is None:
            return [i]
        if value <= dead:
            break
    return []


def bisect(values: Sequence[float | None], dead: float) -> list[int]:
    """The first dead step in about log2(L) prefixes and rounds, supposing that what is dead stays dead.

    It closes in on one place where a living prefix is followed by a dead one. An answer with a reward above `dead` has none.
    """
    dead_at = next(
        (i for i in range(1, len(values)) if _is(values[i], lambda value: value <= dead)), None
    )
    if dead_at is None:
        return []
    alive_at = max(
        (i for i in range(1, dead_at) if _is(values[i], lambda value: value > dead)), default=0
    )
    return [(alive_at + dead_at) // 2] if dead_at - alive_at > 1 else []


def backwards(values: Sequence[float | None], dead: float) -> list[int]:
    """Step by step from the last one, up to the first prefix that is alive: continuations are as short as they can be.

    The pit is the step after that prefix, supposing that what is dead stays dead. A late pit, and a value that is above 0 only
    near the end, are found for the tokens of a few steps. The order of starts in R3 (arXiv 2402.05808).
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


def _is(value: float | None, test: Callable[[float], bool]) -> bool:
    return value is not None and test(value)
