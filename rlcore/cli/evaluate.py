"""`rlcore eval`: the eval stages of a recipe or a run, or a suite of lm-evaluation-harness."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from rlcore.cli.options import count, size
from rlcore.errors import RecipeError
from rlcore.recipe.load import is_run_folder
from rlcore.terminal import make_console

ABOUT = "run only the eval stages, of a recipe's model or of a run's last checkpoint; or a suite of lm-eval"


def add_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Declare the command."""
    sub = command("eval", evaluate, ABOUT)
    sub.add_argument(
        "recipe",
        metavar="RECIPE_RUN_OR_MODEL",
        help="a recipe's name or file, or a run folder; with --suite a run folder, a model folder or a hub name",
    )
    sub.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="change the recipe; with --suite engine.KEY=value and model.dtype=value",
    )
    suite = sub.add_argument_group("suites")
    suite.add_argument(
        "--suite", metavar="lm-eval:TASKS", help="tasks of lm-evaluation-harness, with commas"
    )
    suite.add_argument(
        "--tasks-from",
        type=Path,
        metavar="FOLDER",
        help="a folder with task files (YAML) of your own",
    )
    suite.add_argument("--limit", type=count, metavar="N", help="documents of each task")
    suite.add_argument(
        "--few-shot",
        type=size,
        metavar="N",
        help="examples in the prompt (default: the task's)",
    )
    suite.add_argument(
        "--chat", action="store_true", help="put prompts through the model's chat template"
    )
    suite.add_argument("--json", action="store_true", help="print one line of JSON")


def evaluate(arguments: argparse.Namespace) -> None:
    if arguments.suite:
        _evaluate_suite(arguments)
        return
    for option in ("tasks_from", "limit", "few_shot", "chat", "json"):
        if getattr(arguments, option):
            raise RecipeError(f"--{option.replace('_', '-')} has no effect without --suite")
    path = Path(arguments.recipe)
    if (path / "config.json").is_file() and not is_run_folder(path):
        raise RecipeError(
            f"{path} is a model, which does not say what to evaluate: add --suite lm-eval:TASK, or name a "
            f"recipe: rlcore eval RECIPE model.path={path}"
        )
    from rlcore.run.driver import train
    from rlcore.stages.eval_recipe import beside_others, evaluation_recipe

    recipe = evaluation_recipe(arguments.recipe, arguments.overrides)
    console = make_console()
    train(beside_others(recipe), overwrite=True, console=console)


def _evaluate_suite(arguments: argparse.Namespace) -> None:
    from rlcore.analysis.suites import evaluate_suite, tasks_of

    tasks = tasks_of(arguments.suite)
    from rlcore.analysis.suite_lm_eval import Suite

    suite = Suite(
        tasks,
        limit=arguments.limit,
        num_fewshot=arguments.few_shot,
        chat=arguments.chat,
        folder=arguments.tasks_from,
    )
    results = evaluate_suite(arguments.recipe, suite, arguments.overrides)
    if arguments.json:
        print(json.dumps(results, default=str))
        return
    table = Table("task", "metric", "value", "standard error", "documents")
    for task, metrics in results.items():
        for name, value in metrics.items():
            is_metric = isinstance(value, int | float) and "," in name and "_stderr" not in name
            if is_metric:
                error = metrics.get("_stderr,".join(name.split(",", 1)))
                error = f"{error:.4f}" if isinstance(error, float) else ""
                documents = str(metrics.get("sample_len", ""))
                table.add_row(escape(task), escape(name), f"{value:.4f}", error, documents)
    make_console().print(table)
