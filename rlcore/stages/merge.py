"""Stage `merge`: the policy becomes what several models, or the last checkpoints of this run, are together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, PositiveInt

from rlcore.errors import RecipeError
from rlcore.plugin import build_later, did_you_mean
from rlcore.recipe.build_learner import build_policy, require_starting_point
from rlcore.run.disk import remove
from rlcore.run.merged import BY_METRIC, METRIC, merge_models, plain_rule
from rlcore.stages.base import Stage
from rlcore.stages.eval import EvalStage

if TYPE_CHECKING:
    from rlcore.recipe.check import Checking
    from rlcore.recipe.schema import Recipe
    from rlcore.run.session import Run

POLICY = "policy"
"""Among the models: the policy as the stage begins."""


class MergeStage(Stage):
    headline = ("models",)

    rule: str | dict[str, Any] = Field(
        "mean",
        description="what is made of each tensor: mean, ema, linear, metric, residual, task_arithmetic, ties, dare, twin, "
        "file.py:function, or {use: name, parameter: value}; docs/merging.md",
    )
    last: PositiveInt | None = Field(
        None, description="merge the last so many checkpoints of this run"
    )
    models: list[str] = Field(
        default_factory=list,
        description="models to merge, in order: hub name, folder, run folder, or policy: the model as the stage begins",
    )
    base: str | None = Field(
        None, description="model that they were tuned from, for rules that add differences"
    )

    def problems(self, recipe: Recipe, before: Sequence[Stage]) -> Iterator[str]:
        yield from super().problems(recipe, before)
        if (self.last is None) == (not self.models):
            yield "merge takes exactly one of last and models"
        if recipe.model.peft:
            yield (
                "merge replaces the whole model, and the recipe trains an adapter on another one: leave out model.peft, or "
                "merge the run afterwards with the command rlcore merge"
            )
        if self.last is None:
            return
        if not any(stage.trains for stage in before):
            yield "last merges checkpoints of this run, but no stage before this one trains"
        if recipe.run.keep_checkpoints < self.last:
            yield (
                f"last is {self.last}, but run.keep_checkpoints is {recipe.run.keep_checkpoints}: "
                "raise it, and set run.checkpoint_every"
            )

    def check(self, context: Checking) -> list[str]:
        facts = super().check(context)
        with context.at("rule"):
            count = self.last or len(self.models)
            if self.rule_name == METRIC:
                by_metric = build_later(
                    self.rule, {METRIC: BY_METRIC}, what="merge rule", given=1
                )
                self._check_evaluated(context, by_metric.keywords["eval_set"])
            else:
                plain_rule(self.rule, count, has_base=self.base is not None)
        for key, paths in (("models", self.models), ("base", [self.base])):
            with context.at(key):
                for path in paths:
                    if path not in (None, POLICY):
                        require_starting_point(path)
        what = (
            f"the last {self.last} checkpoints" if self.last else f"{len(self.models)} models"
        )
        return [*facts, f"{self.label}: {what} become one by the rule {self.rule_name}"]

    def _check_evaluated(self, context: Checking, eval_set: str) -> None:
        """Raise `RecipeError` where no stage evaluates the set by which checkpoints of this run are weighed."""
        sets = {
            name
            for stage in context.recipe.stages
            if isinstance(stage, EvalStage)
            for name in stage.task_sets
        }
        if self.last is not None and eval_set not in sets:
            raise RecipeError(
                f"merge rule metric weighs by {eval_set!r}, which no stage evaluates{did_you_mean(eval_set, sets)}"
            )

    @property
    def rule_name(self) -> str:
        return self.rule if isinstance(self.rule, str) else str(self.rule.get("use"))

    def run(self, run: Run) -> None:
        with run.tracker.stage(self, done=0):
            count = merge_into_policy(run, self)
            run.log_step({"models": count})
        run.end_stage()


def merge_into_policy(run: Run, stage: MergeStage) -> int:
    """Merge, and make the outcome the run's policy; how many models there were. Collective."""
    merged = run.folder.path / ".merged"
    policy = run.folder.path / ".merged_policy"
    names = [str(run.folder.path)] if stage.last else stage.models
    if POLICY in names:
        with run.folder.writing("the policy that is merged"):
            run.policy.save(policy)  # collective where it is sharded
        names = [str(policy) if name == POLICY else name for name in names]
    if run.accelerator.is_main_process:
        remove(merged, inside=run.folder.path)
        sources = merge_models(names, merged, stage.rule, base=stage.base, last=stage.last)
        for source, weight in sources:
            weighs = "" if weight is None else f", weight {weight:.4g}"
            run.tracker.say(f"{stage.label}: {source}{weighs}")
    run.accelerator.wait_for_everyone()
    run.replace_policy(build_policy(run.recipe, merged, run.accelerator))
    run.accelerator.wait_for_everyone()
    if run.accelerator.is_main_process:
        for folder in (merged, policy):
            remove(folder, inside=run.folder.path)
    return stage.last or len(stage.models)
