"""The keys of which groups a step trains on: filter, resampling and prefilter."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, PositiveInt, model_validator

from rlcore.recipe.section import Section


class ResampleSection(Section):
    max_gen_batches: PositiveInt = Field(
        10,
        description="groups generated for a batch, in multiples of groups_per_step; then it stays smaller "
        "(verl: max_num_gen_batches)",
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


class GroupKeys(Section):
    """Keys of a stage that trains on groups of completions and may filter them."""

    group_size: PositiveInt = Field(8, description="completions per task")
    filter: str | dict[str, Any] | list[str | dict[str, Any]] | None = Field(
        None,
        description="which groups enter the batch, the others are replaced: "
        "zero_variance, pass_rate, staleness, unscorable",
    )
    resample: ResampleSection = Field(default_factory=ResampleSection)
    prefilter: str | dict[str, Any] | None = Field(
        None,
        description="passes over tasks like those the filter rejected, before anything is "
        "generated for them: greso, or {use: greso, by: category}",
    )

    @model_validator(mode="after")
    def _filter_keys_have_an_effect(self) -> GroupKeys:
        probe = self.resample.probe
        if self.prefilter is not None and self.filter is None:
            raise ValueError("prefilter remembers what a filter rejected: set filter too")
        if probe is not None and (self.filter is None or probe >= self.group_size):
            raise ValueError(
                f"resample.probe is {probe}, which needs a filter and a group_size above it "
                f"(it is {self.group_size})"
            )
        if self.filter is None and self.resample != ResampleSection():
            raise ValueError(
                "resample has no effect without a filter: set filter, or leave it out"
            )
        return self
