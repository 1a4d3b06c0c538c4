"""Self-Lengthen's toy: lists of words that begin with a letter, in alphabetical order and each once."""

import random
from collections.abc import Sequence
from statistics import fmean

from rlcore import Task, reward

LETTERS = "bcdfghkl"
WORDS = {letter: [f"{letter}{vowel}{end}" for vowel in "aeiou" for end in "dgnpt"] for letter in LETTERS}
EXTEND = "{request}{text}>"
"""What the extender reads, for halves and whole answers: a template of the makers."""


def _list(rng: random.Random, letter: str, count: int) -> list[str]:
    return sorted(rng.sample(WORDS[letter], count))


def requests(*, seed: int = 0, size: int = 256) -> Sequence[Task]:
    """"b:" asks for words with b."""
    return [Task(id=f"ask/{seed}/{i}", prompt=f"{LETTERS[i % len(LETTERS)]}:") for i in range(size)]


def both_roles(*, seed: int = 0, size: int = 8000) -> Sequence[Task]:
    """What the model can do at the start: the generator answers in 2 to 4 words; the extender writes a list with more words in it."""
    tasks = []
    for i in range(size):
        rng = random.Random(f"{seed}/{i}")
        letter = rng.choice(LETTERS)
        if i % 2:
            words = _list(rng, letter, rng.randint(2, 4))
            prompt, answer = f"{letter}:", " ".join(words)
        else:
            long = _list(rng, letter, rng.randint(2, 14))
            kept = sorted(rng.sample(range(len(long)), max(1, round(len(long) * rng.uniform(0.4, 0.7)))))
            prompt, answer = f"{letter}:{' '.join(long[k] for k in kept)}>", " ".join(long)
        tasks.append(Task(id=f"role/{seed}/{i}", prompt=prompt, demonstration=answer))
    return tasks


@reward
def quality(completion: str, prompt: str, **columns) -> float:
    """Fraction of the words that are words with the letter asked for and stand behind a smaller one."""
    words = completion.split()
    known = WORDS[prompt[0]]
    right = [word in known and words[i - 1 if i else 0] <= word for i, word in enumerate(words)]
    right = [good and words.count(word) == 1 for good, word in zip(right, words, strict=True)]
    return fmean(right) if words else 0.0


@reward
def words(completion: str, **columns) -> float:
    """How many words."""
    return float(len(completion.split()))
