"""Stage `reward_experts`: train a reward model that is a mixture of experts (DMoERM, arXiv 2403.01197).

A prompt's category names its group (the outer, sparse layer). For each group, on the rollouts of
its tasks, all by the pairwise loss -log sigmoid(r_chosen - r_rejected):

    phase 1   a base reward model               pairs of the stage      60% of the tasks
    phase 2   a LoRA expert per capability,     pairs by the stored     the same tasks
              with a copy of the value head     reward of that name
    phase 3   an MLP over the experts' last     pairs of the stage      the other 40%
              hidden states

Phase 2 leaves the base as it is and phase 3 the experts. The policy stays as it is. The model goes to
`reward_models/<stage>/`; in later stages `{use: reward_model, model: <stage>}` scores with it.
"""

from __future__ import annotations

import importlib.util
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, PositiveInt, model_validator

from rlcore.errors import RecipeError
from rlcore.recipe.optim_sections import UpdateSection
from rlcore.run.seeds import derive
from rlcore.stages.pair_keys import GIVEN
from rlcore.stages.reward_model import RewardModelKeys, RewardModelStage
from rlcore.stages.source_check import check_categories, check_stored_rewards

if TYPE_CHECKING:
    from rlcore.recipe.check import Checking
    from rlcore.run.session import Run

LORA = {"r": 32, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": ["q_proj", "v_proj"]}
"""The paper's."""


class RewardExpertsStage(RewardModelKeys):
    experts: dict[str, list[str]] = Field(
        description="category of the prompts -> its capabilities, each a stored reward (a name, or reward/part) by which "
        "an expert learns; tasks of other categories are left out"
    )
    base_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.6,
        description="fraction of a group's tasks for phases 1 and 2; the others are for phase 3",
    )
    steps: PositiveInt = Field(description="phase 1: optimiser steps of each group's base")
    expert_steps: PositiveInt = Field(description="phase 2: optimiser steps of each expert")
    mixture_steps: PositiveInt = Field(
        description="phase 3: optimiser steps of each group's MLP"
    )
    lora: dict[str, Any] = Field(
        LORA, description="of an expert: settings of peft's LoraConfig"
    )
    expert_optim: UpdateSection = Field(default_factory=lambda: UpdateSection(lr=5e-5))
    mixture_optim: UpdateSection = Field(default_factory=lambda: UpdateSection(lr=1e-4))

    @model_validator(mode="after")
    def _groups_have_experts(self) -> RewardExpertsStage:
        if not self.experts:
            raise ValueError("experts names no category of prompts")
        for category, capabilities in self.experts.items():
            if not capabilities or len(set(capabilities)) < len(capabilities):
                raise ValueError(
                    f"experts: {category!r} needs at least one capability, and each once, not {capabilities}"
                )
        if self.pairs == GIVEN:
            raise ValueError(
                "pairs that are given have no category, by which prompts find their experts: use stored rollouts"
            )
        return self

    @property
    def num_updates(self) -> int:
        """Of all phases of all groups."""
        num_experts = sum(map(len, self.experts.values()))
        per_group = self.steps + self.mixture_steps
        return len(self.experts) * per_group + num_experts * self.expert_steps

    def plain(self, *, heads: list[str] | None = None, **keys: Any) -> RewardModelStage:
        """A stage that trains one reward model on the same data, as a phase does."""
        of_pairs = {} if heads else {"pairs": self.pairs, "per_task": self.per_task}
        return RewardModelStage(
            kind="reward_model",
            name=self.label,
            data=self.data,
            base=self.base,
            heads=heads or [],
            batch_size=self.batch_size,
            micro_batch=self.micro_batch,
            **{"steps": self.steps, "optim": self.optim, **of_pairs, **keys},
        )

    def check(self, context: Checking) -> list[str]:
        if importlib.util.find_spec("peft") is None:
            raise RecipeError(
                f"{context.place} needs the package peft, which is not installed: pip install 'rlcore[peft]'"
            )
        facts = super().check(context)
        with context.at("experts"):
            check_categories(context, self.data, self.experts)
            check_stored_rewards(context, self.data, chain.from_iterable(self.experts.values()))
        num_experts = sum(map(len, self.experts.values()))
        return [
            *facts,
            f"{self.label}: {len(self.experts)} groups with {num_experts} experts, {self.num_updates:,} steps",
        ]

    def run(self, run: Run) -> None:
        run_reward_experts(run, self)


def run_reward_experts(run: Run, stage: RewardExpertsStage) -> None:
    from rlcore.stages.reward_experts_trainer import train_reward_experts

    seed = derive(run.recipe.seed, "reward_experts", run.cursor.stage)
    folder = run.folder.reward_models / stage.label
    shown = stage.model_copy(update={"steps": stage.num_updates})
    with run.tracker.stage(shown, done=0):
        result = train_reward_experts(run, stage, folder=folder, seed=seed)
    if result:
        run.tracker.say(
            f"{stage.label}: held-out accuracy {result['heldout/accuracy']:.1%} of "
            f"{result['heldout/comparisons']:,} comparisons, saved in {folder}"
        )
    run.end_stage()
