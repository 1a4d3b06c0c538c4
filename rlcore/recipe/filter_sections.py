"""The keys of what happens around a filter: resampling and the prefilter."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, PositiveInt, model_validator

from rlcore.recipe.section import Section


class ResampleSection(Section):
    rounds: PositiveInt = Field(
        10, description="maximum number of tries to fill the batch; then it stays smaller"
    )
    oversubmit: Annotated[float, Field(ge=1)] = Field(
        1.0,
        description="groups in flight for each one missing; above 1 is faster, "
        "but groups in flight at the end are wasted",
    )
    probe: Annotated[int, Field(ge=2)] | None = Field(
        None,
        description="completions of a task that are generated first; "
        "the others only if the filter accepts these",
    )


class PrefilterSection(Section):
    """`prefilter: category` is short for `prefilter: {by: category}`."""

    by: str | list[str] = Field(
        "task",
        description="what is remembered together: task, category, a column, or several columns",
    )
    rate: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="how fast a kind's chance follows what the filter accepts"
    )
    least: Annotated[float, Field(gt=0, le=1)] = Field(
        0.02, description="smallest chance of a task to be tried"
    )

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"by": value} if isinstance(value, str | list) else value
