"""Per-step credit in a run: continuations through the run's engine and scorer, their cost, and what is written down of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlcore.credit.monte_carlo import Cost, StepEstimator
from rlcore.recipe.build import build_sampling
from rlcore.recipe.build_credit import build_step_values
from rlcore.recipe.schema import RlStage, SampleStage
from rlcore.rollout.continuations import continuations
from rlcore.run.seeds import derive
from rlcore.run.session import Run
from rlcore.scoring.scorer import Scorer
from rlcore.types import Group, Prefix, Sample


def step_values(
    run: Run, stage: RlStage | SampleStage, scorer: Scorer, *, seed: int
) -> StepEstimator | None:
    """What estimates step values in this stage; None where it asks for none. Seeds follow from the step of the stage."""

    def continue_(prefixes: Sequence[Prefix], left_s: float) -> list[Group]:
        return continuations(
            prefixes,
            engine=run.engine(),
            encoder=run.encoder,
            scorer=scorer,
            sampling=build_sampling(stage.sampling, keep_support=isinstance(stage, RlStage)),
            seed=derive(seed, "steps", run.cursor.stage_step),
            deadline_s=left_s,
            max_length=run.max_length,
        )

    return build_step_values(
        stage, continue_, run.encoder.decode, processes=run.accelerator.num_processes
    )


def step_metrics(costs: Sequence[Cost], *, written: int) -> dict[str, float]:
    """What step values cost over all ranks. written: answer tokens of the step itself.

    credit/answers: answers valued. credit/frac_informative: share of them whose steps differ in value. credit/prefixes: prefixes
    continued. credit/left_out: prefixes the budget did not suffice for. credit/tokens: tokens written for values; credit/frac_tokens:
    their share in all tokens written in the step; credit/read: prompt and prefix tokens given.
    """
    answers, tokens = sum(cost.answers for cost in costs), sum(cost.tokens for cost in costs)
    return {
        "credit/answers": answers,
        **(
            {"credit/frac_informative": sum(cost.informative for cost in costs) / answers}
            if answers
            else {}
        ),
        "credit/prefixes": sum(cost.prefixes for cost in costs),
        "credit/left_out": sum(cost.left_out for cost in costs),
        "credit/tokens": tokens,
        "credit/frac_tokens": tokens / max(1, tokens + written),
        "credit/read": sum(cost.read for cost in costs),
    }


def step_rows(
    values: StepEstimator, samples: Sequence[Sequence[Sample]]
) -> dict[str, dict[str, Any]]:
    """By rollout id, what a row of `rollouts/` says of steps: spans, values, and the advantage of each answer token.

    An advantage is None where the token is not trained; the key is absent where the answer gave no sample.
    """
    rows = {
        id: {"spans": [list(span) for span in found.spans], "values": found.values}
        for id, found in values.values.items()
    }
    for sample in (sample for group in samples for sample in group if sample.id in rows):
        answer = sum(span[1] - span[0] for span in rows[sample.id]["spans"])
        trained = zip(sample.advantages[-answer:], sample.mask[-answer:], strict=True)
        rows[sample.id]["advantages"] = [advantage if on else None for advantage, on in trained]
    return rows
