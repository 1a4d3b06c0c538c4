"""Stage `eval`: answer a task set with the present policy and measure; nothing is learned."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveInt

from rlcore.curriculum.length_budget import state_budget
from rlcore.errors import RecipeError, RewardError, RunError
from rlcore.plugin import did_you_mean
from rlcore.recipe.build import build_rewards, build_sampling, build_scorer
from rlcore.recipe.build_learner import build_policy
from rlcore.recipe.load import load, recipe_names
from rlcore.recipe.model_sections import ModelSection
from rlcore.recipe.shared_sections import BUDGET_TEXT, BudgetText, SamplingSection
from rlcore.rollout.open_group import TaskDraw
from rlcore.run.metrics import GroupFacts, group_facts, refuse_unscored, rollout_metrics
from rlcore.run.policy_rewards import policy_scorer
from rlcore.run.seeds import derive
from rlcore.stages.base import GeneratingStage, Stage
from rlcore.types import Group, Task

if TYPE_CHECKING:
    from rlcore.recipe.schema import Recipe
    from rlcore.run.session import Run


class EvalStage(GeneratingStage):
    headline = ("accuracy",)
    trains = False

    limit: PositiveInt | None = Field(None, description="evaluate only this many first tasks")
    weights: Literal["policy", "ema"] = Field(
        "policy", description="ema: the averaged weights of the last training stage"
    )
    num_samples: PositiveInt = Field(
        1, description="completions per task; accuracy is their mean"
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
        if self.budget is None and self.budget_text != BUDGET_TEXT:
            yield "budget_text has no effect without a budget"
        if self.weights != "ema":
            return
        training = [stage for stage in before if stage.trains]
        optim = getattr(training[-1], "optim", None) if training else None
        if getattr(optim, "ema", None) is None:
            yield "weights is ema, but the last training stage before it has no optim.ema: set it"

    def run(self, run: Run) -> None:
        run_eval(run, self)


def run_eval(run: Run, stage: EvalStage) -> dict[str, Any]:
    """Evaluate and log one row.

    `accuracy` is the mean of the first reward. A completion that was cut at the deadline counts as not solved; one whose
    reward failed is no measurement and is left out (`reward/frac_unscored` says how many).
    """
    started = time.perf_counter()
    tasks = run.tasks(stage.tasks)
    positions = range(min(len(tasks), stage.limit or len(tasks)))
    with run.holding(stage.weights):
        run.publish(run.cursor.step)
    with build_scorer(stage) as scorer, run.tracker.wait(f"evaluating {len(positions)} tasks"):
        seed = derive(run.recipe.seed, "eval", stage.tasks)
        collector = run.collector(
            scorer,
            build_sampling(stage.sampling),
            group_size=stage.num_samples,
            seed_of_batch=lambda batch: seed,
        )
        draws = [
            TaskDraw(
                task=_with_budget(tasks[position], stage), task_index=position, order=position
            )
            for position in run.my_share(positions)
        ]
        collector.start(0, draws)
        collected = collector.wait(0)
    with run.holding(stage.weights):
        groups = policy_scorer(run, stage)(collected.groups)
    facts = run.gather(group_facts(group) for group in groups)
    refuse_unscored(facts)
    first = build_rewards(stage.rewards)[0].name
    scores = [score for group in facts for score in _first_rewards(group, first)]
    if not scores:
        raise RewardError(
            f"the first reward of stage {stage.label}, {first}, scored no completion: no accuracy"
        )
    row = {
        "stage": stage.label,
        "stage_index": run.cursor.stage,
        "step": run.cursor.step,
        "eval_set": stage.tasks,
        "tasks": len(positions),
        "completions": len(positions) * stage.num_samples,
        "accuracy": statistics.fmean(scores),
        "completions/frac_unfinished": statistics.fmean(
            finish == "aborted" for group in facts for finish in group.finishes
        ),
        **_accuracy_of_categories(facts, first),
        **rollout_metrics(facts),
        **(_initial_logprob(run, collected.groups) if stage.initial_logprob else {}),
        "time/total": time.perf_counter() - started,
    }
    run.tracker.evaluated(stage, row)
    run.end_stage(trained=False)
    return row


def _first_rewards(group: GroupFacts, name: str) -> list[float]:
    """The first reward of each completion of a group; 0 where the completion was cut at the deadline."""
    rewards = []
    for parts, finish in zip(group.parts, group.finishes, strict=True):
        score = 0.0 if finish == "aborted" else parts.get(name)
        if score is not None:
            rewards.append(score)
    return rewards


def _accuracy_of_categories(facts: Sequence[GroupFacts], first: str) -> dict[str, float]:
    """Accuracy within each category, where there are several."""
    scores: dict[str, list[float]] = {}
    for group in facts:
        scores.setdefault(group.category, []).extend(_first_rewards(group, first))
    if len(scores) < 2:
        return {}
    return {
        f"accuracy/{category}": statistics.fmean(scores[category])
        for category in sorted(scores)
        if scores[category]
    }


def _initial_logprob(run: Run, groups: Sequence[Group]) -> dict[str, float]:
    """Mean log-probability of a completion token under the run's first model, at temperature 1."""
    initial = build_policy(run.recipe, None, run.accelerator)
    rollouts = [rollout for group in groups for rollout in group.rollouts]
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


def evaluation_recipe(name: str, overrides: Sequence[str]) -> Recipe:
    """The eval stages alone: of a recipe, or of a run folder with its last checkpoint as the model. Raises `RecipeError`."""
    from rlcore.run.checkpoint import all_checkpoints
    from rlcore.run.folder import RunFolder

    folder = RunFolder(Path(name))
    is_run = folder.recipe.is_file()
    known = [str(path.parent) for path in folder.path.parent.glob("*/recipe.yaml")] + list(
        recipe_names()
    )
    if not is_run and not folder.path.is_file() and name not in known:
        raise RecipeError(
            f"{name} is neither a run folder nor a recipe{did_you_mean(name, known)}"
        )
    recipe = load(str(folder.recipe) if is_run else name, overrides)
    stages = [stage for stage in recipe.stages if isinstance(stage, EvalStage)]
    if not stages:
        raise RecipeError(
            f"{name} has no eval stage; add one: {{kind: eval, tasks: ..., rewards: [{{use: ...}}]}}"
        )
    changes: dict[str, Any] = {
        "name": f"{recipe.name}-eval",
        "stages": stages[-1:] if is_run else stages,
    }
    if is_run:
        found = all_checkpoints(folder.checkpoints)
        if not found:
            raise RunError(f"the run {name} has no checkpoint to evaluate yet")
        path = found[-1] / "ema" if stages[-1].weights == "ema" else found[-1]
        changes["model"] = ModelSection(path=str(path), dtype=recipe.model.dtype)
    changes["stages"] = [
        stage.model_copy(update={"weights": "policy"}) for stage in changes["stages"]
    ]
    return recipe.model_copy(update=changes)
