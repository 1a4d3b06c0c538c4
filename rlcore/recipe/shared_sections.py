"""Sections that several stages have: they may stand once at the top of a recipe."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from rlcore.recipe.section import Count, MetricName, PartSection, Seconds, Section


class RewardSection(PartSection):
    use: str = Field(
        description="entry point, package.module:function, file.py:function, or information_gain, latent_weight, likelihood, "
        "reward_model or student_exam, which the learner's process computes"
    )
    weight: Annotated[float, Field(ge=-1e6, le=1e6)] = Field(
        1.0, description="its weight in the sum; 0 only logs it"
    )
    name: MetricName = Field("", description="name in the metrics; default: the function's")
    optional: bool = Field(
        False, description="None leaves it out of the sum, and the completion stays in training"
    )
    against: str = Field(
        "", description="column with a reference answer, whose own score is subtracted"
    )
    where: dict[str, Any] = Field(
        default_factory=dict,
        description="only for tasks with these values of columns, {column: value or [values]}; category is one; default: all tasks",
    )
    turn: Count | None = Field(
        None,
        description="which completion of a conversation it scores, 1 for the first; default: the last",
    )


class ScoringSection(Section):
    workers: Annotated[int, Field(gt=0, le=1024)] = Field(
        2, description="processes that compute rewards, for each process of the run"
    )
    deadline_s: Seconds = Field(10.0, description="longest time for one reward call")


def _not_tiny(temperature: float) -> float:
    if 0 < temperature < MIN_TEMPERATURE:
        raise ValueError(f"it is 0 (greedy) or at least {MIN_TEMPERATURE}, not {temperature:g}")
    return temperature


MIN_TEMPERATURE = 1e-3
"""Below it, logits divided by the temperature overflow."""
Temperature = Annotated[float, Field(ge=0, le=100), AfterValidator(_not_tiny)]


class SamplingSection(Section):
    max_tokens: Count = Field(256, description="longest completion")
    temperature: Temperature = Field(1.0, description="0 is greedy")
    top_p: Annotated[float, Field(ge=1e-6, le=1)] = Field(1.0, description="nucleus; 1 is off")
    top_k: Annotated[int, Field(ge=0)] = Field(0, description="0 is off")
    min_p: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        description="cut off tokens below this fraction of the largest probability; 0 is off",
    )
    stop: list[str] = Field(default_factory=list, description="texts that end a completion")


BUDGET_TEXT = "\nUse exactly {budget} tokens."


def _states(text: str) -> str:
    if "{budget}" not in text and "{prompt}" not in text:
        raise ValueError(
            f"{text!r} has neither {{budget}} nor {{prompt}}: it would state nothing"
        )
    return text


BudgetText = Annotated[str, AfterValidator(_states)]
