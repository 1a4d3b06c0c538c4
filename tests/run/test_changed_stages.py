"""On resume, the stages that have not begun may be others; what has begun may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlcore.errors import RunError
from rlcore.recipe.load import load
from rlcore.run.checkpoint import all_checkpoints
from rlcore.run.driver import train
from rlcore.run.folder import read_rows
from tests.run.test_train_options import everything
from tests.run.whole import write_recipe

SHORT = ("stages.sft.steps=2", "stages.rl.steps=2")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_recipe(tmp_path_factory.mktemp("changed")))


def folder_of(recipe: str, name: str) -> Path:
    return Path(recipe).parent / "runs" / name


def test_stages_changed_before_they_begin_run_as_if_they_had_always_been_so(recipe: str) -> None:
    """Another rate, a stage put between and a task set of its own: bit for bit a run that was started with them."""
    changed = [
        *SHORT,
        "stages.rl.optim.lr=3e-4",
        "tasks.harder={use: arithmetic, split: heldout, size: 8, max_number: 9, terms: [2]}",
        "stages.before+={kind: eval, name: harder, tasks: harder, rewards: [{use: exact}], sampling: {max_tokens: 8}}",
    ]
    train(load(recipe, [*changed, "name=always"]))
    train(load(recipe, [*SHORT, "name=later", "stages.rl=null", "stages.after=null"]))
    train(load(recipe, [*changed, "name=later"]), resume=True)
    assert everything(folder_of(recipe, "later")) == everything(folder_of(recipe, "always"))


def test_what_has_begun_stays_as_it_was(recipe: str) -> None:
    first = [*SHORT, "name=begun", "stages.rl=null", "stages.after=null"]
    train(load(recipe, first))
    other = [*SHORT, "name=begun"]
    for key, named in {
        "stages.sft.optim.lr=0.5": r"stages.sft.optim.lr \(.*begun: sft, before\)",
        "stages.before.greedy=true": r"stages.before.greedy \(",
        "stages.before.name=first": r"difference: stage 2 \(eval before -> eval first\); resume",
        "stages.before=null": r"difference: stage 2 \(eval before -> rl rl\); resume",
        "sampling.temperature=0.5": r"difference: stages.before.sampling.temperature \(",
        "stages.sft.steps=1": "stages.sft.steps cannot become 1: it has made 2 steps",
    }.items():
        with pytest.raises(RunError, match=named):
            train(load(recipe, [*other, key]), resume=True)
    train(load(recipe, [*other, "stages.rl.steps=1"]), resume=True)
    # All have begun now, and the evaluation is of the model that is there.
    with pytest.raises(RunError, match=r"stages.after.greedy \(.*begun: sft, before, rl, after\)"):
        train(load(recipe, [*other, "stages.rl.steps=1", "stages.after.greedy=true"]), resume=True)


def test_an_evaluation_that_was_not_finished_may_be_another(recipe: str) -> None:
    keys = [*SHORT, "name=evaluated"]
    train(load(recipe, keys))
    folder = folder_of(recipe, "evaluated")
    rows = (folder / "eval.jsonl").read_text().splitlines(keepends=True)
    assert len(all_checkpoints(folder / "checkpoints")) > 0
    (folder / "eval.jsonl").write_text("".join(rows[:-1]))
    train(load(recipe, [*keys, "stages.after.name=last"]), resume=True)
    assert [row["stage"] for row in read_rows(folder / "eval.jsonl")] == ["before", "last"]
