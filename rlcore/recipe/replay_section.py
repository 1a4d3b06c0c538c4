"""The keys of replay: which stored groups join a step."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from rlcore.recipe.section import Count, Section


class ReplaySection(Section):
    fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.25,
        description="of a step's groups that are stored ones, drawn evenly, as soon as there are as many; they join the "
        "groups_per_step fresh ones",
    )
    size: Count = Field(
        256,
        description="stored groups at most, over all processes; the oldest are dropped first",
    )
    max_age: PositiveInt = Field(8, description="steps after which a stored group is dropped")

    def groups(self, groups_per_step: int) -> int:
        """Stored groups that join `groups_per_step` fresh ones."""
        return max(1, round(groups_per_step * self.fraction / (1 - self.fraction)))
