"""A task, and the verdict of its rewards on one rollout."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rlcore.types.plain import whole_text

Message = dict[str, Any]
"""One chat message, `{"role": "user", "content": "2+2=?"}`; one of the assistant may have `tool_calls`."""

Status = Literal["ok", "wrong-format", "unscorable", "timed-out", "crashed"]

SCORED: frozenset[str] = frozenset({"ok", "wrong-format"})
"""Statuses whose verdict carries a value; the others leave the loss and the group statistics."""


def check_lengths(owner: str, id: str, **fields: Sequence[Any] | None) -> None:
    """Raise `ValueError` with all lengths unless the fields that are given have the same one."""
    lengths = {name: len(values) for name, values in fields.items() if values is not None}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} has {n}" for name, n in lengths.items())
        raise ValueError(f"{owner} {id!r} is misaligned: {listed}; all must be equal")


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One problem. Example: `Task(id="add/3", prompt="2+3+4=?", answer="9", category="3-terms", demonstration="2+3=5;5+4=9")`."""

    id: str
    prompt: str | list[Message]
    answer: Any = None
    """What a verifier needs; None where nothing is verified."""
    category: str = "all"
    """Curriculum category."""
    demonstration: str | list[Message] | list[int] | None = None
    """A worked answer to imitate, for SFT; or messages: the assistant's, and the replies of an environment between them; or
    token ids, taken as they are: pieces of a document."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Other columns of the row, handed to reward functions by name."""

    def __post_init__(self) -> None:
        # Seeds, file names and records are made of these.
        object.__setattr__(self, "id", whole_text(self.id))
        object.__setattr__(self, "category", whole_text(self.category))


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the rewards said of one rollout. A failed score has no value: it is never read as 0."""

    value: float | None
    status: Status = "ok"
    parts: Mapping[str, float | None] = field(default_factory=dict)
    """Value of each reward by name, before weights; the stage's first reward comes first."""
    reason: str = ""

    @property
    def first(self) -> float | None:
        """Value of the stage's first reward, which decides what passed; the whole value where there are no parts."""
        return next(iter(self.parts.values()), self.value)

    def passed(self, threshold: float = 0.5) -> bool:
        """Whether the stage's first reward gave at least `threshold`; no value never passes."""
        return self.first is not None and self.first >= threshold

    def __post_init__(self) -> None:
        if (self.value is not None) != (self.status in SCORED):
            raise ValueError(
                f"a verdict with status {self.status!r} and value {self.value!r} contradicts itself: "
                f"only {sorted(SCORED)} carry a value"
            )
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(
                f"a verdict's value must be finite, got {self.value!r}; use status 'unscorable' instead"
            )
