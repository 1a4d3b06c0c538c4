"""Texts with a hidden cause: four letters, shifted in the alphabet by a number that nobody writes down. The thought is that number."""

import random
from collections.abc import Sequence

from rlcore import Task

LETTERS = "abcdefghijklmnop"
WORDS = ("bead", "cafe", "dice", "fade", "head", "iced", "jade", "lace")
SHIFTS = "01234567"
"""Each is one thought."""


def shifted(word: str, shift: int) -> str:
    return "".join(LETTERS[(LETTERS.index(letter) + shift) % len(LETTERS)] for letter in word)


def _text(rng: random.Random, words: int) -> tuple[str, str]:
    """Words that are all shifted alike, and the shift."""
    shift = rng.choice(SHIFTS)
    chosen = [shifted(rng.choice(WORDS), int(shift)) for _ in range(words)]
    return " ".join(chosen), shift


def texts(*, seed: int = 0, size: int = 2000, words: int = 3) -> Sequence[Task]:
    """To be thought about: the posterior form's beginning. `answer` is the thought that made the text, for evaluations."""
    tasks = []
    for i in range(size):
        text, shift = _text(random.Random(f"{seed}/{i}"), words)
        prompt = f"<|posterior|>{text}<|thought|>"
        tasks.append(Task(id=f"text/{seed}/{i}", prompt=prompt, answer=shift))
    return tasks


def shown(*, seed: int = 0, size: int = 64, words: int = 3) -> Sequence[Task]:
    """The warm start: a few texts whose thoughts a teacher wrote, each in both forms."""
    tasks = []
    for i in range(size):
        text, shift = _text(random.Random(f"shown/{seed}/{i}"), words)
        for form, prompt, rest in (
            ("prior", "<|prior|>", f"{shift}<|eos|><|text|>{text}"),
            ("posterior", "<|posterior|>", f"{text}<|thought|>{shift}"),
        ):
            name = f"shown/{seed}/{i}/{form}"
            tasks.append(Task(id=name, prompt=prompt, category=form, demonstration=rest))
    return tasks
