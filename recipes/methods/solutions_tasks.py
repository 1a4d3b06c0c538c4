"""Task set and reward of a toy with several right answers: any rotation of a word but the word itself."""

import random
from collections.abc import Sequence
from dataclasses import replace

from opd_tasks import words

from rlcore import Task, Verdict, reward

RIGHT = 0.3
"""Of the demonstrations; the others copy the word."""


def rotations(word: str) -> list[str]:
    """The different ones, without the word: "bdca" has "dcab", "cabd" and "abdc"."""
    turned = [word[i:] + word[:i] for i in range(1, len(word))]
    return [text for text in dict.fromkeys(turned) if text != word]


def rotated(
    *, split: str = "train", seed: int = 0, size: int = 20_000, right: float = RIGHT
) -> Sequence[Task]:
    """Words with one of their rotations as demonstration in the share `right`, else the word as it stands."""
    tasks = []
    for i, task in enumerate(words(split=split, seed=seed, size=size)):
        rng = random.Random(f"rotated/{split}/{seed}/{i}")
        word = task.prompt.removesuffix("=")
        others = rotations(word)
        if not others:
            continue
        first = rng.choice(others)
        shown = first if rng.random() < right else word
        tasks.append(replace(task, answer=first, demonstration=shown))
    return tasks


@reward
def rotation(completion: str, prompt: str, **columns) -> Verdict:
    """1 for any rotation of the word that is not the word."""
    return Verdict(value=float(completion in rotations(prompt.removesuffix("="))))
