"""Task sets for distillation with privileged context: a hint in the prompt, which the teacher reads and the student does not."""

import random
from collections.abc import Sequence
from dataclasses import replace

from rlcore import Task
from rlcore.tasks.instructions import instructions

LETTERS = "abcdefgh"
LENGTH = 4
BACKWARDS = 0.4
"""Of the demonstrations without a hint; the others are copied in order."""


def words(
    *, split: str = "train", seed: int = 0, size: int = 20_000, backwards: float = BACKWARDS
) -> Sequence[Task]:
    """Letters to be written backwards: "bdca=" has the answer "acdb". One word of eight is held out.

    backwards: share of right demonstrations; the others are copies of the word.
    """
    tasks = []
    for i in range(size):
        rng = random.Random(f"{split}/{seed}/{i}")
        word = ""
        while not word or (sum(map(ord, word)) % 8 == 0) != (split == "heldout"):
            word = "".join(rng.choices(LETTERS, k=LENGTH))
        answer = word[::-1]
        demonstration = answer if rng.random() < backwards else word
        tasks.append(
            Task(
                id=f"words/{split}/{seed}/{i}",
                prompt=f"{word}=",
                answer=answer,
                demonstration=demonstration,
            )
        )
    return tasks


def half_hinted(*, seed: int = 0, size: int = 20_000) -> Sequence[Task]:
    """Every second prompt begins with "<" and has a demonstration that is backwards; the others' are so in 40%."""
    tasks = list(words(seed=seed, size=size))
    tasks[1::2] = [hinted(task) for task in tasks[1::2]]
    return tasks


def hinted(task: Task) -> Task:
    """As `teacher.prompt: "<{prompt}"` shows it."""
    return replace(task, prompt=f"<{task.prompt}", demonstration=task.answer)


def hinted_words(*, seed: int = 0, size: int = 512) -> Sequence[Task]:
    """Held-out words, all with the hint."""
    return [hinted(task) for task in words(split="heldout", seed=seed, size=size)]


def told(*, text: str, kinds: Sequence[str], seed: int = 0, size: int = 64) -> Sequence[Task]:
    """Held-out instructions with `text` after each prompt."""
    tasks = instructions(split="heldout", kinds=kinds, seed=seed, size=size)
    return [replace(task, prompt=f"{task.prompt} {text}") for task in tasks]
