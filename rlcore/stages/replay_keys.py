"""The key `replay` of a stage that trains on groups of earlier steps too, and what must fit it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from rlcore.errors import RecipeError
from rlcore.objective.correction import require_correction
from rlcore.recipe.build_learner import build_objective
from rlcore.recipe.replay_section import ReplaySection
from rlcore.stages.base import Stage

if TYPE_CHECKING:
    from rlcore.recipe.check import Checking


class ReplayKeys(Stage):
    """A stage whose updates may take in stored groups."""

    replay: ReplaySection | None = Field(
        None,
        description="stored groups of earlier steps that join a step's updates; docs/off_policy.md",
    )

    def check(self, context: Checking) -> list[str]:
        facts = super().check(context)
        if self.replay is None:
            return facts
        with context.at("replay"):
            require_correction(
                build_objective(self.objective, max_tokens=self.sampling.max_tokens),
                old_logprobs=self.old_logprobs_source(context.recipe),
                max_staleness=self.replay.max_age,
                key="replay.max_age",
            )
        stored = self.replay.groups(self.groups_per_step)
        if stored > self.replay.size:
            raise RecipeError(
                f"{context.place}.replay: {stored} stored groups would join each step's {self.groups_per_step}, and size keeps "
                f"only {self.replay.size}: raise size, or lower fraction"
            )
        return [
            *facts,
            f"{self.label}: {stored} stored groups join each step's {self.groups_per_step}",
        ]
