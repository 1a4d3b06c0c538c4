"""The keys of a critic: where its model starts, how advantages are made of its values, and how it learns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from rlcore.recipe.optim_sections import LearnerOptimSection
from rlcore.recipe.section import Amount, Section

if TYPE_CHECKING:
    from rlcore.stages.rl import RlStage

CRITIC = "critic"
"""The baseline whose advantages come from a critic."""
Discount = Annotated[float, Field(ge=0, le=1)]


class CriticOptimSection(LearnerOptimSection):
    lr: Annotated[float, Field(gt=0, le=1e3)] = Field(
        1e-5, description="peak learning rate; a critic's is usually above the policy's"
    )


class CriticSection(Section):
    path: str | None = Field(
        None,
        description="model to start from, a language model or a reward model: hub name, folder, or run folder; "
        "null: the policy as the stage begins (an adapter merged)",
    )
    gamma: Discount = Field(1.0, description="discount of a token")
    gae_lambda: Discount = Field(
        0.95,
        description="of the advantages: 1 is return less value, 0 trusts the next value",
    )
    length_adaptive: Amount | None = Field(
        None,
        description="VAPO's alpha: lambda is 1 - 1 / (alpha x tokens of the rollout) in place of gae_lambda",
    )
    value_lambda: Discount | None = Field(
        None,
        description="lambda of the returns that the critic learns; null: gae_lambda; 1: what was earned",
    )
    value_clip: Amount | None = Field(
        0.2,
        description="how far a value may move in a step before its loss is clipped; null: no clip",
    )
    whiten: bool = Field(
        True,
        description="advantages of mean 0 and standard deviation 1 over the tokens of a step",
    )
    pretrain_steps: NonNegativeInt = Field(
        0,
        description="first steps of the stage, in which only the critic learns, by value_lambda 1 (verl: critic_warmup)",
    )
    minibatches: PositiveInt = Field(
        1, description="updates of the critic that a rollout batch is cut into, by sequences"
    )
    update_epochs: PositiveInt = Field(
        1, description="times that the critic is trained on a rollout batch"
    )
    optim: CriticOptimSection = Field(default_factory=CriticOptimSection)

    def pretrains(self, step: int) -> bool:
        """Whether the policy waits for the critic in this step of the stage (VC-PPO's value pretraining, arXiv 2503.01491)."""
        return step < self.pretrain_steps

    @model_validator(mode="after")
    def _one_lambda(self) -> CriticSection:
        default = type(self).model_fields["gae_lambda"].default
        if self.length_adaptive is not None and self.gae_lambda != default:
            raise ValueError("gae_lambda has no effect with length_adaptive: leave out one")
        if self.length_adaptive is not None and self.value_lambda is None:
            raise ValueError("length_adaptive needs value_lambda, for example 1.0 as in VAPO")
        return self


def critic_conflicts(stage: RlStage) -> Iterator[str]:
    """What does not go with a critic in an rl stage, as sentences that begin with a key."""
    credit = stage.credit
    if credit.baseline != CRITIC:
        if stage.critic is not None:
            yield "critic has no effect: leave it out (critic: null), or set method: ppo or credit.baseline: critic"
        return
    if credit.steps is not None or credit.turns is not None:
        part = "steps" if credit.steps is not None else "turns"
        yield f"credit.{part} and a critic both say what parts of a rollout are worth: leave out one"
    if credit.normalise_parts:
        yield "credit.normalise_parts compares the rewards of a group, a critic does not: leave out one"
    if credit.demonstrations == "mixed":
        yield (
            "credit.demonstrations: mixed compares a demonstration with its group, a critic does not: "
            "use gated, or another baseline"
        )
    if stage.group_size == 1 and stage.filter == "zero_variance":
        yield "filter: zero_variance rejects every group of one completion: leave it out, or raise group_size"
    if stage.critic.pretrain_steps >= stage.steps:
        yield (
            f"critic.pretrain_steps is {stage.critic.pretrain_steps}, but the stage has only {stage.steps} steps: "
            "the policy would never learn"
        )
