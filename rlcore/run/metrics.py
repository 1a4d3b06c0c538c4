"""From rollouts and reports to the numbers of `metrics.jsonl`, and to the sentences that name a dead run."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from types import MappingProxyType
from typing import Any

from rlcore.errors import RewardError
from rlcore.types import Group, Sample, StepReport


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """What the metrics need of one group; small, so that ranks can exchange it."""

    values: list[float | None]  # [G], None where no score could be given
    parts: list[dict[str, float | None]]  # [G]
    statuses: list[str]  # [G]
    failure: str
    """Reason of the first verdict without a value."""
    lengths: list[int]  # [G], answer tokens
    finishes: list[str]  # [G]
    prompt_tokens: int


def group_facts(group: Group) -> GroupFacts:
    lengths = [sum(rollout.mask) for rollout in group.rollouts]
    return GroupFacts(
        values=[verdict.value for verdict in group.verdicts],
        parts=[dict(verdict.parts) for verdict in group.verdicts],
        statuses=[verdict.status for verdict in group.verdicts],
        failure=next((f"{v.status}: {v.reason}" for v in group.verdicts if v.value is None), ""),
        lengths=lengths,
        finishes=[rollout.finish for rollout in group.rollouts],
        prompt_tokens=sum(len(rollout.token_ids) for rollout in group.rollouts) - sum(lengths),
    )


def rollout_metrics(facts: Sequence[GroupFacts]) -> dict[str, float]:
    """Reward, length and waste of one step, over the groups of all ranks; what nothing was measured of is left out."""
    values = [value for group in facts for value in group.values if value is not None]
    lengths = [length for group in facts for length in group.lengths]
    scored = [[value for value in group.values if value is not None] for group in facts]
    compared = [len(set(group)) == 1 for group in scored if len(group) > 1]
    metrics = (
        {"reward/mean": statistics.fmean(values), "reward/std": statistics.pstdev(values)}
        if values
        else {}
    )
    metrics |= {
        "completions/length/mean": statistics.fmean(lengths),
        "completions/frac_truncated": statistics.fmean(
            finish == "length" for group in facts for finish in group.finishes
        ),
        **({"reward/frac_zero_std": statistics.fmean(compared)} if compared else {}),
        "reward/frac_unscored": statistics.fmean(
            value is None for group in facts for value in group.values
        ),
        "reward/frac_wrong_format": statistics.fmean(
            status == "wrong-format" for group in facts for status in group.statuses
        ),
        "tokens/prompt": sum(group.prompt_tokens for group in facts),
        "tokens/completion": sum(lengths),
    }
    given: dict[str, list[float]] = {}
    for name, part in (item for group in facts for parts in group.parts for item in parts.items()):
        if part is not None:
            given.setdefault(name, []).append(part)
    return metrics | {f"reward/{name}": statistics.fmean(parts) for name, parts in given.items()}


@dataclass(frozen=True, slots=True)
class Effort:
    """What one rank spent on its part of a step."""

    wanted: int
    """Groups of the batch."""
    tried: int
    """Groups begun."""
    accepted: int
    generated: int
    """Answer tokens, those of dropped and rejected groups too."""
    used: int
    """Of them, those that reach a gradient."""
    resamples: int


def tokens_reaching_a_gradient(groups: Iterable[Group], samples: Iterable[Iterable[Sample]]) -> int:
    """Tokens of the groups' rollouts that are trained with an advantage other than 0."""
    own = {rollout.id for group in groups for rollout in group.rollouts}
    return sum(
        bool(on and advantage)
        for group in samples
        for sample in group
        if sample.stream == "policy" and sample.id in own
        for on, advantage in zip(sample.mask, sample.advantages, strict=True)
    )


def effort_metrics(efforts: Sequence[Effort]) -> dict[str, float]:
    """Waste of one step, over all ranks.

    tokens/frac_wasted: share of the answer tokens that reach no gradient. filter/tried_per_group: groups tried for each group of the batch.
    filter/frac_filled: share of the batch that was accepted.
    """
    wanted, generated = (
        sum(effort.wanted for effort in efforts),
        sum(effort.generated for effort in efforts),
    )
    return {
        "tokens/frac_wasted": 1 - sum(effort.used for effort in efforts) / max(1, generated),
        "filter/tried_per_group": sum(effort.tried for effort in efforts) / wanted,
        "filter/frac_filled": sum(effort.accepted for effort in efforts) / wanted,
        "tokens/completion": generated,
    }


def learner_metrics(report: StepReport) -> dict[str, float]:
    """What the learner says of its step; what it measured nothing of is left out."""
    found = {
        "loss": report.loss,
        "grad_norm": report.grad_norm,
        "lr": report.lr,
        "entropy": report.entropy,
        "mismatch/kl": report.kl,
        "mismatch/ratio_max": report.ratio_max,
        "clip_frac": report.clip_frac,
        "policy/kl_to_old": report.old_kl,
        "policy/ratio_max": report.old_ratio_max,
        "advantage/abs_mean": report.abs_advantage,
        "tokens/trained": report.tokens,
        **(
            {f"loss/{name}": value for name, value in report.losses.items()}
            if len(report.losses) > 1
            else {}
        ),
    }
    if report.updates:
        found |= {
            "updates": report.updates,
            "tokens/frac_off_policy": report.off_policy_tokens / report.tokens,
            "tokens/forward_backward": report.model_tokens,
            "tokens/forward_only": report.forward_only_tokens,
        }
    return {key: value for key, value in found.items() if value is not None}


def rollout_rows(
    groups: Iterable[tuple[int | None, Group, bool]],
    steps: Mapping[str, Any] = MappingProxyType({}),
) -> Iterable[dict[str, Any]]:
    """One JSON object a rollout: enough to read it, to score it again, and to learn from it off-line.

    groups: (position in the task set, group, whether the filter accepted it). steps: by rollout id, what is known of its steps
    (`run.steps.step_rows`).
    """
    for index, group, accepted in groups:
        for rollout, verdict in zip(group.rollouts, group.verdicts, strict=True):
            yield {
                "id": rollout.id,
                "task": group.task.id,
                "index": index,
                "accepted": accepted,
                "category": group.task.category,
                "prompt": group.task.prompt,
                "answer": group.task.answer,
                "text": rollout.text,
                "value": verdict.value,
                "status": verdict.status,
                "parts": dict(verdict.parts),
                "reason": verdict.reason,
                "finish": rollout.finish,
                "versions": [
                    [version, len(list(run))]
                    for version, run in groupby(v for v in rollout.versions if v is not None)
                ],
                "temperature": rollout.temperature,
                "token_ids": rollout.token_ids,
                "mask": [int(wrote) for wrote in rollout.mask],
                "logprobs": rollout.logprobs,
                **({} if rollout.support is None else {"support": rollout.support}),
                **({"steps": steps[rollout.id]} if rollout.id in steps else {}),
            }


def refuse_unscored(facts: Sequence[GroupFacts]) -> None:
    """Stop a run in which no answer at all could be scored. Raises `RewardError`."""
    if facts and all(value is None for group in facts for value in group.values):
        answers = sum(len(group.values) for group in facts)
        reason = next((group.failure for group in facts if group.failure), "no reason given")
        raise RewardError(
            f"none of the {answers} answers of this step could be scored, the first because {reason}; "
            f"mend the reward, or try it alone with 'rlcore rewards test'"
        )


def dead_states(metrics: dict[str, Any]) -> list[str]:
    """Sentences that name why a step taught nothing; empty where it taught something."""
    said = []
    if metrics.get("completions/frac_truncated") == 1:
        said.append(
            "every answer was cut at sampling.max_tokens: raise it, or teach the model to stop (an sft stage)"
        )
    if metrics.get("reward/frac_wrong_format") == 1:
        said.append(
            "no answer had the format the reward asks for: check the prompt, or teach the format (an sft stage)"
        )
    if metrics.get("filter/frac_filled", 1) < 0.5:
        said.append(
            f"the filter accepted {metrics['filter/frac_filled']:.0%} of a batch after trying {metrics['filter/tried_per_group']:.3g} batches: "
            f"the tasks are too hard or too easy for it, or resample.rounds is too small"
        )
    if metrics.get("tokens/trained") == 0 and metrics.get("reward/frac_zero_std") != 1:
        said.append(
            "credit gave every answer an advantage of 0, so nothing was learned: check credit.baseline and its scheme"
        )
    unused = (
        metrics.get("tokens/frac_wasted", 1) == 1
    )  # a scheme of one's own may teach where all rewards are equal
    if (
        metrics.get("reward/frac_zero_std") == 1
        and unused
        and not metrics.get("credit/frac_informative")
    ):
        said.append(
            f"all answers to each task earned the same reward (mean {metrics['reward/mean']:.3g}), so nothing was learned: "
            f"the tasks are too hard or too easy, or the reward is constant"
        )
    return said
