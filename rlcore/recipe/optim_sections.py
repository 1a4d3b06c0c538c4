"""The keys of how weights are updated: optimiser, schedule, averages, and what one forward holds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from rlcore.recipe.section import Section


class UpdateSection(Section):
    name: Literal["adamw", "adamw8bit", "muon", "sgd"] = Field(
        "adamw",
        description="adamw8bit needs bitsandbytes; muon takes the inner matrices and leaves the rest to adamw",
    )
    lr: PositiveFloat = Field(1e-6, description="peak learning rate")
    betas: tuple[float, float] = Field(
        (0.9, 0.95), strict=False, description="AdamW's decay rates; the first is sgd's momentum"
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="on matrices only")
    clip_norm: PositiveFloat = Field(1.0, description="largest global gradient norm")
    schedule: Literal["constant", "linear", "cosine", "rex", "wsd"] = Field(
        "constant", description="shape after the warm-up; wsd is constant with a decay at the end"
    )
    warmup_steps: Annotated[int, Field(ge=0)] = Field(0, description="steps of linear warm-up")
    min_lr_ratio: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="where a falling schedule ends, as a share of lr"
    )
    rex_d: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.5, description="rex: 0 is linear, larger stays high for longer"
    )
    decay_shape: Literal["linear", "sqrt", "inverse_linear"] = Field(
        "linear", description="wsd: how it decays (sqrt: 1 - sqrt)"
    )
    decay_share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1, description="wsd: share of all steps in which it decays"
    )

    @model_validator(mode="after")
    def _ends_somewhere(self) -> UpdateSection:
        if (
            self.schedule == "wsd"
            and self.decay_shape == "inverse_linear"
            and self.min_lr_ratio == 0
        ):
            raise ValueError(
                "decay_shape inverse_linear never reaches 0; set min_lr_ratio, for example 0.1"
            )
        return self


class OptimSection(UpdateSection):
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="decay of a moving average of the weights, saved to ema/ in each checkpoint",
    )
    micro_batch_tokens: PositiveInt = Field(
        16_384, description="tokens in one forward; changes memory, never the gradient"
    )
    layout: Literal["auto", "packed", "shared"] = Field(
        "auto",
        description="packed, or shared: what samples begin with in common is stored once; auto: from 16 such tokens on",
    )
