"""Follow-up tasks: the policy guesses the masks it chose, in the same step (PretrainZero, 2512.03442)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rlcore.tasks.corpus.spans import predict_task
from rlcore.tasks.corpus.template import PREDICT
from rlcore.types import Group, Task, Verdict

Answer = Callable[[Sequence[Task]], list[Group]]
"""Tasks -> their scored groups, in order, from the policy as it is in this step."""


def guess_masks(
    groups: Sequence[Group],
    answer: Answer,
    *,
    prompt: str = PREDICT,
    tag: str = "mask",
    guard: bool = True,
) -> list[Group]:
    """The groups of the mask tasks, scored by how their masks were guessed, and after them the
    groups of the guesses.

    A mask is the text in the last `<tag>...</tag>` of an answer. One that is legal
    (`rlcore.tasks.corpus.spans.hide`) becomes a task of category "predict", which `answer` has the
    policy try. With a the share of right guesses (rewards of at least 0.5):

        r_mask = 1 - a, and 0 where a = 0

    The exception is the paper's guard: without it noise, which nobody can guess, pays best. A mask
    that cannot be read or is not legal earns 0 as `wrong-format`; one whose guesses have no score
    has none. Other groups pass as they are."""
    tasks: list[Task] = []
    for group in groups:
        for rollout in group.rollouts if group.task.category == "mask" else ():
            span = _tagged(rollout.text, tag)
            task = (
                predict_task(
                    f"{rollout.id}/guess", group.task.columns["text"], span, prompt=prompt
                )
                if span
                else None
            )
            if task is not None:
                tasks.append(task)
    guesses = answer(tasks) if tasks else []
    rates = {group.task.id: _rate(group) for group in guesses}
    return [
        _judged(group, rates, guard) if group.task.category == "mask" else group
        for group in groups
    ] + guesses


def _judged(group: Group, rates: dict[str, float | None], guard: bool) -> Group:
    verdicts = []
    for rollout, verdict in zip(group.rollouts, group.verdicts, strict=True):
        name = f"{rollout.id}/guess"
        if rollout.finish == "aborted":
            verdicts.append(verdict)
        elif name not in rates:
            verdicts.append(
                Verdict(
                    value=0.0, status="wrong-format", reason="no mask that stands in the text"
                )
            )
        elif (rate := rates[name]) is None:
            verdicts.append(
                Verdict(
                    value=None,
                    status="unscorable",
                    reason="no guess of this mask could be scored",
                )
            )
        else:
            value = mask_reward(rate, guard)
            verdicts.append(Verdict(value=value, parts={"mask": value, "mask/guessed": rate}))
    return replace(group, verdicts=verdicts)


def mask_reward(rate: float, guard: bool = True) -> float:
    """1 - rate, the share of right guesses; 0 at rate 0 under the guard.

    >>> [mask_reward(k / 8) for k in range(9)]
    [0.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0.0]
    """
    return 0.0 if guard and rate == 0 else 1 - rate


def _rate(group: Group) -> float | None:
    values = [verdict.value for verdict in group.verdicts if verdict.value is not None]
    return sum(value >= 0.5 for value in values) / len(values) if values else None


def _tagged(text: str, tag: str) -> str | None:
    """The text in the last `<tag>...</tag>`; None if there is none."""
    before, close, _ = text.rpartition(f"</{tag}>")
    _, opened, span = before.rpartition(f"<{tag}>")
    return span if close and opened else None
