"""Stage `eval`: answer task sets with the present policy, measure, and keep the completions; nothing is learned.

A training stage with `eval_every` does the same between two of its steps (`evaluate_during`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveInt

from rlcore.curriculum.length_budget import state_budget
from rlcore.errors import RewardError
from rlcore.recipe.build import (
    build_environments,
    build_rewards,
    build_sampling,
    build_scorer,
)
from rlcore.recipe.build_learner import build_policy
from rlcore.recipe.shared_sections import BUDGET_TEXT, BudgetText, SamplingSection
from rlcore.rollout.open_group import TaskDraw
from rlcore.run import checkpoint
from rlcore.run.environment import build_episodes
from rlcore.run.evaluation import (
    accuracy_metrics,
    answer_reader,
    beside,
    chosen_ks,
    is_best,
    ranking_reward,
    remarks,
    score_of,
    task_scores,
    weighing_reward,
)
from rlcore.run.metrics import group_facts, refuse_unscored, rollout_metrics, rollout_rows
from rlcore.run.policy_rewards import policy_scorer
from rlcore.run.seeds import derive
from rlcore.stages.base import GeneratingStage, Stage, TrainingKeys, equal_samples
from rlcore.types import Group, Task

if TYPE_CHECKING:
    from rlcore.env.pool import EnvironmentPool
    from rlcore.learner.update import Learner
    from rlcore.recipe.check import Checking
    from rlcore.recipe.schema import Recipe
    from rlcore.run.batches import BatchSource
    from rlcore.run.session import Run


class EvalStage(GeneratingStage):
    headline = ("accuracy",)
    trains = False

    tasks: str | list[str] = Field(
        description="name of one of the recipe's task sets, or of several: one row of results each"
    )
    limit: PositiveInt | None = Field(
        None, description="evaluate only this many first tasks of each set"
    )
    weights: Literal["policy", "ema"] = Field(
        "policy", description="ema: the averaged weights of the last training stage"
    )
    num_samples: PositiveInt = Field(
        1, description="completions per task; accuracy is their mean"
    )
    pass_at: list[PositiveInt] | None = Field(
        None,
        description="the k of pass@k, maj@k and rm@k; default: powers of two up to num_samples, if that is above 1",
    )
    vote_by: str | dict[str, Any] | None = Field(
        None,
        description="how maj@k reads the answer of a completion: math, or file.py:function(text, finished) -> text or None; "
        "default: math where that is the first reward, else there is no maj@k",
    )
    rank_by: str | None = Field(
        None,
        description="name of the reward that chooses the best of k completions, whose accuracy is rm@k; "
        "default: a reward model behind the first reward, else there is no rm@k",
    )
    weigh_by: str | None = Field(
        None,
        description="name of the reward that weighs the votes of maj@k, for vote_sum@k and vote_max@k; "
        "default: student_exam behind the first reward, else there are none",
    )
    greedy: bool = Field(
        False, description="also one completion per task at temperature 0, as greedy/..."
    )
    budget: PositiveInt | None = Field(
        None, description="tokens that the prompt states, for a model trained with a budget"
    )
    budget_text: BudgetText = Field(
        BUDGET_TEXT,
        description="how the prompt states {budget}; put after it, or around {prompt}",
    )
    initial_logprob: bool = Field(
        False,
        description="also measure how likely the completions are under the model that the run began with: how far the "
        "policy went from it, or whether it still writes what that model would call text",
    )
    sampling: SamplingSection = Field(default_factory=lambda: SamplingSection(temperature=0.0))

    def problems(self, recipe: Recipe, before: Sequence[Stage]) -> Iterator[str]:
        yield from super().problems(recipe, before)
        if len(set(self.task_sets)) < max(1, len(self.task_sets)):
            yield f"tasks is {self.tasks!r}: name each task set once, and at least one"
        if self.budget is None and self.budget_text != BUDGET_TEXT:
            yield "budget_text has no effect without a budget"
        if self.greedy and self.sampling.temperature == 0:
            yield "greedy has no effect where sampling.temperature is 0: leave it out"
        yield from equal_samples(self.num_samples, self.sampling)
        too_large = [k for k in self.pass_at or () if k > self.num_samples]
        if too_large:
            yield f"pass_at asks for pass@{too_large[0]}, which needs num_samples {too_large[0]} or more"
        if self.vote_by is not None and not chosen_ks(self.pass_at, self.num_samples):
            yield "vote_by has no effect with one completion per task: raise num_samples, or leave it out"
        if self.rank_by is not None and not chosen_ks(self.pass_at, self.num_samples):
            yield "rank_by has no effect with one completion per task: raise num_samples, or leave it out"
        if self.weigh_by is not None and not chosen_ks(self.pass_at, self.num_samples):
            yield "weigh_by has no effect with one completion per task: raise num_samples, or leave it out"
        if self.weights != "ema":
            return
        training = [stage for stage in before if stage.trains]
        optim = getattr(training[-1], "optim", None) if training else None
        if getattr(optim, "ema", None) is None:
            yield "weights is ema, but the last training stage before it has no optim.ema: set it"

    def label_of(self, eval_set: str) -> str:
        """The stage's name in tables and trackers; with that of the task set where it has several."""
        return f"{self.label}/{eval_set}" if len(self.task_sets) > 1 else self.label

    def check(self, context: Checking) -> list[str]:
        with context.at("vote_by"):
            read = answer_reader(self.vote_by, self.rewards[0])
        rewards = build_rewards(self.rewards)
        with context.at("rank_by"):
            ranking_reward(self.rank_by, rewards)
        with context.at("weigh_by"):
            weighing_reward(self.weigh_by, rewards, has_votes=read is not None)
        return super().check(context)

    def run(self, run: Run) -> None:
        run_eval(run, self)


def run_eval(run: Run, stage: EvalStage) -> list[dict[str, Any]]:
    """Evaluate and log one row for each task set.

    `accuracy` is the mean of the first reward. A completion that was cut at the deadline counts as not solved; one whose
    reward failed is no measurement and is left out (`reward/frac_unscored` says how many).
    """
    with run.holding(stage.weights):
        run.publish(run.cursor.step)
    rows = []
    for row in _evaluated(run, stage):
        rows.append(row)
        run.tracker.evaluated(stage, row)
    run.end_stage(trained=False)
    return rows


def evaluate_during(
    run: Run,
    during: TrainingKeys,
    stage: EvalStage,
    learner: Learner | None,
    batches: BatchSource | None,
) -> None:
    """Evaluate between two steps of a training stage as an eval stage says, and leave the engine as it was.

    during: the training stage. batches: of a stage whose engine serves the present policy; None if it serves nothing yet.
    """
    version = learner.version if learner else run.cursor.step
    if batches is not None:
        batches.generator.drain()
    if batches is None or stage.weights == "ema":
        with run.holding(stage.weights):
            run.publish(version)
    for row in _evaluated(run, stage, during=during.label):
        # One process decides for all: only its file is sure to hold what was evaluated before.
        best = run.gather([is_best(row, run.folder.evaluations())])[0]
        run.tracker.evaluated(stage, row | {"is_best": best}, within=True)
        if best and during.keep_best and row["eval_set"] == stage.task_sets[0]:
            _keep_best(run, stage)
    if batches is None:
        run.sleep_engine()
    elif stage.weights == "ema":
        run.publish(version, batches.generator)


def _keep_best(run: Run, stage: EvalStage) -> None:
    """Keep the model that was evaluated, in place of an earlier one. Collective."""
    main = run.accelerator.is_main_process
    with run.holding(stage.weights):
        checkpoint.save_reference(run.folder.best, save_model=run.policy.save, main=main)
    run.accelerator.wait_for_everyone()


@dataclass(frozen=True)
class _Asking:
    """What completions are generated and scored with, for all task sets of a stage."""

    scorer: Any
    pool: EnvironmentPool | None


def _evaluated(run: Run, stage: EvalStage, during: str = "") -> Iterator[dict[str, Any]]:
    """The row of each task set. during: label of the training stage between whose steps they are made."""
    with build_scorer(stage) as scorer, build_environments(stage.env) as pool:
        for name in stage.task_sets:
            yield _evaluate(run, stage, name, _Asking(scorer, pool), during)


def _evaluate(
    run: Run, stage: EvalStage, name: str, asking: _Asking, during: str
) -> dict[str, Any]:
    """The row of one task set."""
    started = time.perf_counter()
    positions = _positions(run, stage, name)
    where = f"{run.cursor.step:06d}_{run.cursor.stage:02d}_{stage.label}_{name}"
    rewards = build_rewards(stage.rewards)
    read = answer_reader(stage.vote_by, stage.rewards[0])
    ks = chosen_ks(stage.pass_at, stage.num_samples)

    groups = _answered(run, stage, name, asking, stage.sampling, stage.num_samples)
    facts = run.gather(group_facts(group) for group in groups)
    refuse_unscored(facts)
    rank_by = ranking_reward(stage.rank_by, rewards)
    weigh_by = weighing_reward(stage.weigh_by, rewards)
    scores = run.gather(task_scores(group, read, rank_by, weigh_by) for group in groups)
    metrics = accuracy_metrics(scores, ks=ks, has_votes=read is not None)
    for sentence in remarks(scores, ks, first=rewards[0].name):
        run.tracker.say(f"{stage.label_of(name)}: {sentence}")
    if "accuracy" not in metrics:
        first = f"the first reward of stage {stage.label}, {rewards[0].name},"
        raise RewardError(f"{first} scored no completion: no accuracy")
    mode = "sampled" if stage.sampling.temperature else "greedy"
    kept = _rows(run, positions, groups, mode)
    if stage.greedy:
        at_0 = stage.sampling.model_copy(update={"temperature": 0.0})
        greedy = _answered(run, stage, name, asking, at_0, 1)
        greedy_scores = run.gather(task_scores(group, None) for group in greedy)
        metrics = beside(accuracy_metrics(greedy_scores), metrics)
        kept += _rows(run, positions, greedy, "greedy")
    run.folder.write_evaluation(where, run.accelerator.process_index, kept)
    run.tracker.rollouts(f"eval/{stage.label_of(name)}/rollouts", kept, run.cursor.step)

    finishes = [finish for group in facts for finish in group.finishes]
    return {
        "stage": stage.label,
        "stage_index": run.cursor.stage,
        "step": run.cursor.step,
        **({"during": during} if during else {}),
        "eval_set": name,
        "tasks": len(positions),
        "completions": len(positions) * stage.num_samples,
        **metrics,
        "completions/frac_unfinished": finishes.count("aborted") / len(finishes),
        **rollout_metrics(facts),
        **(_initial_logprob(run, groups) if stage.initial_logprob else {}),
        "rollouts": where,
        "time/total": time.perf_counter() - started,
    }


def _positions(run: Run, stage: EvalStage, name: str) -> range:
    """Which tasks of a set are evaluated."""
    size = len(run.tasks(name))
    return range(min(size, stage.limit or size))


def _rows(
    run: Run, positions: Sequence[int], groups: Sequence[Group], mode: str
) -> list[dict[str, Any]]:
    """What is kept of this rank's completions: rows like those of training, with score and mode."""
    placed = zip(run.my_share(positions), groups, [True] * len(groups), strict=True)
    scores = [
        score_of(rollout, verdict)
        for group in groups
        for rollout, verdict in zip(group.rollouts, group.verdicts, strict=True)
    ]
    return [
        row | {"mode": mode, "score": score}
        for row, score in zip(rollout_rows(placed), scores, strict=True)
    ]


def _answered(
    run: Run,
    stage: EvalStage,
    name: str,
    asking: _Asking,
    sampling: SamplingSection,
    num_samples: int,
) -> list[Group]:
    """This rank's groups, generated and scored."""
    tasks = run.tasks(name)
    positions = _positions(run, stage, name)
    with run.tracker.wait(f"evaluating {len(positions)} tasks of {name}"):
        seed = derive(run.recipe.seed, "eval", name)
        collector = run.collector(
            asking.scorer,
            build_sampling(sampling),
            group_size=num_samples,
            seed_of_batch=lambda batch: seed,
            episodes=build_episodes(run, stage, asking.pool),
        )
        draws = [
            TaskDraw(
                task=_with_budget(tasks[position], stage), task_index=position, order=position
            )
            for position in run.my_share(positions)
        ]
        collector.start(0, draws)
        groups = collector.wait(0).groups
    with run.holding(stage.weights):
        return policy_scorer(run, stage)(groups)


def _initial_logprob(run: Run, groups: Sequence[Group]) -> dict[str, float]:
    """Mean log-probability of a completion token under the run's first model, at temperature 1."""
    initial = build_policy(run.recipe, None, run.accelerator, whole=True)
    rollouts = [
        sequence
        for group in groups
        for rollout in group.rollouts
        for sequence in rollout.sequences
        if sequence.token_ids
    ]
    total, tokens = 0.0, 0
    for rollout, logprobs in zip(
        rollouts, initial.score([rollout.token_ids for rollout in rollouts]), strict=True
    ):
        # The first token of a sequence has no log-probability.
        completion = [
            logprob for logprob, mine in zip(logprobs, rollout.mask[1:], strict=True) if mine
        ]
        total += sum(completion)
        tokens += len(completion)
    sums = run.gather([(total, tokens)])
    count = sum(n for _, n in sums)
    return {"completions/initial_logprob": sum(s for s, _ in sums) / count} if count else {}


def _with_budget(task: Task, stage: EvalStage) -> Task:
    return task if stage.budget is None else state_budget(task, stage.budget, stage.budget_text)
