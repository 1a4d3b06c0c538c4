"""A test of an environment without a model: odd completions, times, repeatability, and the faults of its process."""

from __future__ import annotations

import os
import signal
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from rlcore.env.base import Observation, messages_of
from rlcore.env.forms import EnvironmentSpec
from rlcore.env.kit.faults import FAULTS, NEIGHBOURS, FaultTrial, try_faults
from rlcore.env.kit.play import Turn, converse
from rlcore.env.kit.policies import Policy, odd_policies
from rlcore.env.pool import EnvironmentPool, Failed
from rlcore.types import Task

LEAST_DEADLINE_S = 1.0
TURNS_REBUILT = 2
"""The beginning and the completion after which a worker is killed; a further turn shows whether the episode was rebuilt."""
TIMES_WORST = 10
"""The deadline for faults: this many times the worst turn, and at least a second."""


@dataclass(frozen=True, kw_only=True)
class Played:
    """One episode."""

    name: str
    turns: list[Turn]

    @property
    def status(self) -> str:
        last = self.turns[-1].answer
        if isinstance(last, Failed):
            return last.status
        return "done" if last.done else "goes on"

    @property
    def reward(self) -> float:
        return sum(answer.reward for answer in self.observations)

    @property
    def observations(self) -> list[Observation]:
        return [turn.answer for turn in self.turns if isinstance(turn.answer, Observation)]

    @property
    def reason(self) -> str:
        last = self.turns[-1].answer
        return last.reason if isinstance(last, Failed) else ""


@dataclass(frozen=True, kw_only=True)
class Examination:
    """Result of `rlcore env test`. `problems` are sentences; without any the environment passed.

    `notes` are sentences on what was not tried; they do not fail it.
    """

    environment: str
    tools: list[str]
    episodes: list[Played]
    checks: dict[str, str]
    """What was looked at besides, by name."""
    faults: list[FaultTrial]
    problems: list[str]
    notes: list[str] = field(default_factory=list)

    @property
    def times(self) -> list[float]:
        """Seconds of each turn, beginnings included."""
        return [turn.seconds for played in self.episodes for turn in played.turns]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        rows = []
        for played in self.episodes:
            row = {"name": played.name, "status": played.status, "reward": played.reward}
            rows.append({**row, "turns": len(played.turns) - 1, "reason": played.reason})
        return {
            "environment": self.environment,
            "tools": self.tools,
            "episodes": rows,
            "turn_ms": {
                "median": 1000 * statistics.median(self.times),
                "max": 1000 * max(self.times),
            },
            "checks": self.checks,
            "faults": [asdict(trial) for trial in self.faults],
            "problems": self.problems,
            "notes": self.notes,
        }


def examine(
    spec: EnvironmentSpec,
    task: Task,
    policy: Callable[[], Policy] | None = None,
    *,
    max_turns: int = 8,
    deadline_s: float = 10.0,
    python: str | None = None,
    faults: Sequence[str] = tuple(FAULTS),
) -> Examination:
    """Play episodes of one task, look whether they repeat, and try faults.

    policy: makes a fresh policy for each episode; None: those of `odd_policies`. faults: names of `FAULTS`. Raises `EnvError` if
    the environment cannot be loaded.
    """
    with EnvironmentPool(spec, workers=1, deadline_s=deadline_s, python=python) as pool:
        tools = [schema.get("function", schema)["name"] for schema in pool.tools]
        play = partial(_play, pool, task, max_turns, deadline_s)
        policies = {"your policy": policy} if policy else odd_policies(pool.tools)
        episodes = []
        for name, make in policies.items():
            episodes.append(play(name, make()))
            if episodes[-1].reason and len(episodes[-1].turns) == 1:
                return _never_begun(spec, tools, episodes)
        # The one with the most turns shows most.
        longest = max(episodes, key=lambda played: (not played.reason, len(played.turns)))
        again = play(longest.name, policies[longest.name]())
        rebuilt = None
        if len(longest.turns) > TURNS_REBUILT:
            rebuilt = play(longest.name, policies[longest.name](), lose=True)
    repeats = _repeats(longest, again, rebuilt)
    trials = []
    if faults and not longest.reason and not repeats:
        trials = _faults(spec, task, longest, deadline_s, python, faults)
    return Examination(
        environment=_name(spec),
        tools=tools,
        episodes=episodes,
        checks={
            "two equal episodes": _equal(again, longest),
            "rebuilt after its worker was killed": _equal(rebuilt, longest),
            "replies": _replies(episodes),
        },
        faults=trials,
        problems=[*_crashes(episodes), *repeats, *_not_contained(trials)],
        notes=_notes(rebuilt, repeats),
    )


def _notes(rebuilt: Played | None, repeats: Sequence[str]) -> list[str]:
    notes = []
    if rebuilt is None:
        notes.append(
            "no episode without a failure had a second turn, so nothing was rebuilt and little was seen: "
            "give completions that get further with --say or --policy"
        )
    if repeats:
        notes.append(
            "no faults were tried: whether the neighbours of one go on can only be told where equal episodes are equal"
        )
    return notes


def _play(
    pool: EnvironmentPool,
    task: Task,
    max_turns: int,
    deadline_s: float,
    name: str,
    policy: Policy,
    *,
    lose: bool = False,
) -> Played:
    """lose: kill the worker after the first completion."""
    turns = []
    for turn in converse(pool, name, task, policy, max_turns=max_turns, deadline_s=deadline_s):
        turns.append(turn)
        if lose and len(turns) == 2:
            _lose_worker(pool)
    return Played(name=name, turns=turns)


def _equal(one: Played | None, other: Played) -> str:
    if one is None:
        return "not tried"
    return "equal" if _said(one) == _said(other) else "DIFFERENT"


def _not_contained(trials: Sequence[FaultTrial]) -> list[str]:
    return [
        f"the fault {trial.name!r} is not contained: it was {trial.status}, and {trial.neighbours} of its "
        f"{NEIGHBOURS} neighbours went on"
        for trial in trials
        if not trial.contained
    ]


def _name(spec: EnvironmentSpec) -> str:
    names = (tool if isinstance(tool, str) else tool["use"] for tool in spec.tools)
    return spec.use or ", ".join(names)


def _never_begun(
    spec: EnvironmentSpec, tools: list[str], episodes: list[Played]
) -> Examination:
    """What is said of an environment whose `reset` fails: nothing else can be tried."""
    problem = f"the episode cannot begin, and nothing else was tried: {episodes[-1].reason}"
    if "asks for" in problem:
        problem += "; give them with --task, or a task of a set with --tasks"
    return Examination(
        environment=_name(spec),
        tools=tools,
        episodes=episodes,
        checks={},
        faults=[],
        problems=[problem],
    )


def _faults(
    spec: EnvironmentSpec,
    task: Task,
    longest: Played,
    deadline_s: float,
    python: str | None,
    names: Sequence[str],
) -> list[FaultTrial]:
    worst = max(turn.seconds for turn in longest.turns)
    limit_s = min(deadline_s, max(LEAST_DEADLINE_S, TIMES_WORST * worst))
    params = {"use": spec.use, "tools": list(spec.tools), "params": dict(spec.params)}
    wrapped = EnvironmentSpec("rlcore.env.kit.faults:misbehaving", params=params)
    with EnvironmentPool(wrapped, workers=1, deadline_s=limit_s, python=python) as pool:
        return try_faults(pool, task, longest.turns, deadline_s=limit_s, names=names)


def _lose_worker(pool: EnvironmentPool) -> None:
    for pid in pool.pids:
        if pid is not None:
            os.kill(pid, signal.SIGKILL)


def _said(played: Played) -> list[Observation | Failed]:
    return [turn.answer for turn in played.turns]


def _crashes(episodes: Sequence[Played]) -> list[str]:
    return [
        f"{played.name}: {played.status} in turn {len(played.turns) - 1} ({played.reason[:160]})"
        for played in episodes
        if played.reason
    ]


def _repeats(longest: Played, again: Played, rebuilt: Played | None) -> list[str]:
    if _said(again) != _said(longest):
        return [
            "two episodes of the same task, seed and completions differ: an episode whose worker is lost cannot be rebuilt; "
            "draw what is random from the argument `seed`"
        ]
    if rebuilt is not None and _said(rebuilt) != _said(longest):
        return [
            "an episode was not rebuilt equally in another process: its replies depend on more than task, seed and completions"
        ]
    return []


def _replies(episodes: Sequence[Played]) -> str:
    observations = [answer for played in episodes for answer in played.observations]
    messages = [message for answer in observations for message in messages_of(answer.reply)]
    lengths = [len(message.get("content") or "") for message in messages]
    roles = sorted({message["role"] for message in messages})
    parts = [
        f"roles {', '.join(roles) or 'none'}",
        f"longest {max(lengths, default=0):,} characters",
    ]
    if any(answer.state is not None for answer in observations):
        parts.append("states")
    if any(answer.restart for answer in observations):
        parts.append("restarts")
    names = sorted({name for answer in observations for name in answer.metrics})
    return "; ".join(parts + ([f"metrics {', '.join(names)}"] if names else []))
