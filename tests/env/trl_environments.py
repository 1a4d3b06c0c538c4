"""Tools and environments as TRL's users write them."""

from __future__ import annotations

import asyncio


def multiply(a: int, b: int) -> int:
    """
    Multiplies two integers.

    Args:
        a: The first integer.
        b: The second integer.

    Returns:
        The product of the two integers.
    """
    return a * b


def divide(a: float, b: float) -> float:
    """
    Divides two numbers.

    Args:
        a: The dividend.
        b: The divisor.

    Returns:
        The quotient.
    """
    return a / b


async def fetch(key: str) -> dict:
    """
    Looks a value up.

    Args:
        key: Its key.

    Returns:
        The entry.
    """
    await asyncio.sleep(0)
    return {"key": key, "value": {"one": 1}[key]}


class CounterEnv:
    """As in TRL's documentation of `environment_factory`: state, public methods as tools, its own reward."""

    def __init__(self) -> None:
        self.counter = 0
        self.goal = 0

    def reset(self, prompt, goal: int, **kwargs) -> str | None:
        self.counter = 0
        self.goal = goal
        return f"Reach {goal}."

    def increment(self, step: int) -> int:
        """
        Increments the counter.

        Args:
            step: The increment.

        Returns:
            The value of the counter.
        """
        if step < 1:
            raise ValueError("the step must be positive")
        self.counter += step
        return self.counter

    async def look(self) -> str:
        """
        Looks at the counter.

        Returns:
            What it shows.
        """
        return f"the counter shows {self.counter}"

    def _private(self) -> None:
        raise AssertionError("no tool")

    def get_reward(self) -> float:
        return 1.0 - abs(self.goal - self.counter) / 10


class Strict:
    """Its reset names exactly the columns of its data."""

    def reset(self, prompt, word: str) -> None:
        self.word = word

    def say(self) -> str:
        """
        Says the word.

        Returns:
            The word.
        """
        return self.word
