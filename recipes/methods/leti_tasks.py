"""Task sets and reward of LeTI's toy: words to be written backwards, behind a control token, with feedback in words."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

from opd_tasks import words

from rlcore import Task, Verdict, reward


def marked(*, mark: str, split: str = "train", seed: int = 0, size: int = 512) -> Sequence[Task]:
    """Words to be written backwards, with `mark` in front of each prompt."""
    tasks = words(split=split, seed=seed, size=size)
    return [replace(task, prompt=mark + task.prompt) for task in tasks]


@reward
def backwards(completion: str, answer: str, **columns) -> Verdict:
    """Whether the word is right, and which letters are not."""
    pairs = enumerate(zip_longest(completion, answer), start=1)
    wrong = [str(place) for place, (one, other) in pairs if one != other]
    return Verdict(value=float(not wrong), reason=f"wrong: {','.join(wrong[:4])}" if wrong else "")
