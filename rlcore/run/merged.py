"""Which models are merged, by their names in a recipe or on the command line, and by which rule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlcore.errors import RecipeError, RunError
from rlcore.plugin import Named, build, build_later, call
from rlcore.recipe.build_learner import starting_point
from rlcore.recipe.load import RUN_RECIPE
from rlcore.recipe.yaml_text import parse_yaml
from rlcore.run.checkpoint import all_checkpoints, read_cursor
from rlcore.run.folder import RunFolder, read_rows

if TYPE_CHECKING:
    from rlcore.merging.rules import Rule

METRIC = "metric"
"""The rule whose weights are an evaluation of each checkpoint."""
BY_METRIC = "rlcore.run.merged:weights_by_metric"
RULES = {
    name: f"rlcore.merging.rules:{name}"
    for name in ("mean", "ema", "linear", "residual", "task_arithmetic", "ties", "dare", "twin")
}


def merge_models(
    names: Sequence[str],
    folder: Path,
    rule: Named,
    *,
    base: str | None = None,
    last: int | None = None,
) -> list[tuple[Path, float | None]]:
    """Merge models into `folder`; the folders that were merged, each with its weight where the rule computes one.

    names: folders, hub names, or run folders, which stand for their last checkpoint; with `last` one
    run folder, which stands for its last so many.
    rule: its name, or {use: name, parameter: value}.
    Raises `RecipeError`, `RunError` or `ModelError`.
    """
    from rlcore.merging.merge import local_folder, merge

    if last is None:
        sources = [local_folder(starting_point(name)) for name in names]
    else:
        sources = last_checkpoints(names, last)
    if not sources:
        raise RecipeError("there is no model to merge: name at least one")
    _require_common_start(sources)
    made, weights = build_rule(rule, sources, has_base=base is not None)
    start = local_folder(starting_point(base)) if base is not None else None
    call(f"the merge by {rule!r}", lambda: merge(sources, folder, made, base=start))
    return list(zip(sources, weights or [None] * len(sources), strict=True))


def last_checkpoints(names: Sequence[str], last: int) -> list[Path]:
    """The last checkpoints of one run, oldest first. Raises `RunError` where it has fewer."""
    if len(names) != 1:
        raise RecipeError(
            f"the last {last} checkpoints are those of one run folder, not of {len(names)}"
        )
    run = RunFolder.of_run(Path(names[0]).expanduser())
    saved = all_checkpoints(run.checkpoints)
    if len(saved) < last:
        raise RunError(
            f"the run {run.path} keeps {len(saved)} checkpoints, not {last}: set run.keep_checkpoints and "
            "run.checkpoint_every, or merge fewer"
        )
    return saved[-last:]


def _require_common_start(sources: Sequence[Path]) -> None:
    """Raise `RunError` for checkpoints of runs that began as different random models.

    An average of such models is none: each has its own order of hidden units. Folders that are no checkpoints of a run do
    not say how they began, and are let through.
    """
    first: tuple[Path, Any] | None = None
    for source in sources:
        start = _random_start(source)
        if start is None:
            continue
        if first is not None and start != first[1]:
            raise RunError(
                f"{first[0]} and {source} cannot be merged: their runs began as different random models; start both from "
                "one model (model.path), or with the same seed and model.config"
            )
        first = first or (source, start)


def _random_start(source: Path) -> Any:
    """Seed and config of the random model that the run of a checkpoint began with; None where it began otherwise."""
    recipe = source.parent.parent / RUN_RECIPE
    if source.parent.name != "checkpoints" or not recipe.is_file():
        return None
    settings = parse_yaml(recipe.read_text(encoding="utf-8"))
    config = settings["model"].get("config")
    return None if config is None else (settings["seed"], config)


def build_rule(
    named: Named, sources: Sequence[Path], *, has_base: bool
) -> tuple[Rule, list[float] | None]:
    """The rule, and the weights of the sources where it is `metric`. Raises `RecipeError`."""
    settings = {"use": named} if isinstance(named, str) else dict(named)
    if settings.get("use") != METRIC:
        return plain_rule(settings, len(sources), has_base=has_base), None
    weights = build_later(settings, {METRIC: BY_METRIC}, what="merge rule", given=1)(sources)
    linear = {"use": "linear", "weights": weights}
    return plain_rule(linear, len(sources), has_base=has_base), weights


def plain_rule(named: Named, models: int, *, has_base: bool) -> Rule:
    """A rule that needs no more than the weights, for so many models. Raises `RecipeError`."""
    use = named if isinstance(named, str) else named.get("use")
    rule = build(named, {**RULES, METRIC: BY_METRIC}, what="merge rule")
    if not callable(rule):
        raise RecipeError(
            f"merge rule {use!r} gives {type(rule).__name__}: a rule's function must return "
            "the function of name, tensors and base"
        )
    wanted = getattr(rule, "models", models)
    if wanted != models:
        raise RecipeError(f"merge rule {use} is for {wanted} models, and there are {models}")
    if getattr(rule, "needs_base", False) != has_base and use in RULES:
        word = (
            "adds differences to a base: name one"
            if not has_base
            else "has no use for a base: leave it out"
        )
        raise RecipeError(f"merge rule {use} {word}")
    return rule


def weights_by_metric(
    sources: Sequence[Path],
    *,
    eval_set: str,
    metric: str = "accuracy",
    power: float = 1.0,
    lower_is_better: bool = False,
) -> list[float]:
    """Weights of checkpoints by a number of their evaluations in `eval.jsonl` of their runs.

    eval_set: name of the task set. metric: `accuracy`, `step`, or any other number of the row. Raises `RunError` for a checkpoint without one.
    """
    from rlcore.merging.weights import metric_weights

    values = []
    for source in sources:
        if source.parent.name != "checkpoints":
            raise RunError(
                f"{source} is no checkpoint of a run, so nothing is known of its {metric}"
            )
        run = RunFolder.of_run(source.parent.parent)
        step = read_cursor(source).step
        rows = [
            row
            for row in read_rows(run.evals)
            if row["step"] == step and row["eval_set"] == eval_set
        ]
        if not rows or not isinstance(rows[-1].get(metric), int | float):
            raise RunError(
                f"{run.evals} has no {metric} of {eval_set} after step {step}: evaluate every "
                "checkpoint (eval_every equal to run.checkpoint_every)"
            )
        values.append(float(rows[-1][metric]))
    if not any(values):
        raise RunError(
            f"the {metric} of {eval_set} is 0 after each of the {len(values)} checkpoints, so it gives them no weights: "
            "merge by another metric, or by the rule mean"
        )
    return metric_weights(values, power=power, lower_is_better=lower_is_better)
