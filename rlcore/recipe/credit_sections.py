"""The keys of credit: what a completion is compared with, and the value of each reasoning step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from rlcore.recipe.section import PartSection, Section

COMPARES = (
    "mean",
    "mean_std",
    "leave_one_out",
    "mean_batch_std",
    "length_weighted",
    "log_partition",
    "max_likelihood",
)
"""Baselines that give a group of one completion no advantage."""


class StepValuesSection(PartSection):
    """What estimates step values; other keys are parameters of the estimator."""

    renamed: ClassVar[Mapping[str, str]] = {"values": "use"}

    use: str = Field(
        "monte_carlo",
        description="monte_carlo continues prefixes; siblings compares the completions of a group "
        "and generates nothing; greedy: a greedy completion gives the value of the prompt (ReMax); "
        "file.py:function of (rollout, spans), a process reward model say; or file.py:Estimator",
    )
    split: str | dict[str, Any] = Field(
        "newline",
        description="what a reasoning step is: newline, sentence, {use: delimiter, at: ';'}, "
        "{use: tokens, n: 32}, ...",
    )


class StepsSection(StepValuesSection):
    scheme: str | dict[str, Any] = Field(
        "per_step",
        description="what becomes of step values: a name, or {use: name, parameter: value}; docs/credit.md",
    )
    keep: Literal["none", "correct", "all"] = Field(
        "none", description="which continuations are learned from too"
    )


class SolutionsSection(Section):
    """A task's own correct completions of all steps, which are learned in place of the group."""

    beta: Annotated[float, Field(gt=0, le=1)] | None = Field(
        0.25,
        description="beta-MML: 1 learns the likeliest solution most (MML), towards 0 all alike; null: MLE-Aug, each with weight 1",
    )
    size: PositiveInt = Field(
        16, description="solutions of a task that are kept, the first ones"
    )
    longest: Annotated[float, Field(ge=1)] | None = Field(
        None,
        description="a new solution has at most so many times the tokens of the task's shortest",
    )


class CreditSection(Section):
    baseline: str | dict[str, Any] = Field(
        "mean_std",
        description="what rewards are compared with: mean, mean_std, leave_one_out, none, zero (rewards are only measured); "
        "global and mean_global: none and mean, then whitened over a step's tokens; mean_batch_std: mean, over the "
        "deviation of a step's rewards; critic: the values of the section `critic`; length_weighted, pass_at_k, ... "
        "(docs/objectives.md); or {use: name, parameter: value}",
    )
    zero_variance: Literal["keep", "drop"] = Field(
        "drop",
        description="groups whose rewards are all equal: count them or leave them out; the global baselines and a critic keep them",
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
        default_factory=dict,
        description="weight of the samples of a category; 1 for the others",
    )
    demonstrations: Literal["none", "gated", "mixed", "all", "solved"] = Field(
        "none",
        description="gated: imitate those of tasks the policy does not solve (hpt); mixed: each is one more completion of its "
        "group (luffy); all: each beside its group (gkd); solved: none is read, each correct completion is imitated beside its "
        "group (vapo)",
    )
    threshold: Annotated[float, Field(ge=0)] = Field(
        0.0, description="gated: a task counts as not solved up to this mean reward"
    )
    solutions: SolutionsSection | None = Field(
        None,
        description="learn the distinct correct completions of the task that were found so far, the demonstration too (mml); "
        "the baseline then has no part",
    )
    steps: StepsSection | None = Field(
        None, description="credit for each reasoning step of a completion"
    )
    turns: str | dict[str, Any] | None = Field(
        None,
        description="credit for each turn with an environment: returns, gigpo, or {use: name, parameter: value}; null: the "
        "episode's reward on all turns",
    )

    @model_validator(mode="after")
    def _effective(self) -> CreditSection:
        if self.solutions is not None:
            for key in ("steps", "turns", "exponential"):
                if getattr(self, key) is not None:
                    raise ValueError(
                        f"{key} and solutions both say what is learned: leave out one"
                    )
            if self.demonstrations != "none":
                raise ValueError(
                    "demonstrations has no effect with solutions, which hold those of their tasks: leave it out"
                )
        if self.threshold and self.demonstrations != "gated":
            raise ValueError("threshold has no effect: it is for demonstrations: gated")
        return self


def baseline_conflicts(section: CreditSection, group_size: int) -> Iterator[str]:
    """What keeps the baseline from comparing the completions of a group of this size."""
    named = {"use": section.baseline} if isinstance(section.baseline, str) else section.baseline
    baseline = named.get("use")
    compared = group_size + (section.demonstrations == "mixed")
    if baseline in ("pass_at_k", "max_at_k"):
        k = named.get("k", 4)
        if isinstance(k, int) and k > compared:
            yield (
                f"credit.baseline compares sets of {k} completions, but a group has {compared}: "
                "raise group_size, or set k"
            )
    elif compared == 1 and baseline in COMPARES:
        yield (
            "group_size is 1, so a completion is compared with nothing: "
            "raise it, or use a method that compares it with the rest of the step or with a critic: reinforce_pp, ppo"
        )
