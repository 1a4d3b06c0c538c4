"""Stage `prefer`: learn from pairs, on the policy the stage before left.

DPO and KTO are TRL's trainers, with our optimiser, schedule, metrics and checkpoints; losses
without a reference model are ours (`rlcore.objective.preference`). Where pairs come from:
`rlcore.stages.pair_keys`. A run killed in this stage starts the stage again.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field, PositiveFloat, model_validator

from rlcore.errors import RecipeError
from rlcore.objective.preference import PAIR_LOSSES, PairLoss
from rlcore.plugin import build
from rlcore.recipe.optim_sections import UpdateSection
from rlcore.run.seeds import derive
from rlcore.stages.base import SkippableStage
from rlcore.stages.pair_keys import PairKeys, pair_rows

if TYPE_CHECKING:
    from rlcore.recipe.check import Checking
    from rlcore.run.session import Run


class PreferStage(PairKeys, SkippableStage):
    headline = ("loss", "margin", "accuracy")

    method: str | dict[str, Any] = Field(
        "dpo",
        description="dpo, kto, simpo, cpo, orpo, sharpen, file.py:function, or {use: name, parameter: "
        "value}; docs/preferences.md",
    )
    beta: PositiveFloat | None = Field(
        None,
        description="scale of the implicit reward; dpo, kto: how strongly the policy is held "
        "to the model the stage began with; "
        "default: the method's",
    )
    loss_type: str | dict[str, float] = Field(
        "sigmoid",
        description="dpo: a loss of TRL's DPOTrainer (ipo, hinge, sigmoid_norm, ...), or a "
        "mix: {sigmoid: 1.0, sft: 0.2}",
    )
    optim: UpdateSection = Field(default_factory=UpdateSection)

    @model_validator(mode="after")
    def _loss_type_has_an_effect(self) -> PreferStage:
        if self.loss_type != "sigmoid" and self.method_name != "dpo":
            raise ValueError(
                f"loss_type has no effect with method {self.method_name}: it is a key of dpo"
            )
        return self

    @property
    def method_name(self) -> str:
        return self.method if isinstance(self.method, str) else str(self.method.get("use"))

    @property
    def takes_labels(self) -> bool:
        return self.method_name == "kto"

    def build_method(self) -> PairLoss | Mapping[str, float]:
        """The loss, or the settings of TRL's trainer for dpo and kto. Raises `RecipeError`."""
        context = {} if self.beta is None else {"beta": self.beta}
        method = build(self.method, PAIR_LOSSES, what="preference method", **context)
        if not callable(method) and self.method_name not in PAIR_LOSSES:
            raise RecipeError(
                f"preference method {self.method_name!r} must give a function from "
                f"rlcore.objective.preference.Sides to PairLosses, not a "
                f"{type(method).__name__}"
            )
        return method

    def check(self, context: Checking) -> list[str]:
        facts = super().check(context)
        if importlib.util.find_spec("trl") is None:
            raise RecipeError(
                f"{context.place} needs the package trl, which is not installed: "
                "pip install 'rlcore[prefer]'"
            )
        with context.at("method"):
            self.build_method()
        total = self.steps * self.batch_size
        return [
            *facts,
            f"{self.label}: {self.steps} steps x {self.batch_size} pairs = {total:,}",
        ]

    def run(self, run: Run) -> None:
        run_prefer(run, self)


def run_prefer(run: Run, stage: PreferStage) -> None:
    from rlcore.learner.sharding import copy_trained, is_sharded
    from rlcore.run.reference import whole_copy
    from rlcore.stages.prefer_trl import train_pairs  # TRL takes seconds to import

    seed = derive(run.recipe.seed, "prefer", run.cursor.stage)
    rows = pair_rows(run, stage, seed=seed, may_be_empty=stage.if_empty == "skip")
    if not rows:
        run.tracker.say(f"{stage.label}: {stage.data} gives no pairs, so the stage is skipped")
        run.end_stage()
        return
    run.forget_average()
    # TRL shards a model in its own way, and copies it for a reference
    policy = whole_copy(run) if is_sharded(run.policy.module) else run.policy
    with run.tracker.stage(stage, done=0):
        train_pairs(
            policy,
            rows,
            stage,
            seed=seed,
            processes=run.accelerator.num_processes,
            log=run.log_step,
        )
    if policy is not run.policy:
        copy_trained(policy.module, run.policy.module)
    run.end_stage()
