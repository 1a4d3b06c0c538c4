"""From rollouts and reports to the numbers of `metrics.jsonl`."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from types import MappingProxyType
from typing import Any

from rlcore.errors import RewardError
from rlcore.run.episode_metrics import EpisodeFacts, episode_facts, episode_metrics
from rlcore.types import Group, Rollout, Sample, StepReport
from rlcore.types.plain import plain


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """What the metrics need of one group; small, so that ranks can exchange it."""

    values: list[float | None]  # [G], None where no score could be given
    parts: list[dict[str, float | None]]  # [G]
    statuses: list[str]  # [G]
    failure: str
    """Reason of the first verdict without a value."""
    lengths: list[int]  # [G], completion tokens
    distinct_words: list[int]  # [G], different words of each completion
    finishes: list[str]  # [G]
    prompt_tokens: int
    category: str = "all"
    """Of the task."""
    episodes: tuple[EpisodeFacts, ...] = ()
    """What environments said, of the rollouts that had one."""


def group_facts(group: Group) -> GroupFacts:
    lengths = [sum(rollout.mask) for rollout in group.rollouts]
    all_tokens = sum(len(rollout.token_ids) for rollout in group.rollouts)
    failures = [
        f"{verdict.status}: {verdict.reason}"
        for verdict in group.verdicts
        if verdict.value is None
    ]
    return GroupFacts(
        values=[verdict.value for verdict in group.verdicts],
        parts=[dict(verdict.parts) for verdict in group.verdicts],
        statuses=[verdict.status for verdict in group.verdicts],
        failure=failures[0] if failures else "",
        lengths=lengths,
        distinct_words=[len(set(rollout.text.lower().split())) for rollout in group.rollouts],
        finishes=[rollout.finish for rollout in group.rollouts],
        prompt_tokens=all_tokens - sum(lengths),
        category=group.task.category,
        episodes=episode_facts(group.rollouts),
    )


def rollout_metrics(facts: Sequence[GroupFacts]) -> dict[str, float]:
    """Reward and length of one step, over the groups of all ranks.

    What could not be measured is left out.
    """
    all_values = [value for group in facts for value in group.values]
    values = [value for value in all_values if value is not None]
    lengths = [length for group in facts for length in group.lengths]
    finishes = [finish for group in facts for finish in group.finishes]
    statuses = [status for group in facts for status in group.statuses]
    metrics: dict[str, float] = {}
    if values:
        metrics["reward/mean"] = statistics.fmean(values)
        metrics["reward/std"] = statistics.pstdev(values)
    metrics["completions/length/mean"] = statistics.fmean(lengths)
    metrics["completions/distinct_words/mean"] = statistics.fmean(
        words for group in facts for words in group.distinct_words
    )
    metrics["completions/frac_truncated"] = _fraction(finishes, "length")
    zero_std = _frac_zero_std(facts)
    if zero_std is not None:
        metrics["reward/frac_zero_std"] = zero_std
    metrics["reward/frac_unscored"] = _fraction(all_values, None)
    metrics["reward/frac_wrong_format"] = _fraction(statuses, "wrong-format")
    metrics["tokens/prompt"] = sum(group.prompt_tokens for group in facts)
    metrics["tokens/completion"] = sum(lengths)
    episodes = [episode for group in facts for episode in group.episodes]
    return metrics | _part_means(facts) | episode_metrics(episodes)


def _fraction(items: Sequence[Any], wanted: Any) -> float:
    return items.count(wanted) / len(items)


def _frac_zero_std(facts: Sequence[GroupFacts]) -> float | None:
    """Fraction, of the groups with two scored rollouts or more, of those with equal rewards."""
    is_constant = []
    for group in facts:
        scored = [value for value in group.values if value is not None]
        if len(scored) > 1:
            is_constant.append(len(set(scored)) == 1)
    return statistics.fmean(is_constant) if is_constant else None


def _part_means(facts: Sequence[GroupFacts]) -> dict[str, float]:
    """Mean of each named reward over the rollouts that have it."""
    values_of: dict[str, list[float]] = {}
    for group in facts:
        for parts in group.parts:
            for name, value in parts.items():
                if value is not None:
                    values_of.setdefault(name, []).append(value)
    return {f"reward/{name}": statistics.fmean(values) for name, values in values_of.items()}


@dataclass(frozen=True, slots=True)
class Effort:
    """What one rank spent on its part of a step."""

    wanted: int
    """Groups of the batch."""
    tried: int
    """Groups begun."""
    accepted: int
    generated: int
    """Completion tokens, those of dropped and rejected groups too."""
    used: int
    """Of them, those that reach a gradient."""
    resamples: int


def tokens_reaching_a_gradient(
    groups: Iterable[Group], samples: Iterable[Iterable[Sample]]
) -> int:
    """Tokens of the groups' rollouts that are trained with an advantage other than 0."""
    rollout_ids = {rollout.id for group in groups for rollout in group.rollouts}
    tokens = 0
    for group in samples:
        for sample in group:
            if sample.stream != "policy" or sample.id not in rollout_ids:
                continue
            for is_trained, advantage in zip(sample.mask, sample.advantages, strict=True):
                tokens += bool(is_trained and advantage)
    return tokens


def effort_metrics(efforts: Sequence[Effort]) -> dict[str, float]:
    """Waste of one step, over all ranks.

    tokens/frac_wasted: fraction of the completion tokens that reach no gradient.
    filter/tried_per_group: groups tried for each group of the batch.
    filter/frac_filled: fraction of the batch that was accepted.
    """
    wanted = sum(effort.wanted for effort in efforts)
    generated = sum(effort.generated for effort in efforts)
    used = sum(effort.used for effort in efforts)
    return {
        "tokens/frac_wasted": 1 - used / max(1, generated),
        "filter/tried_per_group": sum(effort.tried for effort in efforts) / wanted,
        "filter/frac_filled": sum(effort.accepted for effort in efforts) / wanted,
        "tokens/completion": generated,
    }


def staleness_counts(rollouts: Iterable[Rollout], version: int) -> dict[int, int]:
    """Age -> number of completion tokens, of one rank; `staleness_metrics` takes all ranks'.

    The age of a token is the learner's `version` minus the version that wrote the token.
    """
    tokens_of_age: Counter[int] = Counter()
    for rollout in rollouts:
        for token_version in rollout.versions:
            if token_version is not None:
                tokens_of_age[version - token_version] += 1
    return dict(tokens_of_age)


def staleness_metrics(counts: Iterable[Mapping[int, int]]) -> dict[str, float]:
    """Mean and largest age of the trained tokens, and the fraction of them of each age."""
    tokens_of_age: Counter[int] = Counter()
    for rank_counts in counts:
        tokens_of_age.update(rank_counts)
    tokens = tokens_of_age.total()
    if tokens == 0:
        return {}
    metrics = {
        "staleness/mean": sum(age * count for age, count in tokens_of_age.items()) / tokens,
        "staleness/max": max(tokens_of_age),
    }
    for age in sorted(tokens_of_age):
        metrics[f"staleness/frac_{age}"] = tokens_of_age[age] / tokens
    return metrics


def learner_metrics(report: StepReport) -> dict[str, float]:
    """What the learner reports of its step; what it could not measure is left out."""
    metrics = {
        "loss": report.loss,
        "grad_norm": report.grad_norm,
        "lr": report.lr,
        "entropy": report.entropy,
        "mismatch/kl": report.kl,
        "mismatch/ratio_max": report.ratio_max,
        "clip_frac": report.clip_frac,
        "policy/kl_to_old": report.old_kl,
        "policy/ratio_max": report.old_ratio_max,
        "tokens/trained": report.tokens,
    }
    if len(report.losses) > 1:
        for name, value in report.losses.items():
            metrics[f"loss/{name}"] = value
    if report.updates:
        metrics |= {
            "updates": report.updates,
            "tokens/frac_off_policy": report.off_policy_tokens / report.tokens,
            "tokens/forward_backward": report.model_tokens,
            "tokens/forward_only": report.forward_only_tokens,
        }
    return {key: value for key, value in metrics.items() if value is not None}


def rollout_rows(
    groups: Iterable[tuple[int | None, Group, bool]],
    steps: Mapping[str, Any] = MappingProxyType({}),
    advantages: Mapping[str, Any] = MappingProxyType({}),
) -> Iterable[dict[str, Any]]:
    """One JSON object a rollout: enough to read it, score it again, and learn from it offline.

    groups: (position in the task set, group, whether the filter accepted it). steps: by rollout
    id, what is known of its reasoning steps (`run.step_values.step_rows`). advantages: by rollout
    id, as `token_advantages` returns them.
    """
    for index, group, accepted in groups:
        for rollout, verdict in zip(group.rollouts, group.verdicts, strict=True):
            row = {
                "id": rollout.id,
                "task": group.task.id,
                "index": index,
                "accepted": accepted,
                "category": group.task.category,
                "prompt": plain(group.task.prompt),
                "answer": plain(group.task.answer),
                "text": plain(rollout.text),
                "value": verdict.value,
                "status": verdict.status,
                "parts": dict(verdict.parts),
                "reason": plain(verdict.reason),
                "finish": rollout.finish,
                "versions": _version_runs(rollout),
                "temperature": rollout.temperature,
                "token_ids": rollout.token_ids,
                "mask": [int(is_completion) for is_completion in rollout.mask],
                "logprobs": rollout.logprobs,
                **({} if rollout.support is None else {"support": rollout.support}),
                **_episode_fields(rollout),
                **({"steps": steps[rollout.id]} if rollout.id in steps else {}),
                **({"advantages": advantages[rollout.id]} if rollout.id in advantages else {}),
            }
            yield row


def token_advantages(
    groups: Iterable[Group], samples: Iterable[Iterable[Sample]]
) -> dict[str, list[list[float | None]]]:
    """By rollout id, [advantage, number of tokens] for each run of completion tokens of one advantage.

    An advantage is None where the token is not trained; a rollout without a sample has no entry.
    """
    rollouts = {rollout.id: rollout for group in groups for rollout in group.rollouts}
    advantages: dict[str, list[list[float | None]]] = {}
    for sample in (sample for group in samples for sample in group):
        if sample.stream != "policy" or sample.id not in rollouts:
            continue
        wrote = rollouts[sample.id].sequences[sample.part].mask
        completion = [
            advantage if is_trained else None
            for advantage, is_trained, is_completion in zip(
                sample.advantages, sample.mask, wrote, strict=True
            )
            if is_completion
        ]
        runs = [[value, len(list(run))] for value, run in groupby(completion)]
        advantages.setdefault(sample.id, []).extend(runs)
    return advantages


def _episode_fields(rollout: Rollout) -> dict[str, Any]:
    """What a row holds of a rollout with an environment."""
    fields: dict[str, Any] = {}
    if rollout.episode is not None:
        fields["episode"] = plain(asdict(rollout.episode))
    if len(rollout.prompt_starts) > 1:
        fields["prompt_starts"] = rollout.prompt_starts
    return fields


def _version_runs(rollout: Rollout) -> list[list[int]]:
    """[version, number of tokens] for each run of completion tokens written by one version."""
    versions = [version for version in rollout.versions if version is not None]
    return [[version, len(list(run))] for version, run in groupby(versions)]


def refuse_unscored(facts: Sequence[GroupFacts]) -> None:
    """Stop a run in which no completion at all could be scored. Raises `RewardError`."""
    values = [value for group in facts for value in group.values]
    if not facts or any(value is not None for value in values):
        return
    reasons = [group.failure for group in facts if group.failure]
    reason = reasons[0] if reasons else "no reason given"
    part = "environment" if "its environment:" in reason else "reward"
    command = "rlcore env test" if part == "environment" else "rlcore rewards test"
    raise RewardError(
        f"none of the {len(values)} completions of this step could be scored, the first because "
        f"{reason}; fix the {part}, or try it alone with '{command}'"
    )
