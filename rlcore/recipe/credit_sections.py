"""The keys of credit: what an answer is compared with, and what each of its steps was worth."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from rlcore.recipe.section import Section

OF_CONTINUATIONS = (
    "rollouts",
    "share",
    "search",
    "dead",
    "prefixes",
    "start",
    "best_of",
    "max_new_tokens",
    "total_tokens",
    "deadline_s",
)
"""Keys of step values that say nothing where nothing is continued."""


class StepValuesSection(Section):
    split: str | dict[str, Any] = Field(
        "newline",
        description="what a step is: newline, sentence, {use: delimiter, at: ';'}, {use: tokens, n: 32}, ...",
    )
    values: Literal["rollouts", "siblings"] = Field(
        "rollouts",
        description="by continuing prefixes, or, at no token, by the group's answers that pass there",
    )
    state: str | None = Field(
        None,
        description="siblings: a regular expression whose last match in a step tells where it led; default: all text so far",
    )
    rollouts: PositiveInt = Field(8, description="continuations of each prefix")
    completions: Literal["negatives", "positives", "all"] | None = Field(
        None, description="which completions are valued; default: the scheme's choice"
    )
    share: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="fraction of those completions in each group, rounded up"
    )
    passing: float = Field(0.5, description="completions whose first reward is lower are negatives")
    search: Literal["all", "until_dead", "bisect", "backwards"] = Field(
        "all",
        description="which prefixes: all, one by one up to the first dead one, bisection for it, or from the last one back",
    )
    dead: float = Field(0.0, description="value up to which a prefix counts as dead")
    prefixes: PositiveInt | None = Field(
        None, description="at most so many prefixes of one answer, as the search comes to them"
    )
    start: Literal["siblings", "rollouts"] = Field(
        "siblings",
        description="the prompt's value: mean reward of the other answers to it, or of continuations from nothing",
    )
    best_of: PositiveInt | None = Field(
        None, description="values of the best of so many attempts, for rewards of 0 and 1"
    )
    max_new_tokens: PositiveInt | None = Field(
        None, description="longest continuation; default: what sampling.max_tokens leaves"
    )
    total_tokens: PositiveInt | None = Field(
        None,
        description="never write more than so many tokens a step for values, over all processes",
    )
    deadline_s: PositiveFloat = Field(
        600.0, description="longest wait for all continuations of a step"
    )

    @model_validator(mode="after")
    def _enough(self) -> StepValuesSection:
        if self.best_of is not None and self.rollouts < self.best_of:
            raise ValueError(
                f"the best of {self.best_of} cannot be estimated from {self.rollouts} rollouts: raise rollouts"
            )
        idle = ["state"] if self.values == "rollouts" else [*OF_CONTINUATIONS, "keep"]
        given = [
            key
            for key in idle
            if key in type(self).model_fields
            and getattr(self, key) != type(self).model_fields[key].default
        ]
        if given:
            raise ValueError(
                f"values: {self.values} has no use for {', '.join(given)}: leave it out"
            )
        return self


class StepsSection(StepValuesSection):
    scheme: str | dict[str, Any] = Field(
        "per_step",
        description="what becomes of step values: a name, or {use: name, parameter: value}; docs/credit.md",
    )
    keep: Literal["none", "correct", "all"] = Field(
        "none", description="which continuations are learned from too"
    )


class CreditSection(Section):
    baseline: str | dict[str, Any] = Field(
        "mean_std",
        description="what rewards are compared with: mean, mean_std, leave_one_out, none; global and mean_global: none and mean, "
        "then whitened over a step's tokens; or {use: name, parameter: value}",
    )
    zero_variance: Literal["keep", "drop"] = Field(
        "drop",
        description="groups whose rewards are all equal: count them or leave them out; the global baselines keep them",
    )
    normalise_parts: bool = Field(
        False,
        description="each reward less its group's mean, over its std, before the weighted sum (with baseline global: GDPO)",
    )
    exponential: PositiveFloat | None = Field(
        None,
        description="turn advantages A into weights exp(A / this), at most 20, of mean 1 over a step",
    )
    category_weights: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="weight of the samples of a category; 1 for the others"
    )
    demonstrations: Literal["none", "gated", "mixed"] = Field(
        "none",
        description="imitate those of tasks the policy does not solve (hpt), or add each to its group (luffy)",
    )
    threshold: Annotated[float, Field(ge=0)] = Field(
        0.0, description="gated: a task counts as not solved up to this mean reward"
    )
    steps: StepsSection | None = Field(
        None, description="credit for each step of an answer, by continuing its prefixes"
    )

    @model_validator(mode="after")
    def _effective(self) -> CreditSection:
        if self.threshold and self.demonstrations != "gated":
            raise ValueError("threshold has no effect: it is for demonstrations: gated")
        return self
