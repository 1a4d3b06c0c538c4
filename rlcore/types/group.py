"""The rollouts of one task with what is known of them: verdicts and the values of reasoning steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rlcore.types.rollout import Rollout, Span
from rlcore.types.task import Task, Verdict, check_lengths


@dataclass(frozen=True, kw_only=True, slots=True)
class StepValues:
    """Values along one completion of L steps.

    Example: a completion of three steps whose second spoils it, in a task solved half of the time:
    `StepValues(rollout_id="sum/3#0", spans=[Span(0, 4), Span(4, 9), Span(9, 12)], values=[0.5, 0.6, 0.0, 0.0])`.
    """

    rollout_id: str
    spans: list[Span]  # [L]
    values: list[float | None]
    """[L + 1]: Q_0 is that of the prompt, Q_i of the completion's first i steps, Q_L the completion's own reward. None: not estimated."""

    def __post_init__(self) -> None:
        if len(self.values) != len(self.spans) + 1:
            raise ValueError(
                f"step values of {self.rollout_id!r} are misaligned: {len(self.spans)} spans need {len(self.spans) + 1} values, "
                f"not {len(self.values)}"
            )
        if self.values[0] is None or self.values[-1] is None:
            raise ValueError(
                f"step values of {self.rollout_id!r} must know the first (prompt) and the last (reward)"
            )

    @property
    def filled(self) -> list[float]:
        """All values [L + 1]; those not estimated lie on the line between their neighbours that were."""
        known = [(i, value) for i, value in enumerate(self.values) if value is not None]
        filled = [known[0][1]]
        for (i, left), (j, right) in zip(known, known[1:], strict=False):
            filled += [left + (right - left) * (k - i) / (j - i) for k in range(i + 1, j)] + [
                right
            ]
        return filled

    @property
    def advantages(self) -> list[float]:
        """A_i = Q_i - Q_(i-1) of each step, [L]; they add up to reward - Q_0, also where values were filled in."""
        filled = self.filled
        return [after - before for before, after in zip(filled, filled[1:], strict=False)]

    def pit(self, *, least_spread: float = 1e-9) -> int | None:
        """Position in `spans` of the first pit: the first step whose value is the lowest of the completion's estimated ones.

        None where the values of prompt and steps differ by less than `least_spread`: nothing tells the steps apart then.
        """
        known = [value for value in self.values if value is not None]
        if max(known) - min(known) < least_spread:
            return None
        after = [(value, i) for i, value in enumerate(self.values[1:]) if value is not None]
        return min(after)[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """All rollouts of one task with their verdicts."""

    task: Task
    rollouts: list[Rollout]  # [G]
    verdicts: list[Verdict]  # [G]
    step_values: Mapping[str, StepValues] = field(default_factory=dict)
    """Values of the reasoning steps by rollout id, where they were estimated."""
    continuations: tuple[tuple[Prefix, Group], ...] = ()
    """What was sampled to estimate them: each prefix with the group of completions that continue it."""

    def __post_init__(self) -> None:
        check_lengths("group", self.task.id, rollouts=self.rollouts, verdicts=self.verdicts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prefix:
    """The first `length` tokens of a rollout's completion, to be continued `n` times: a `Group` of whole completions comes of it."""

    task: Task
    rollout: Rollout
    length: int
    """Completion tokens kept; 0 starts the completion anew."""
    n: int
    max_tokens: int
    """Longest continuation."""
    temperature: float | None = None
    """At which it is continued; None: that of the stage."""

    @property
    def id(self) -> str:
        return f"{self.rollout.id}@{self.length}"
