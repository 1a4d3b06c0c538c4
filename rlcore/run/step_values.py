"""Step values in a run: prefixes are continued by the run's engine and scorer; what that costs, and how it is recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rlcore.credit.estimator import Cost
from rlcore.recipe.build_credit import build_step_values
from rlcore.rollout.collector import Collector
from rlcore.run.seeds import derive
from rlcore.types import Group, Prefix

if TYPE_CHECKING:
    from rlcore.recipe.credit_sections import StepValuesSection
    from rlcore.run.session import Run
    from rlcore.stages.base import GeneratingStage

Estimate = Callable[[Sequence[Group], int], tuple[list[Group], Cost]]
"""(groups, number of their batch) -> the groups with step values, and what these cost."""


def step_values(
    run: Run,
    section: StepValuesSection | None,
    stage: GeneratingStage,
    collector: Collector,
    *,
    seed: int,
) -> Estimate | None:
    """What estimates the step values of a batch, as a section of `stage` says; None without one."""
    if section is None:
        return None

    def estimate(groups: Sequence[Group], number: int) -> tuple[list[Group], Cost]:
        def continue_(prefixes: Sequence[Prefix], left_s: float) -> list[Group]:
            return collector.continue_prefixes(
                prefixes, batch=number, seed=derive(seed, "steps", number), deadline_s=left_s
            )

        processes = run.accelerator.num_processes
        decode = run.encoder.decode
        values = build_step_values(section, stage, continue_, decode, processes=processes)
        return values(groups)

    return estimate


def step_metrics(costs: Sequence[Cost], *, written: int) -> dict[str, float]:
    """What step values cost over all ranks. written: completion tokens of the step itself.

    credit/completions: completions valued. credit/frac_informative: share of them whose steps differ in value. credit/prefixes: prefixes
    continued. credit/left_out: prefixes the budget did not suffice for. credit/tokens: tokens written for values; credit/frac_tokens:
    their share in all tokens written in the step; credit/read: prompt and prefix tokens given.
    """
    completions = sum(cost.completions for cost in costs)
    tokens = sum(cost.tokens for cost in costs)
    return {
        "credit/completions": completions,
        **(
            {"credit/frac_informative": sum(cost.informative for cost in costs) / completions}
            if completions
            else {}
        ),
        "credit/prefixes": sum(cost.prefixes for cost in costs),
        "credit/left_out": sum(cost.left_out for cost in costs),
        "credit/tokens": tokens,
        "credit/frac_tokens": tokens / max(1, tokens + written),
        "credit/read": sum(cost.read for cost in costs),
    }


def step_rows(groups: Iterable[Group]) -> dict[str, dict[str, Any]]:
    """By rollout id, what a row of `rollouts/` says of reasoning steps: their spans and values."""
    return {
        id: {"spans": [list(span) for span in steps.spans], "values": steps.values}
        for group in groups
        for id, steps in group.step_values.items()
    }
