"""Token budgets: how long a completion may be at each step, stated in the prompt and handed to
rewards as a column.

A recipe names a schedule: `budget: {use: exponential, start: 256, factor: 0.7, every: 150}`. A
schedule is a function that takes its parameters and returns `step -> tokens`, with steps of the
stage counted from 0; it may ask for `steps`, their number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from numbers import Integral

from rlcore.errors import RecipeError
from rlcore.plugin import call
from rlcore.types import Task

Schedule = Callable[[int], int]

BUDGETS = {
    "fixed": "rlcore.curriculum.length_budget:fixed",
    "exponential": "rlcore.curriculum.length_budget:exponential",
    "drops": "rlcore.curriculum.length_budget:drops",
    "linear": "rlcore.curriculum.length_budget:linear",
    "smooth": "rlcore.curriculum.length_budget:smooth",
}
"""Name in a recipe -> where it is."""
_ROUND_OFF = 1e-9


def fixed(*, tokens: int) -> Schedule:
    """Always the same."""
    _check("fixed", tokens=tokens)
    return lambda step: tokens


def exponential(*, start: int, factor: float = 0.7, every: int) -> Schedule:
    """`max(1, floor(start factor^floor(step / every)))`: *Train Long, Think Short* (arXiv
    2508.08940).

    >>> [exponential(start=256, factor=0.7, every=150)(step) for step in (0, 149, 150, 300, 450, 599)]
    [256, 256, 179, 125, 87, 87]
    """
    _check("exponential", start=start, factor=factor, every=every)
    return lambda step: max(1, int(start * factor ** (step // every) + _ROUND_OFF))


def drops(*, start: int, end: int, drops: int = 3, steps: int) -> Schedule:
    """From `start` to `end` in equal ratios: `drops` of them, `steps / (drops + 1)` apart."""
    _check("drops", start=start, end=end, drops=drops)
    return lambda step: max(
        1, int(start * (end / start) ** (_phase(step, drops, steps) / drops) + _ROUND_OFF)
    )


def linear(*, start: int, end: int, drops: int = 3, steps: int) -> Schedule:
    """From `start` to `end` in equal differences: `drops` of them, `steps / (drops + 1)` apart."""
    _check("linear", start=start, end=end, drops=drops)
    return lambda step: max(
        1, int(start + (end - start) * _phase(step, drops, steps) / drops + _ROUND_OFF)
    )


def smooth(*, start: int, factor: float, least: int = 1, steps: int) -> Schedule:
    """`max(least, floor(start factor^(step / steps)))`: reinforcement mid-training (arXiv
    2509.24375), 800 to 160 with 0.2.
    """
    _check("smooth", start=start, factor=factor, least=least)
    return lambda step: max(least, int(start * factor ** (step / steps) + _ROUND_OFF))


def checked_schedule(owner: str, schedule: Schedule, *, most: int) -> Schedule:
    """A schedule, with its results checked.

    Raises `RecipeError` for anything but whole numbers from 1 to `most`.
    """
    if not callable(schedule):
        raise RecipeError(
            f"{owner} must give a function from a step to tokens, not a {type(schedule).__name__}"
        )

    def tokens(step: int) -> int:
        count = call(owner, schedule, step)
        if not isinstance(count, Integral) or count < 1:
            raise RecipeError(
                f"{owner} must be a whole number of tokens, 1 or more; at step {step} it is {count!r}"
            )
        if count > most:
            raise RecipeError(
                f"{owner} is {count} at step {step}, but sampling.max_tokens cuts completions at {most}"
            )
        return int(count)

    return tokens


def state_budget(task: Task, tokens: int, text: str) -> Task:
    """The task with the budget in its prompt and in the columns `budget` and `max_tokens` (the
    length rewards' name for it).

    text: with `{budget}` for the tokens and `{prompt}` for the prompt, or without `{prompt}` to
    be put after it; of chat messages the last one's content is the prompt.
    """
    if isinstance(task.prompt, str):
        prompt: str | list[dict[str, str]] = _fill(text, task.prompt, tokens)
    else:
        last = task.prompt[-1]
        prompt = [*task.prompt[:-1], {**last, "content": _fill(text, last["content"], tokens)}]
    return replace(
        task, prompt=prompt, columns={**task.columns, "budget": tokens, "max_tokens": tokens}
    )


def _fill(text: str, prompt: str, tokens: int) -> str:
    before, slot, after = text.replace("{budget}", str(tokens)).partition("{prompt}")
    return before + prompt + after if slot else prompt + before


def _phase(step: int, drops: int, steps: int) -> int:
    return min(drops, step * (drops + 1) // steps)


def _check(owner: str, **numbers: float) -> None:
    for name, value in numbers.items():
        if value <= 0:
            raise RecipeError(f"budget {owner}: {name} is {value}, but must be above 0")
