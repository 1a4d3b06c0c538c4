"""The numbers of an evaluation: accuracy, pass@k and maj@k of scored groups, with 95% intervals over tasks."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlcore.errors import RecipeError, RewardError
from rlcore.measures.best_of_n import best_of_n
from rlcore.measures.intervals import mean_interval
from rlcore.measures.majority import majority_at_k
from rlcore.measures.pass_at_k import pass_at_k, powers_up_to
from rlcore.measures.weighted_vote import RULES, weighted_vote_at_k
from rlcore.plugin import call, did_you_mean, find
from rlcore.recipe.shared_sections import RewardSection
from rlcore.scoring.forms import RewardSpec
from rlcore.types import Group, Rollout, Verdict

PASS = 0.5
"""First reward from which a completion counts as right, as in curricula."""

READERS = {"math": "rewards.math_vote:final_answer_of"}
"""Name in a recipe -> a function that reads what a completion votes for in maj@k."""

REWARD_MODELS = ("reward_model", "rewards.reward_model:RewardModel")
"""Names in a recipe of rewards that rank completions, where the recipe does not say which does."""

ReadAnswer = Callable[[str, bool], str | None]
"""(text of a completion, whether it ended by itself) -> its answer, None where it gives none."""


@dataclass(frozen=True, slots=True)
class TaskScores:
    """What the metrics need of one task; small, so that ranks can exchange it."""

    category: str
    scores: list[float]
    """First reward of each completion; 0 where it was cut at the deadline. Failed scores are left out."""
    answers: list[str | None]
    """Of the same completions, what they vote for."""
    ranks: list[float | None] = field(default_factory=list)
    """Of the same completions, the reward by which the best one is chosen; empty where none is."""
    weights: list[float | None] = field(default_factory=list)
    """Of the same completions, the reward that weighs their votes; empty where none does."""


def answer_reader(
    vote_by: str | dict[str, Any] | None, first: RewardSection
) -> ReadAnswer | None:
    """The function that reads votes; None where nobody says how. first: the stage's first reward.

    Without `vote_by` the first reward decides: `math` has a rule for what a final answer is.
    """
    if vote_by is None and first.use not in READERS:
        return None
    params = {"use": vote_by} if isinstance(vote_by, str) else dict(vote_by or {})
    if vote_by is None:
        params = {"use": first.use, **first.parameters}
    use = params.pop("use", "")
    function = find(use, READERS, what="vote_by")

    def read(text: str, finished: bool) -> str | None:
        answer = call(f"vote_by {use!r}", lambda: function(text, finished=finished, **params))
        return None if answer is None else str(answer)

    return read


def ranking_reward(rank_by: str | None, rewards: Sequence[RewardSpec]) -> str | None:
    """Name of the reward by which the best of k completions is chosen; None where there is none.

    Without `rank_by` it is a reward model, if one is among the rewards behind the first. Raises `RecipeError`.
    """
    names = [spec.name for spec in rewards]
    if rank_by is not None:
        if rank_by not in names:
            raise RecipeError(f"there is no reward {rank_by!r}{did_you_mean(rank_by, names)}")
        return rank_by
    models = [spec.name for spec in rewards[1:] if spec.use in REWARD_MODELS]
    return models[0] if models else None


def weighing_reward(
    weigh_by: str | None, rewards: Sequence[RewardSpec], *, has_votes: bool = True
) -> str | None:
    """Name of the reward that weighs votes; None where there is none.

    Without `weigh_by` it is `student_exam`, if that is among the rewards behind the first. Raises `RecipeError`.
    """
    names = [spec.name for spec in rewards]
    if weigh_by is not None:
        if weigh_by not in names:
            raise RecipeError(f"there is no reward {weigh_by!r}{did_you_mean(weigh_by, names)}")
        if not has_votes:
            raise RecipeError(
                "it weighs votes, and nothing says how they are read: set vote_by"
            )
        return weigh_by
    exams = [spec.name for spec in rewards[1:] if spec.use == "student_exam"]
    return exams[0] if exams else None


def task_scores(
    group: Group,
    read: ReadAnswer | None,
    rank_by: str | None = None,
    weigh_by: str | None = None,
) -> TaskScores:
    """Scores of one task's completions by the first reward that is for it.

    rank_by, weigh_by: names of the rewards that rank them and weigh their votes.
    """
    scores, answers, ranks, weights = [], [], [], []
    for rollout, verdict in zip(group.rollouts, group.verdicts, strict=True):
        score = score_of(rollout, verdict)
        if score is None:
            continue
        scores.append(score)
        votes = read is not None and rollout.finish != "aborted"
        answers.append(read(rollout.text, rollout.finish == "stop") if votes else None)
        if rank_by is not None:
            ranks.append(verdict.parts.get(rank_by))
        if weigh_by is not None:
            weights.append(verdict.parts.get(weigh_by))
    return TaskScores(group.task.category, scores, answers, ranks, weights)


def score_of(rollout: Rollout, verdict: Verdict) -> float | None:
    """The first reward of a completion: 0 where it was cut at the deadline, None where the reward failed."""
    return 0.0 if rollout.finish == "aborted" else verdict.first


def accuracy_metrics(
    tasks: Sequence[TaskScores], *, ks: Sequence[int] = (), has_votes: bool = False
) -> dict[str, Any]:
    """`accuracy`, `accuracy/<category>`, `pass@k`, `maj@k`, `rm@k`, `vote_sum@k`, `vote_max@k`, and `intervals` of each.

    A task with fewer than k scored completions is left out of pass@k and maj@k; of rm@k one with fewer than k that a reward
    ranked.
    """
    values: dict[str, list[list[float]]] = {"accuracy": [task.scores for task in tasks]}
    by_category: dict[str, list[list[float]]] = {}
    for task in tasks:
        by_category.setdefault(task.category, []).append(task.scores)
    if len(by_category) > 1:
        values |= {f"accuracy/{name}": by_category[name] for name in sorted(by_category)}
    for k in ks:
        enough = [task for task in tasks if len(task.scores) >= k]
        passes = [pass_at_k(len(task.scores), _right(task), k) for task in enough]
        values[f"pass@{k}"] = [[value] for value in passes]
        if has_votes:
            rights = [[float(score >= PASS) for score in task.scores] for task in enough]
            values[f"maj@{k}"] = [
                [majority_at_k(task.answers, of_task, k)]
                for task, of_task in zip(enough, rights, strict=True)
            ]
        ranked = [pairs for task in tasks if len(pairs := _ranked(task)) >= k]
        if ranked:
            values[f"rm@{k}"] = [
                [best_of_n([rank for rank, _ in pairs], [right for _, right in pairs], k)]
                for pairs in ranked
            ]
        if has_votes:
            values |= _weighted_votes(tasks, k)
    means, intervals = {}, {}
    for key, scores in values.items():
        flat = [score for of_task in scores for score in of_task]
        if flat:
            means[key] = statistics.fmean(flat)
            intervals[key] = mean_interval(scores)
    return {**means, "intervals": intervals}


def _weighted_votes(tasks: Sequence[TaskScores], k: int) -> dict[str, list[list[float]]]:
    """`vote_sum@k` and `vote_max@k` of the tasks with k completions whose votes have weights."""
    weighed = [triples for task in tasks if len(triples := _weighed(task)) >= k]
    if not weighed:
        return {}
    values: dict[str, list[list[float]]] = {}
    for rule in RULES:
        try:
            values[f"vote_{rule}@{k}"] = [
                [weighted_vote_at_k(*zip(*triples, strict=True), k, rule=rule)]
                for triples in weighed
            ]
        except ValueError as error:
            raise RewardError(
                f"the reward that weighs votes cannot: {error}; name another in weigh_by, or squash it (sigmoid: true)"
            ) from None
    return values


def remarks(tasks: Sequence[TaskScores], ks: Sequence[int], *, first: str) -> Iterator[str]:
    """What a reader of the numbers must know. first: name of the first reward."""
    yield from left_out_of_rm(tasks, ks)
    scores = [score for task in tasks for score in task.scores]
    if scores and (max(scores) > 1 or min(scores) < 0):
        yield (
            f"the first reward, {first}, goes from {min(scores):g} to {max(scores):g}: its mean stands where an accuracy does and is none; "
            "put a reward from 0 to 1 first"
        )


def left_out_of_rm(tasks: Sequence[TaskScores], ks: Sequence[int]) -> Iterator[str]:
    """A sentence where `rm@k` is of fewer tasks than `pass@k`: a reward that ranks gave some completions no score."""
    for k in ks:
        counted = sum(len(task.scores) >= k for task in tasks)
        ranked = sum(len(_ranked(task)) >= k for task in tasks)
        if 0 < ranked < counted:
            yield (
                f"rm@{k} is of {ranked:,} tasks and pass@{k} of {counted:,}: of the others the reward that ranks scored "
                f"fewer than {k} completions"
            )


def chosen_ks(pass_at: Sequence[int] | None, num_samples: int) -> Sequence[int]:
    """The k of pass@k: those of the recipe, or 1, 2, 4, ... where there are several completions a task."""
    if pass_at is not None:
        return pass_at
    return powers_up_to(num_samples) if num_samples > 1 else ()


def _ranked(task: TaskScores) -> list[tuple[float, float]]:
    """(rank, right) of the completions that a reward ranked."""
    pairs = zip(task.ranks, task.scores, strict=False)
    return [(rank, float(score >= PASS)) for rank, score in pairs if rank is not None]


def _weighed(task: TaskScores) -> list[tuple[str | None, float, float]]:
    """(answer, weight, right) of the completions whose vote has a weight."""
    triples = zip(task.answers, task.weights, task.scores, strict=False)
    return [
        (answer, weight, float(score >= PASS))
        for answer, weight, score in triples
        if weight is not None
    ]


def _right(task: TaskScores) -> int:
    return sum(score >= PASS for score in task.scores)


def beside(greedy: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics of sampled completions with those of greedy ones beside them, as `greedy/...`."""
    own = {f"greedy/{key}": value for key, value in greedy.items() if key != "intervals"}
    intervals = {f"greedy/{key}": value for key, value in greedy["intervals"].items()}
    return {**metrics, **own, "intervals": {**metrics["intervals"], **intervals}}


def evaluations_without_gain(
    rows: Iterable[Mapping[str, Any]], during: str, stage_index: int
) -> int:
    """Evaluations since the most accurate one that were made between the steps of a training stage; 0 without any.

    Of an eval stage with several task sets the first counts. during: the training stage. stage_index: its place.
    """
    within = [
        row for row in rows if row.get("during") == during and row["stage_index"] == stage_index
    ]
    accuracies = [row["accuracy"] for row in within if row["eval_set"] == within[0]["eval_set"]]
    if not accuracies:
        return 0
    best = accuracies.index(max(accuracies))
    return len(accuracies) - 1 - best


def is_best(row: Mapping[str, Any], earlier: Iterable[Mapping[str, Any]]) -> bool:
    """Whether an evaluation made during training is better than all before it in the same stage.

    The metric is the accuracy; of equal ones the first is the best.
    """
    same = ("stage", "eval_set", "stage_index", "during")
    rivals = [other for other in earlier if all(other.get(key) == row.get(key) for key in same)]
    return all(row["accuracy"] > other["accuracy"] for other in rivals)
