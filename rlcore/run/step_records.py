"""What is recorded of one step of the rl loop: its rollouts on disk, and its metrics over all ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rlcore.run.metrics import (
    group_facts,
    refuse_unscored,
    rollout_metrics,
    rollout_rows,
    staleness_counts,
    staleness_metrics,
    token_advantages,
)
from rlcore.run.own_metrics import GroupMetric, mean_metrics, measure_groups
from rlcore.run.rollout_batch import RolloutBatch
from rlcore.run.step_values import step_metrics, step_rows
from rlcore.run.token_values import extend_rows, trainer_columns
from rlcore.types import Sample

if TYPE_CHECKING:
    from rlcore.learner.update import Learner
    from rlcore.run.session import Run
    from rlcore.run.throughput import Throughput


def write_rollouts(run: Run, batch: RolloutBatch, samples: Sequence[Sequence[Sample]]) -> None:
    """Put every rollout of the batch on disk, before anything can stop the run."""
    step = run.cursor.step + 1
    rows = list(
        rollout_rows(
            batch.placed(), step_rows(batch.groups), token_advantages(batch.groups, samples)
        )
    )
    run.folder.write_rollouts(step, run.accelerator.process_index, rows)
    run.tracker.rollouts("rollouts", rows, step)


def add_token_values(
    run: Run, batch: RolloutBatch, samples: Sequence[Sequence[Sample]], learner: Learner
) -> None:
    """Add what the learner computed of the tokens to the rows of `write_rollouts`, as `trainer`."""
    if learner.record is None:
        return
    columns = trainer_columns(batch.groups, samples, learner.record.take())
    additions = []
    for _, group, accepted in batch.placed():
        for rollout in group.rollouts:
            # a rejected group is not trained, and may have ids of another one
            column = columns.get(rollout.id) if accepted else None
            additions.append({"trainer": column} if column else {})
    if columns:
        path = run.folder.rollout_path(run.cursor.step + 1, run.accelerator.process_index)
        with run.folder.writing(f"rollouts/{path.name}"):
            extend_rows(path, additions)


def batch_metrics(
    run: Run, batch: RolloutBatch, own_metrics: Sequence[GroupMetric], *, version: int
) -> dict[str, float]:
    """Metrics of a batch over all ranks. Raises `RewardError` if nothing could be scored."""
    facts = run.gather([group_facts(group) for group in batch.all_groups])
    refuse_unscored(facts)
    metrics = rollout_metrics(facts) | {"policy_version": version}
    metrics |= staleness_metrics(run.gather([staleness_counts(batch.rollouts, version)]))
    metrics |= mean_metrics(run.gather(measure_groups(own_metrics, batch.groups)))
    if batch.value_cost is not None:
        costs = run.gather([batch.value_cost])
        metrics |= step_metrics(costs, written=metrics["tokens/completion"])
    return metrics


def speed_metrics(
    run: Run,
    speed: Throughput,
    samples: Sequence[Sequence[Sample]],
    times: Mapping[str, float],
    metrics: Mapping[str, float],
    epochs: int,
) -> dict[str, float]:
    """Tokens per second, utilisation and mean |advantage| of one step, over all ranks."""
    from rlcore.run.throughput import advantage_metrics, sample_facts

    facts = run.gather([sample_facts(sample for of_group in samples for sample in of_group)])
    generated = metrics["tokens/completion"]
    speeds = speed.metrics(facts, times, generated_tokens=generated, epochs=epochs)
    return speeds | advantage_metrics(facts)
