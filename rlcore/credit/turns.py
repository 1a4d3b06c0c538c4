"""Credit for each turn of a rollout with an environment, in place of one advantage for all its turns.

The reward r_t of turn t is what the environment gave for it; the last turn also gets what other rewards made of the
whole rollout, so that all r_t add up to the rollout's value. G_t = r_t + gamma r_(t+1) + gamma^2 r_(t+2) + ... is the return from turn t.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Literal

from rlcore.credit.group import Credit, mean, mean_std, scored_rollouts
from rlcore.errors import RecipeError
from rlcore.types import Episode, Group, Rollout, Sample, Verdict

Key = tuple[str, int]
"""(rollout id, number of the turn)"""


def returns(
    credit: Credit,
    *,
    gamma: float = 1.0,
    normalise: Literal["mean", "mean_std"] = "mean_std",
    across: Literal["turn", "group"] = "turn",
) -> Credit:
    """Each turn's advantage is its return, compared with the group's returns.

    gamma: discount of a turn. normalise: by the mean, or by mean and standard deviation. across: compare with the same turn of
    the other rollouts, or with all turns of the group.
    """
    _check_gamma(gamma)

    def of_turns(group: Group) -> dict[Key, float]:
        values = turn_returns(group, gamma)
        return _compared(values, lambda key: key[1] if across == "turn" else 0, normalise)

    return _by_turn(credit, of_turns)


def gigpo(
    credit: Credit,
    *,
    gamma: float = 0.95,
    weight: float = 1.0,
    normalise: Literal["mean", "mean_std"] = "mean",
) -> Credit:
    """GiGPO (arXiv 2505.10978): the rollout's own advantage, plus one among all turns of the group that started from the same state.

    A(turn) = A_episode + weight * A_state, where A_state compares the return of the turn with those of the turns in the group
    whose `Observation.state` was equal; it is 0 where no other turn started there. A_episode is the advantage of the
    stage's baseline.

    gamma: discount of a turn (the paper's 0.95). weight: of the comparison by state (the paper's omega, 1). normalise:
    of the returns of equal states, by the mean, or by mean and standard deviation.
    """
    _check_gamma(gamma)

    def of_turns(group: Group) -> dict[Key, float]:
        states = {
            (rollout.id, turn): state
            for rollout, _ in scored_rollouts(group)
            for turn, state in enumerate(_episode(rollout).states)
        }
        if states and all(state is None for state in states.values()):
            raise RecipeError(
                "credit.turns: gigpo compares turns that started from equal states, and the environment names none: give "
                "Observation.state, or use returns"
            )
        # A turn without a state is compared with nothing.
        values = turn_returns(group, gamma)
        return _compared(
            values, lambda key: key if states[key] is None else states[key], normalise
        )

    return _by_turn(credit, of_turns, weight=weight, plus_episode=True)


SCHEMES = {
    "returns": "rlcore.credit.turns:returns",
    "gigpo": "rlcore.credit.turns:gigpo",
}
"""Name in a recipe -> a function `(credit, **parameters) -> credit`."""


def turn_returns(group: Group, gamma: float) -> dict[Key, float]:
    """G_t of every turn of the scored rollouts."""
    values: dict[Key, float] = {}
    for rollout, verdict in scored_rollouts(group):
        value = 0.0
        rewards = turn_rewards(rollout, verdict)
        for turn in reversed(range(len(rewards))):
            value = rewards[turn] + gamma * value
            values[rollout.id, turn] = value
    return values


def turn_rewards(rollout: Rollout, verdict: Verdict) -> list[float]:
    """r_t, [T]: they add up to the verdict's value."""
    rewards = list(_episode(rollout).rewards)
    rewards[-1] += (verdict.value or 0.0) - sum(rewards)
    return rewards


def _compared(
    values: dict[Key, float], group_of: Callable[[Key], Hashable], normalise: str
) -> dict[Key, float]:
    """Each value less the mean of those that it is compared with, and over their deviation if asked."""
    baseline = {"mean": mean, "mean_std": mean_std}[normalise]
    together: dict[Hashable, list[Key]] = defaultdict(list)
    for key in values:
        together[group_of(key)].append(key)
    advantages: dict[Key, float] = {}
    for keys in together.values():
        compared = baseline([values[key] for key in keys]) or [0.0] * len(keys)
        advantages.update(zip(keys, compared, strict=True))
    return advantages


def _by_turn(
    credit: Credit,
    of_turns: Callable[[Group], dict[Key, float]],
    *,
    weight: float = 1.0,
    plus_episode: bool = False,
) -> Credit:
    def with_turns(groups: Sequence[Group]) -> list[list[Sample]]:
        result = []
        for group, samples in zip(groups, credit(groups), strict=True):
            advantages = of_turns(group)
            rollouts = {rollout.id: rollout for rollout in group.rollouts}
            result.append(
                [
                    _with_advantages(
                        sample, rollouts[sample.id], advantages, weight, plus_episode
                    )
                    if sample.id in rollouts and sample.stream == "policy"
                    else sample
                    for sample in samples
                ]
            )
        return result

    return with_turns


def _with_advantages(
    sample: Sample,
    rollout: Rollout,
    advantages: dict[Key, float],
    weight: float,
    plus_episode: bool,
) -> Sample:
    """The sample with the advantages of its turns; it is the sequence number `sample.part` of the rollout."""
    before = sum(len(part.completions) for part in rollout.sequences[: sample.part])
    changed = list(sample.advantages) if plus_episode else [0.0] * len(sample.advantages)
    spans = rollout.sequences[sample.part].completions
    for turn, span in enumerate(spans, start=before):
        for position in range(span.start, span.end):
            changed[position] += weight * advantages[rollout.id, turn]
    return replace(sample, advantages=changed)


def _episode(rollout: Rollout) -> Episode:
    if rollout.episode is None:
        raise RecipeError(
            f"credit.turns needs rollouts with an environment, and rollout {rollout.id!r} had none"
        )
    return rollout.episode


def _check_gamma(gamma: float) -> None:
    if not 0 <= gamma <= 1:
        raise RecipeError(f"gamma is {gamma:g}; a discount is from 0 to 1")
