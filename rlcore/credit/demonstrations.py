"""Credit that falls back on, or learns beside, a demonstration of the task.

`demonstrate` makes the sample of a task's demonstration, for example with `rlcore.credit.demonstration_sample`; the samples made
here are of stream "demonstration", so the objective needs a term for it (`hpt`, `luffy`, or `dapo` + `sft`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rlcore.credit.group import Credit
from rlcore.types import Group, Rollout, Sample, Task, Verdict

STREAM = "demonstration"


def gated(
    credit: Credit, demonstrate: Callable[[Task], Sample], *, threshold: float = 0.0
) -> Credit:
    """HPT (arXiv 2509.04419): a group whose mean reward is at most `threshold` gives its task's demonstration instead of its answers.

    With rewards of 0 and 1 the mean is the share solved; the paper's threshold is 0 for Qwen models and 0.25 for Llama. At the threshold
    exactly the demonstration is imitated. A group without any score gives what `credit` makes of it, nothing.
    """

    def whole(groups: Sequence[Group]) -> list[list[Sample]]:
        return [
            [replace(demonstrate(group.task), stream=STREAM)]
            if _unsolved(group, threshold)
            else samples
            for group, samples in zip(groups, credit(groups), strict=True)
        ]

    return whole


def mixed(credit: Credit, demonstrate: Callable[[Task], Sample], *, reward: float = 1.0) -> Credit:
    """LUFFY (arXiv 2504.14945): the demonstration joins its group as one more answer, with that `reward`.

    The group's statistics count it, and its own sample has the advantage that `credit` gives to that reward. A group without any
    score stays without.
    """

    def whole(groups: Sequence[Group]) -> list[list[Sample]]:
        shown = [demonstrate(group.task) if _scores(group) else None for group in groups]
        joined = [
            group if demo is None else _joined(group, demo, reward)
            for group, demo in zip(groups, shown, strict=True)
        ]
        return [
            [
                _apart(sample, demo) if demo is not None and sample.id == demo.id else sample
                for sample in samples
            ]
            for demo, samples in zip(shown, credit(joined), strict=True)
        ]

    return whole


def _scores(group: Group) -> list[float]:
    return [verdict.value for verdict in group.verdicts if verdict.value is not None]


def _unsolved(group: Group, threshold: float) -> bool:
    scores = _scores(group)
    return bool(scores) and sum(scores) / len(scores) <= threshold


def _joined(group: Group, demo: Sample, reward: float) -> Group:
    rollout = Rollout.from_tokens(
        id=demo.id,
        task_id=group.task.id,
        token_ids=demo.token_ids,
        mask=demo.mask,
        logprobs=[0.0] * len(demo.mask),
        text=group.task.demonstration or "",
        finish="stop",
        version=0,
    )
    return Group(
        task=group.task,
        rollouts=[*group.rollouts, rollout],
        verdicts=[*group.verdicts, Verdict(value=reward)],
    )


def _apart(sample: Sample, demo: Sample) -> Sample:
    """The demonstration with its advantage: nobody recorded its log-probabilities."""
    return replace(sample, stream=STREAM, logprobs=None, version=None, weight=demo.weight)
