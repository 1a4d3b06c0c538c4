"""The two curriculum papers' recipes: valid in every cell, and tasks that are what their pages say."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from types import ModuleType

import pytest

from rlcore.errors import RecipeError
from rlcore.plugin import import_file
from rlcore.recipe.build import build_tasks
from rlcore.recipe.check import check
from rlcore.recipe.load import load
from rlcore.recipe.task_sections import TaskSection

PAPERS = Path(__file__).resolve().parent.parent / "recipes/papers"


def module(place: str) -> ModuleType:
    return import_file(PAPERS / f"{place}.py")


SEC, SHORT = module("sec/reproduce"), module("train_long_think_short/reproduce")
FORMS, DOMAINS = module("train_long_think_short/forms"), module("sec/domains")


@pytest.mark.parametrize("task", SEC.RECIPES)
def test_every_cell_of_the_sec_study_is_a_valid_recipe(task: str) -> None:
    recipe, common = (
        str(PAPERS / f"sec/{SEC.RECIPES[task]}.yaml"),
        [*SEC.TASKS.get(task, ()), *SEC.QUICK[task]],
    )
    loaded = [
        load(recipe, [*common, *cell])
        for cell in (SEC.WASTE_CELLS if task == "waste" else SEC.CELLS).values()
    ]
    assert check(loaded[-1])
    assert len(
        {
            str(one.stages[1].model_dump(include={"curriculum", "filter", "resample", "prefilter"}))
            for one in loaded
        }
    ) == len(loaded)
    assert {one.stages[-1].name for one in loaded} == {"outside"}


def test_the_ordered_walk_takes_the_tokens_there_are() -> None:
    recipe = str(PAPERS / "sec/arithmetic.yaml")
    size = SEC.walk_size(recipe, ["stages.rl.stop_after_tokens=100000"])
    tasks = build_tasks(load(recipe, [f"tasks.problems.size={size}"]).tasks["problems"])
    written = 8 * sum(len(task.demonstration) + 1 for task in tasks)
    assert written == pytest.approx(100_000, rel=0.05)


def test_every_cell_of_the_budget_study_ends_at_the_exams_budget() -> None:
    for cell in SHORT.CELLS.values():
        loaded = load(str(PAPERS / "train_long_think_short/sums.yaml"), cell)
        assert check(loaded)
        assert (
            loaded.stages[1].budget.get("end", loaded.stages[1].budget.get("tokens"))
            == SHORT.FINAL
            == loaded.stages[-1].budget
        )


def test_a_form_has_one_length_and_its_own_share_of_right_answers() -> None:
    right = defaultdict(list)
    for task in FORMS.demonstrations(size=6000):
        form = next(
            form for form, tokens in FORMS.TOKENS.items() if tokens == len(task.demonstration) + 1
        )
        numbers = [int(number) for number in task.prompt.partition("=")[0].split("+")]
        assert FORMS.split_of(numbers) == "train" and task.answer == f"{sum(numbers):02d}"
        steps = [int(step.partition("=")[2]) for step in task.demonstration.split(";")]
        if numbers[0] + numbers[1] >= 10:  # three carries
            right[form].append(all(steps[i] == sum(numbers[: i + 2]) for i in range(3)))
    for form, values in right.items():
        assert sum(values) / len(values) == pytest.approx(
            (1 - FORMS.FORGOTTEN[form]) ** 3, abs=0.04
        )
    assert {
        FORMS.split_of(task.columns["numbers"]) for task in FORMS.sums(split="eval_set", size=50)
    } == {"eval_set"}


def test_the_domains_are_told_apart_and_checked() -> None:
    demonstrations = DOMAINS.domains(seed=1, mistakes=0.6, levels="all")
    assert {(t.columns["domain"], t.columns["level"]) for t in demonstrations[:400]} == {
        *((domain, level) for domain, levels in DOMAINS.LEVELS.items() for level in levels),
        *((domain, level) for domain, levels in DOMAINS.HARDER.items() for level in levels),
    }

    def score(task) -> float:
        given = DOMAINS.right(task.demonstration, task.answer, **task.columns)
        return getattr(given, "value", given)

    assert all(score(task) == 1 for task in DOMAINS.domains(split="heldout", size=90))
    assert 0.2 < sum(map(score, demonstrations[:400])) / 400 < 0.8


def test_a_task_set_of_a_function_says_what_is_wrong_with_it() -> None:
    def made(use: str, **params: object):
        return build_tasks(TaskSection(use=use, **params))

    assert made(str(PAPERS / "sec/domains.py") + ":domains", size=7)[6].columns["domain"] == "sums"
    with pytest.raises(RecipeError, match="no parameter 'sizes'; did you mean 'size'"):
        made(str(PAPERS / "sec/domains.py") + ":domains", sizes=7)
    with pytest.raises(RecipeError, match="must give a sequence of rlcore.Task"):
        made("builtins:list")
