"""Texts with a score: control text, filter, signed or weighted imitation, and hard ones that begin light.

Pretraining Language Models with Human Preferences, arXiv 2302.08582. Its objectives are presets:
`unlikelihood`, and `awr`, which is its RWR where the advantage is the score itself.
"""

from __future__ import annotations

from dataclasses import replace

from pydantic import PositiveInt

from rlcore.errors import RecipeError, TaskError
from rlcore.transforms.transform import Draw, Share, insert
from rlcore.types import Sample, Task


def conditional(
    sample: Sample,
    draw: Draw,
    *,
    threshold: float,
    column: str = "score",
    above: str = "<|aligned|>",
    below: str = "<|misaligned|>",
    drop: Share = 0.01,
) -> Sample:
    """A control text in front of the completion says whether its score reaches `threshold`. It is read, never trained.

    column: of scores, the larger the better. above, below: control text; one token each where the tokenizer has them.
    drop: fraction of demonstrations without it, drawn in each step, so that the policy stays trained without.
    """
    if above == below:
        raise RecipeError(f"transform conditional: above and below are both {above!r}")
    if draw.rng.random() < drop:
        return sample
    text = above if draw.number(column) >= threshold else below
    return insert(sample, draw.start, draw.ids(text))


def filter(task: Task, draw: Draw, *, threshold: float, column: str = "score") -> Task | None:
    """Demonstrations whose score is below `threshold` are left out of their step.

    column: of scores, the larger the better.
    """
    return task if draw.number(column) >= threshold else None


def score(
    sample: Sample,
    draw: Draw,
    *,
    column: str = "score",
    threshold: float | None = None,
    baseline: float = 0.0,
) -> Sample:
    """The advantage of the trained tokens is the score less `baseline`; with a threshold it is 1 from there on and -1 below.

    column: of scores. For objectives that read advantages: awr (RWR: exp(score / beta)), reinforce, unlikelihood.
    """
    if threshold is not None and baseline:
        raise RecipeError(
            "transform score: baseline has no effect with a threshold: leave it out"
        )
    value = draw.number(column)
    if threshold is None:
        advantage = value - baseline
    else:
        advantage = 1.0 if value >= threshold else -1.0
    return replace(
        sample, advantages=[advantage if trained else 0.0 for trained in sample.mask]
    )


score.sets_advantages = True  # type: ignore[attr-defined]


def easy_first(
    sample: Sample, draw: Draw, *, until: PositiveInt, column: str = "ease"
) -> Sample:
    """The loss of a demonstration counts D + (i / until) (1 - D) in step i, from step `until` on 1: hard ones begin light.

    Training Curricula for Open Domain Answer Re-Ranking, arXiv 2004.14269. column: of D, from 0 (hard) to 1 (easy).
    """
    ease = draw.number(column)
    if not 0 <= ease <= 1:
        raise TaskError(
            f"the column {column!r} of task {draw.task.id!r} holds {ease}, and transform easy_first needs 0 (hard) to 1 (easy)"
        )
    reached = min(1.0, draw.step / until)
    return replace(sample, weight=sample.weight * (ease + reached * (1 - ease)))
