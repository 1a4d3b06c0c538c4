"""Demonstrations of a task: samples that imitate one, and credit that falls back on it or learns
beside it.

`demonstrate` makes the sample of a task's demonstration, for example with `demonstration_sample`.
The samples of `gated`, `mixed`, `beside` and `solved` are of stream "demonstration", so the objective needs a term
for it (`hpt`, `luffy`, or `dapo` + `sft`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from rlcore.credit.group import Credit, rollout_samples, scored_rollouts
from rlcore.errors import RecipeError, TaskError
from rlcore.types import Group, Message, Rollout, Sample, Task, Verdict

STREAM = "demonstration"


def demonstration_sample(
    id: str,
    prompt_ids: Sequence[int],
    completion_ids: Sequence[int],
    weight: float = 1.0,
    stream: str = "policy",
    *,
    imitated: Sequence[bool] | None = None,
) -> Sample:
    """A sample whose completion tokens have advantage 1 and no recorded log-probabilities.

    imitated: which of them, [L]; None: all. The others are replies of an environment.

    `prompt_ids` must not be empty (a beginning-of-sequence token will do): nothing predicts the
    first token of a sequence.
    """
    prompt = list(prompt_ids)
    completion = list(completion_ids)
    mask = [False] * len(prompt) + list(imitated or [True] * len(completion))
    return Sample(
        id=id,
        token_ids=prompt + completion,
        mask=mask,
        advantages=[float(trained) for trained in mask],
        weight=weight,
        stream=stream,
    )


def trained_whole(sample: Sample) -> Sample:
    """The sample with every token trained but the first, which nothing predicts."""
    trained = [position > 0 for position in range(len(sample.token_ids))]
    return replace(sample, mask=trained, advantages=[float(each) for each in trained])


def last_words(demonstration: str | list[Message] | list[int] | None) -> str:
    """The text that reward functions see of a demonstration."""
    if isinstance(demonstration, list):
        if demonstration and isinstance(demonstration[-1], int):
            raise TaskError(
                "a demonstration of token ids has no text to reward: use it in an sft stage"
            )
        return demonstration[-1]["content"] if demonstration else ""
    return demonstration or ""


def gated(
    credit: Credit, demonstrate: Callable[[Task], Sample], *, threshold: float = 0.0
) -> Credit:
    """HPT (arXiv 2509.04419): a group whose mean reward is at most `threshold` gives only its
    task's demonstration.

    With rewards of 0 and 1 the mean is the fraction solved; the paper's threshold is 0 for Qwen
    models and 0.25 for Llama. At the threshold exactly the demonstration is imitated. A group
    without any score gives what `credit` makes of it, nothing.
    """

    def with_fallback(groups: Sequence[Group]) -> list[list[Sample]]:
        result = []
        for group, samples in zip(groups, credit(groups), strict=True):
            if _is_unsolved(group, threshold):
                samples = [replace(demonstrate(group.task), stream=STREAM)]
            result.append(samples)
        return result

    return with_fallback


def beside(credit: Credit, demonstrate: Callable[[Task], Sample]) -> Credit:
    """Each group's samples and its task's demonstration, which changes no statistic of the group.

    GKD (arXiv 2306.13649) distils on both.
    """

    def with_demonstrations(groups: Sequence[Group]) -> list[list[Sample]]:
        result = []
        for group, samples in zip(groups, credit(groups), strict=True):
            demonstration = replace(demonstrate(group.task), stream=STREAM)
            result.append([*samples, demonstration])
        return result

    return with_demonstrations


def solved(credit: Credit) -> Credit:
    """VAPO (arXiv 2504.05118, section 4.3): each group's samples, and its correct completions once more as
    demonstrations.

    Correct is what passed the stage's first reward.
    """

    def with_solutions(groups: Sequence[Group]) -> list[list[Sample]]:
        result = []
        for group, samples in zip(groups, credit(groups), strict=True):
            right = [rollout for rollout, verdict in scored_rollouts(group) if verdict.passed()]
            solutions = [sample for rollout in right for sample in imitated(rollout)]
            result.append([*samples, *solutions])
        return result

    return with_solutions


def imitated(rollout: Rollout) -> list[Sample]:
    """What the policy wrote in a rollout as demonstrations; several sequences have weights that add up to 1."""
    return [
        replace(sample, logprobs=None, version=None, stream=STREAM)
        for sample in rollout_samples(rollout, 1.0)
        if any(sample.mask)
    ]


def mixed(
    credit: Credit, demonstrate: Callable[[Task], Sample], *, reward: float = 1.0
) -> Credit:
    """LUFFY (arXiv 2504.14945): the demonstration joins its group as one more completion, with
    that `reward`.

    The group's statistics count it, and its own sample has the advantage that `credit` gives to
    that reward. A group without any score stays without.
    """

    def with_demonstrations(groups: Sequence[Group]) -> list[list[Sample]]:
        demonstrations = [
            demonstrate(group.task) if scored_rollouts(group) else None for group in groups
        ]
        extended = [
            group
            if demonstration is None
            else _with_demonstration(group, demonstration, reward)
            for group, demonstration in zip(groups, demonstrations, strict=True)
        ]
        result = []
        for demonstration, samples in zip(demonstrations, credit(extended), strict=True):
            result.append([_in_own_stream(sample, demonstration) for sample in samples])
        return result

    return with_demonstrations


def _is_unsolved(group: Group, threshold: float) -> bool:
    rewards = [verdict.value for _, verdict in scored_rollouts(group)]
    return bool(rewards) and sum(rewards) / len(rewards) <= threshold


def _with_demonstration(group: Group, demonstration: Sample, reward: float) -> Group:
    rollout = Rollout.from_tokens(
        id=demonstration.id,
        task_id=group.task.id,
        token_ids=demonstration.token_ids,
        mask=demonstration.mask,
        logprobs=[0.0] * len(demonstration.mask),
        text=last_words(group.task.demonstration),
    )
    return replace(
        group,
        rollouts=[*group.rollouts, rollout],
        verdicts=[*group.verdicts, Verdict(value=reward)],
    )


def _in_own_stream(sample: Sample, demonstration: Sample | None) -> Sample:
    """The sample of the demonstration in its stream, without log-probabilities: nobody recorded
    any. Others as they are.
    """
    if demonstration is None or sample.id != demonstration.id:
        return sample
    return replace(
        sample, stream=STREAM, logprobs=None, version=None, weight=demonstration.weight
    )


def check_streams(demonstrations: str, streams: Collection[str]) -> None:
    """Raise `RecipeError` where only one of credit and objective knows demonstrations."""
    learns = STREAM in streams
    if demonstrations != "none" and not learns:
        raise RecipeError(
            f"it is {demonstrations!r}, but the stage's objective does not learn from them: use hpt, gkd or vapo"
        )
    if demonstrations == "none" and learns:
        raise RecipeError(
            "the stage's objective learns from demonstrations: "
            "set credit.demonstrations to gated, mixed, all or solved"
        )
