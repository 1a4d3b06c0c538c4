"""Tasks that are made of a task's completions: what one stage sampled, another one learns or completes.

A maker is a function `(group, **parameters) -> tasks`; one of your own is named by its place, `make: my_tasks.py:function`, and is
offered what it names of `MAKER_CONTEXT`. Two attributes of the function are read:

    columns     names of the columns that it adds, so that transforms which read them can be checked
    restarts    whether an sft stage of such tasks begins with the recipe's own model, as rounds of EM do
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from rlcore.plugin import Named, find
from rlcore.types import Group, Rollout, Task, Verdict

MAKERS = {
    "completions": "rlcore.tasks.made:completions",
    "latent_thoughts": "rlcore.tasks.latent_thoughts:latent_thoughts",
    "longer_half": "rlcore.tasks.lengthen:longer_half",
    "longer_whole": "rlcore.tasks.lengthen:longer_whole",
    "lengthened": "rlcore.tasks.lengthen:lengthened",
}
"""Name in a recipe -> a function `(group, **parameters) -> tasks`."""

MAKER_CONTEXT = ("draw", "encode", "decode", "end")
"""What a maker is offered by name: `random.Random` of this task; text -> tokens; tokens -> text; the token that ends a completion."""

VERDICT = ("reward", "passed", "feedback")
"""Columns of a stored completion: its value, whether it is correct, and the reason that the reward gave."""


def completions(
    group: Group, *, keep: Literal["all", "correct", "best"] = "all"
) -> Iterator[Task]:
    """Each completion as a demonstration of its task, with the columns reward, passed and feedback.

    keep: which of a task's completions; best: the first one of the highest reward. One without a score is none of them.
    """
    kept = scored(group)
    if keep == "correct":
        kept = [(rollout, verdict) for rollout, verdict in kept if verdict.passed()]
    if keep == "best":
        kept = sorted(kept, key=lambda pair: -pair[1].value)[:1]
    for number, (rollout, verdict) in enumerate(kept):
        task = with_verdict(group.task, verdict)
        yield replace(task, id=f"{task.id}#{number}", demonstration=rollout.text)


completions.columns = VERDICT  # type: ignore[attr-defined]


def scored(group: Group) -> list[tuple[Rollout, Verdict]]:
    """The group's completions that have a value."""
    pairs = zip(group.rollouts, group.verdicts, strict=True)
    return [(rollout, verdict) for rollout, verdict in pairs if verdict.value is not None]


def with_verdict(task: Task, verdict: Verdict) -> Task:
    """The task with what its rewards said of one completion, as columns that transforms can read."""
    values = (verdict.value, verdict.passed(), verdict.reason)
    return replace(task, columns={**task.columns, **dict(zip(VERDICT, values, strict=True))})


def restarts(make: Named) -> bool:
    """Whether an sft stage of what this maker makes begins with the recipe's own model. Raises `RecipeError`."""
    use = make if isinstance(make, str) else make.get("use")
    return bool(getattr(find(use, MAKERS, what="maker of tasks"), "restarts", False))
