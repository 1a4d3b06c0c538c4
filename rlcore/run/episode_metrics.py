"""Metrics of rollouts with an environment."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rlcore.types import Rollout


@dataclass(frozen=True, slots=True)
class EpisodeFacts:
    """What the metrics need of one episode."""

    turns: int
    """Completions that were written."""
    sequences: int
    ending: str
    metrics: Mapping[str, float]
    """What the environment counted, summed over turns."""
    turns_with_state: int
    """Turns that the environment named the state of."""
    turns_with_equal: int
    """Those of them whose state another turn of the task's rollouts had too."""


def episode_facts(rollouts: Iterable[Rollout]) -> tuple[EpisodeFacts, ...]:
    """rollouts: of one task."""
    with_episode = [(rollout, rollout.episode) for rollout in rollouts if rollout.episode]
    times = Counter(state for _, episode in with_episode for state in episode.states)
    facts = []
    for rollout, episode in with_episode:
        states = [state for state in episode.states if state is not None]
        facts.append(
            EpisodeFacts(
                turns=sum(span.end > span.start for span in rollout.completions),
                sequences=len(rollout.sequences),
                ending=episode.ending,
                metrics=episode.metrics,
                turns_with_state=len(states),
                turns_with_equal=sum(times[state] > 1 for state in states),
            )
        )
    return tuple(facts)


def episode_metrics(facts: Sequence[EpisodeFacts]) -> dict[str, float]:
    """env/turns/mean, env/sequences/mean, env/frac_* by ending, env/frac_equal_state of the turns with a state, and env/<name> of
    what environments count (means over rollouts).
    """
    if not facts:
        return {}
    endings = [episode.ending for episode in facts]
    failed = sum(ending in ("crashed", "timed-out") for ending in endings)
    metrics = {
        "env/turns/mean": statistics.fmean(episode.turns for episode in facts),
        "env/sequences/mean": statistics.fmean(episode.sequences for episode in facts),
        "env/frac_done": endings.count("done") / len(facts),
        "env/frac_max_turns": endings.count("max_turns") / len(facts),
        "env/frac_length": endings.count("length") / len(facts),
        "env/frac_failed": failed / len(facts),
    }
    with_state = sum(episode.turns_with_state for episode in facts)
    if with_state:
        equal = sum(episode.turns_with_equal for episode in facts)
        metrics["env/frac_equal_state"] = equal / with_state
    names = sorted({name for episode in facts for name in episode.metrics})
    for name in names:
        total = sum(episode.metrics.get(name, 0.0) for episode in facts)
        metrics[f"env/{name}"] = total / len(facts)
    return metrics
