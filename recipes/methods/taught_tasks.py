"""Tasks for learning by teaching: every letter adds a number to digits, which the student must be told.

A question is "c3?". The letter c adds 2, so the worked answer is "+2=5", or in strokes "||=5". A student
that knows no letters can answer "c7?" once it has read such an example in the notation that it knows.
"""

import random
from collections.abc import Sequence

from rlcore import Task

LETTERS = "abcdefghijkl"
SPLITS = {"train": range(0, 6), "exam": range(6, 8), "test": range(8, 10), "all": range(10)}
"""Digits of the questions of each set: no question is in two of train, exam and test."""
SHIFTS = (1, 2, 3, 4)
STYLES = ("digit", "strokes")


def shift_of(letter: str) -> int:
    """What the letter adds."""
    return SHIFTS[LETTERS.index(letter) % len(SHIFTS)]


def worked(digit: int, shift: int, style: str) -> str:
    """`+2=5` or `||=5`: what is added, and the last digit of the sum."""
    said = f"+{shift}" if style == "digit" else "|" * shift
    return f"{said}={(digit + shift) % 10}"


def questions(*, split: str, mistakes: float = 0.0, copies: int = 1, seed: int = 0) -> Sequence[Task]:
    """Every letter with every digit of the split, `copies` times, in a mixed order.

    mistakes: fraction of the demonstrations that add one too many. Notations take turns by chance.
    """
    draw = random.Random(f"{split}/{seed}")
    tasks = []
    for copy in range(copies):
        for letter in LETTERS:
            for digit in SPLITS[split]:
                shift = shift_of(letter)
                wrong = shift % len(SHIFTS) + 1
                shown = wrong if draw.random() < mistakes else shift
                tasks.append(
                    Task(
                        id=f"{split}/{letter}{digit}/{copy}" if copies > 1 else f"{split}/{letter}{digit}",
                        prompt=f"{letter}{digit}?",
                        answer=str((digit + shift) % 10),
                        category=letter,
                        demonstration=worked(digit, shown, draw.choice(STYLES)),
                    )
                )
    draw.shuffle(tasks)
    return tasks


def demonstrations(*, style: str, size: int = 8000, seed: int = 0) -> Sequence[Task]:
    """What a student is made of: an example that shows what a letter adds this time, and a question about it."""
    draw = random.Random(f"demonstrations/{seed}")
    tasks = []
    for number in range(size):
        letter, shift = draw.choice(LETTERS), draw.choice(SHIFTS)
        shown, asked = draw.randrange(10), draw.randrange(10)
        tasks.append(
            Task(
                id=f"demonstrations/{number}",
                prompt=f"{letter}{shown}?{worked(shown, shift, style)}\n{letter}{asked}?",
                answer=str((asked + shift) % 10),
                demonstration=worked(asked, shift, style),
            )
        )
    return tasks


def voted(text: str, finished: bool) -> str | None:
    """What a completion votes for: the text after its last `=`."""
    return text.rpartition("=")[2] or None
