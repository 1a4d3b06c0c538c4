"""Number guessing: find a number in a range by "lower" and "higher". Difficulty is the size of the range.

    prompt "17-31:"   completion "24"   reply "25-31:"   completion "28"   the number: reward 1

Replies say which numbers are left, so that the best next guess follows from the last line. In the form `words` they only say
"higher" or "lower", in English, for chat models.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from rlcore.env.base import Observation
from rlcore.environments.play import Policy, demonstrated
from rlcore.environments.task_set import Split, check_share, task_set
from rlcore.errors import TaskError
from rlcore.types import Message, Task

Form = Literal["short", "words"]
_NUMBER = re.compile(r"\d{1,18}")
WORDS = (
    "I am thinking of a whole number from {low} to {high}. Guess it in at most {guesses} guesses. "
    "I will say whether my number is higher or lower. Write one number."
)


class NumberGuessing:
    """The environment. Reward 1 for the number within `guesses` completions, else 0.

    A completion must have exactly one number in it; one that has not is told so and is used up.
    """

    def reset(
        self, low: int, high: int, answer: int, guesses: int, form: Form = "short"
    ) -> Observation:
        self._low, self._high, self._number = low, high, answer
        self._guesses = guesses
        self._form = form
        return Observation(state=self._state)

    def step(self, message: Message) -> Observation:
        numbers = _NUMBER.findall(message["content"])
        guess = int(numbers[0]) if len(numbers) == 1 else None
        self._guesses -= 1
        if guess == self._number:
            return Observation(reward=1.0, done=True)
        if not self._guesses:
            return Observation(done=True)
        if guess is None:
            return Observation(self._reply("Write exactly one number."), state=self._state)
        if guess < self._number:
            self._low = max(self._low, guess + 1)
            return Observation(self._reply("Higher."), state=self._state)
        self._high = min(self._high, guess - 1)
        return Observation(self._reply("Lower."), state=self._state)

    @property
    def _state(self) -> str:
        return f"{self._low}-{self._high}, {self._guesses} left"

    def _reply(self, words: str) -> str:
        return words if self._form == "words" else f"{self._low}-{self._high}:"


class _Range(NamedTuple):
    low: int
    size: int
    number: int

    @property
    def key(self) -> str:
        # Not the number: what was learned of a range holds for all its numbers.
        return f"{self.low}-{self.low + self.size - 1}"

    @property
    def category(self) -> str:
        return f"{self.size}-numbers"

    @property
    def level(self) -> int:
        return self.size


def number_guessing(
    *,
    split: Split = "train",
    size: int = 10_000,
    seed: int = 0,
    sizes: Sequence[int] = (15,),
    max_number: int = 99,
    extra_guesses: int = 0,
    mistakes: float = 0.0,
    form: Form = "short",
) -> Sequence[Task]:
    """Ranges of so many numbers (one of `sizes`, drawn evenly) that end at `max_number` at the latest.

    Task i is a function of (seed, split, i) and the settings. Held out are ranges, whatever the number in them. Bisection
    needs the given number of guesses at most; `extra_guesses` come on top. Demonstrations bisect, but with probability
    `mistakes` a guess is any number of the range, as if nothing had been said. Raises `TaskError` for settings that give no
    such task.
    """
    check_share("number_guessing", "mistakes", mistakes)
    if not sizes or min(sizes) < 2 or max(sizes) > max_number or extra_guesses < 0:
        raise TaskError(
            "number_guessing needs sizes from 2 to max_number and extra_guesses >= 0, "
            f"got sizes={tuple(sizes)}, max_number={max_number}, extra_guesses={extra_guesses}"
        )
    if form not in ("short", "words"):
        raise TaskError(f"number_guessing has no form {form!r}: choose 'short' or 'words'")
    teacher = forgetful(mistakes)

    def draw(rng: random.Random) -> _Range:
        count = rng.choice(sizes)
        low = rng.randint(1, max_number - count + 1)
        return _Range(low, count, rng.randint(low, low + count - 1))

    def make(id: str, problem: _Range, rng: random.Random) -> Task:
        columns = {
            "low": problem.low,
            "high": problem.low + problem.size - 1,
            "guesses": problem.size.bit_length() + extra_guesses,
            "form": form,
        }
        prompt = WORDS if form == "words" else "{low}-{high}:"
        task = Task(
            id=id,
            prompt=prompt.format(**columns),
            answer=problem.number,
            columns=columns,
        )
        return demonstrated(NumberGuessing(), task, teacher, rng)

    return task_set("number_guessing", draw, make, split=split, size=size, seed=seed)


def numbers_left(task: Task, messages: Sequence[Message]) -> tuple[int, int]:
    """The smallest and the largest number that the replies so far allow."""
    low, high = task.columns["low"], task.columns["high"]
    guess = low
    for message in messages:
        text = message["content"]
        if message["role"] == "assistant":
            guess = int(text)
        elif text == "Higher.":
            low = guess + 1
        elif text == "Lower.":
            high = guess - 1
        else:
            low, high = map(int, text.rstrip(":").split("-"))
    return low, high


def optimal(task: Task, messages: Sequence[Message], rng: random.Random) -> str:
    """Bisection."""
    low, high = numbers_left(task, messages)
    return str((low + high) // 2)


def random_guess(task: Task, messages: Sequence[Message], rng: random.Random) -> str:
    """Any number of the range, as if nothing had been said."""
    return str(rng.randint(task.columns["low"], task.columns["high"]))


def forgetful(mistakes: float) -> Policy:
    """Bisection, but a random guess with probability `mistakes`."""

    def guess(task: Task, messages: Sequence[Message], rng: random.Random) -> str:
        policy = random_guess if rng.random() < mistakes else optimal
        return policy(task, messages, rng)

    return guess


POLICIES: dict[str, Policy] = {"random": random_guess, "optimal": optimal}
