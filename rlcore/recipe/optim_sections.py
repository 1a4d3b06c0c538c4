"""The keys of how weights are updated: optimiser, schedule, averages, and what one forward holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from rlcore.errors import RecipeError
from rlcore.plugin import build, did_you_mean
from rlcore.recipe.section import Amount, Count, Section

if TYPE_CHECKING:
    from rlcore.recipe.schema import Recipe

Ratio = Annotated[float, Field(ge=0, lt=1)]


def constant() -> dict[str, Any]:
    """The peak rate throughout."""
    return {}


def linear(min_lr_ratio: Ratio = 0.0) -> dict[str, Any]:
    """A straight line down to min_lr_ratio x lr."""
    return {"min_lr_ratio": min_lr_ratio}


def cosine(min_lr_ratio: Ratio = 0.0) -> dict[str, Any]:
    """Half a cosine down to min_lr_ratio x lr."""
    return {"min_lr_ratio": min_lr_ratio}


def rex(d: Ratio = 0.5, min_lr_ratio: Ratio = 0.0) -> dict[str, Any]:
    """REX (arXiv 2107.04197). d: 0 is linear, larger stays high for longer."""
    return {"rex_d": d, "min_lr_ratio": min_lr_ratio}


def wsd(
    decay_shape: Literal["linear", "sqrt", "inverse_linear"] = "linear",
    decay_fraction: Annotated[float, Field(gt=0, le=1)] = 0.1,
    min_lr_ratio: Ratio = 0.0,
) -> dict[str, Any]:
    """Constant, with a decay over the last decay_fraction of all updates (arXiv 2404.06395).

    decay_shape: sqrt is 1 - sqrt(progress). inverse_linear needs min_lr_ratio above 0.
    """
    if decay_shape == "inverse_linear" and min_lr_ratio == 0:
        raise RecipeError(
            "decay_shape inverse_linear never reaches 0; set min_lr_ratio, for example 0.1"
        )
    return {
        "decay_shape": decay_shape,
        "decay_share": decay_fraction,
        "min_lr_ratio": min_lr_ratio,
    }


SCHEDULES = {
    function.__name__: f"rlcore.recipe.optim_sections:{function.__name__}"
    for function in (constant, linear, cosine, rex, wsd)
}
"""Name in a recipe -> a function that gives settings of `rlcore.learner.optim.Schedule`."""


class UpdateSection(Section):
    use: Literal["adamw", "adamw8bit", "muon", "sgd"] = Field(
        "adamw",
        description="adamw8bit needs bitsandbytes; "
        "muon takes the inner matrices and leaves the rest to adamw",
    )
    lr: Annotated[float, Field(gt=0, le=1e3)] = Field(1e-6, description="peak learning rate")
    betas: tuple[Ratio, Ratio] = Field(
        (0.9, 0.95),
        strict=False,
        description="AdamW's decay rates; the first is sgd's momentum",
    )
    weight_decay: Annotated[float, Field(ge=0, le=1e3)] = Field(
        0.0, description="on matrices only"
    )
    clip_norm: Amount = Field(1.0, description="largest global gradient norm")
    schedule: str | dict[str, Any] = Field(
        "constant",
        description="shape after the warm-up: constant, linear, cosine, rex, wsd, "
        "or {use: wsd, decay_shape: sqrt}",
    )
    warmup_steps: Annotated[int, Field(ge=0, le=10**9)] = Field(
        0, description="updates of linear warm-up"
    )

    @model_validator(mode="after")
    def _schedule_exists(self) -> UpdateSection:
        try:
            self.schedule_settings()
        except RecipeError as error:
            raise ValueError(f"schedule: {error}") from None
        return self

    def schedule_settings(self) -> dict[str, Any]:
        """Name and settings of the learner's schedule."""
        name = self.schedule if isinstance(self.schedule, str) else self.schedule.get("use")
        if not isinstance(name, str) or name not in SCHEDULES:
            raise RecipeError(
                f"there is no schedule {name!r}{did_you_mean(str(name), SCHEDULES)}"
            )
        return {"schedule": name, **build(self.schedule, SCHEDULES, what="schedule")}

    def settings(self) -> dict[str, Any]:
        """Keyword arguments of the learner."""
        settings = self.model_dump(exclude={"use", "schedule", "continues"})
        return {"optimizer": self.use, **settings, **self.schedule_settings()}


class LearnerOptimSection(UpdateSection):
    offload: bool = Field(
        False,
        description="keep the optimiser's states in the host's memory between updates; the same updates, less memory of a GPU",
    )

    @model_validator(mode="after")
    def _states_can_be_moved(self) -> LearnerOptimSection:
        if self.offload and self.use == "adamw8bit":
            raise ValueError(
                "offload does not go with adamw8bit, whose states only bitsandbytes can read: use adamw, or leave offload out"
            )
        return self


class OptimSection(LearnerOptimSection):
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="decay of a moving average of the weights, saved to ema/ in each checkpoint",
    )
    micro_batch_tokens: Count = Field(
        16_384, description="tokens in one forward; changes memory, never the gradient"
    )
    layout: Literal["auto", "packed", "shared"] = Field(
        "auto",
        description="packed, or shared: what samples begin with in common is stored once; auto: from 16 such tokens on",
    )
    continues: bool | Literal["moments"] = Field(
        False,
        description="go on with optimiser and schedule of the training stage before, whose other keys these then are; "
        "`optim: continue` says the same; moments: with the optimiser's moments alone, under this stage's own keys",
    )

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"continues": True} if value == "continue" else value


class UpdateKeys(Section):
    """Keys of a stage that makes several updates of a rollout batch, or trains on stale ones."""

    max_staleness: Annotated[int, Field(ge=0)] = Field(
        0, description="rollout batches generated beyond the one being trained"
    )
    minibatches: PositiveInt = Field(1, description="updates that a rollout batch is cut into")
    update_epochs: PositiveInt = Field(
        1, description="times that a rollout batch is trained on"
    )
    minibatch_by: Literal["group", "sequence"] = Field(
        "group", description="what stays together when a batch is cut"
    )
    old_logprobs: Literal["trainer", "engine"] | None = Field(
        None,
        description="denominator of the ratio after the first update and for stale tokens: "
        "recomputed by the learner, or as the engine recorded them; "
        "default: trainer in bfloat16, else engine",
    )
    metrics: list[str | dict[str, Any]] = Field(
        default_factory=list, description="functions of a group, logged as metric/<function>"
    )

    @model_validator(mode="after")
    def _no_idle_keys(self) -> UpdateKeys:
        one_update = self.minibatches == self.update_epochs == 1
        if self.minibatches == 1 and self.minibatch_by != "group":
            raise ValueError("minibatch_by has no effect with minibatches 1: leave it out")
        on_policy = one_update and self.max_staleness == 0
        if (
            on_policy
            and self.old_logprobs is not None
            and getattr(self, "replay", None) is None
        ):
            raise ValueError(
                "old_logprobs has no effect with one update a batch and max_staleness 0: leave it out"
            )
        return self

    def old_logprobs_source(self, recipe: Recipe) -> Literal["trainer", "engine"]:
        """Where old log-probabilities come from, default applied."""
        return self.old_logprobs or (
            "trainer" if recipe.model.dtype == "bfloat16" else "engine"
        )
