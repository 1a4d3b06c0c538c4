"""Answers whose step values are known: chains that a planted error loses, continued by a policy that is one number."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from rlcore.credit.estimator import Cost, Estimator
from rlcore.types import Group, Prefix, Rollout, StepValues, Task, Turn, Verdict

GOOD, SLIP, LOST = 1, 2, 3
"""Tokens, one a step: right; wrong but still to be mended; wrong for good."""


def rollout(tokens: Sequence[int], id: str) -> Rollout:
    n = len(tokens)
    return Rollout.from_tokens(
        id=id, task_id=id.partition("#")[0], token_ids=[0, *tokens], mask=[False] + [True] * n, logprobs=[0.0] + [-0.5] * n,
        text="", finish="stop", version=0,
    )  # fmt: skip


def reward(tokens: Sequence[int]) -> float:
    return float(LOST not in tokens)


def group(answers: Sequence[Sequence[int]], name: str = "chain") -> Group:
    return Group(
        task=Task(id=name, prompt="?", answer=""),
        rollouts=[rollout(tokens, f"{name}#{i}") for i, tokens in enumerate(answers)],
        verdicts=[Verdict(value=reward(tokens)) for tokens in answers],
    )


def valued(
    estimator: Estimator, groups: Sequence[Group]
) -> tuple[dict[str, StepValues], Cost, list[tuple[Prefix, Group]]]:
    """The step values of all groups by rollout id, what they cost, and the continuations."""
    results, cost = estimator(groups)
    assert [group.rollouts for group in results] == [group.rollouts for group in groups]
    values: dict[str, StepValues] = {}
    continuations = []
    for result in results:
        values |= result.step_values
        continuations += result.continuations
    return values, cost, continuations


def interleaved(name: str = "chain") -> Group:
    """A group whose second rollout has two turns: prompt, completion, observation, completion."""
    single = group([[GOOD] * 4], name)

    def completion(tokens: list[int]) -> Turn:
        return Turn(
            role="completion",
            token_ids=tokens,
            logprobs=[-0.5] * len(tokens),
            versions=[0] * len(tokens),
            finish="stop",
        )

    turns = (
        Turn(role="prompt", token_ids=[0]),
        completion([GOOD, GOOD]),
        Turn(role="observation", token_ids=[9, 9, 9]),
        completion([GOOD, LOST]),
    )
    second = Rollout(id=f"{name}#1", task_id=name, turns=turns, text="")
    return Group(
        task=single.task,
        rollouts=[*single.rollouts, second],
        verdicts=[Verdict(value=1.0), Verdict(value=0.0)],
    )


def chance(tokens: Sequence[int], steps: int, error: float, mend: float = 0.5) -> float:
    """Probability that the policy makes a right answer of `steps` steps from these on: the table the estimates are held to."""
    if LOST in tokens:
        return 0.0
    return (mend if SLIP in tokens else 1.0) * (1 - error) ** (steps - len(tokens))


def tabular(
    steps: int, *, error: float, seed: int = 0
) -> Callable[[Sequence[Prefix], float], list[Group]]:
    """A `Continue`: every further step is lost with probability `error`; a slip is mended half of the time."""

    def finish(prefix: Prefix, k: int) -> list[int]:
        rng = random.Random(f"{seed}/{prefix.id}/{k}")
        begun = prefix.rollout.completion_ids[: prefix.length]
        rest = [LOST if rng.random() < error else GOOD for _ in range(steps - prefix.length)]
        if SLIP in begun and rest and rng.random() < 0.5:
            rest[-1] = LOST
        return begun + rest

    def continue_(prefixes: Sequence[Prefix], left_s: float) -> list[Group]:
        groups = []
        for prefix in prefixes:
            answers = [finish(prefix, k) for k in range(prefix.n)]
            made = [rollout(tokens, f"{prefix.id}~{k}") for k, tokens in enumerate(answers)]
            groups.append(
                Group(
                    task=prefix.task,
                    rollouts=made,
                    verdicts=[Verdict(value=reward(t)) for t in answers],
                )
            )
        return groups

    return continue_
