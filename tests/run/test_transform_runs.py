"""Stage `sft` with transforms: whole runs of the tiny recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlcore.errors import RlcoreError
from rlcore.recipe.check import check
from rlcore.recipe.load import load
from rlcore.run.folder import read_rows
from rlcore.run.rules import zero_advantages
from tests.run.whole import (
    finish,
    kill_when,
    run_folder,
    start,
    story,
    untimed,
    weights,
    write_recipe,
)

SHORT = ("stages.rl.steps=1", "stages.sft.steps=4", "run.checkpoint_every=1")
CHANGED = (
    "stages.sft.transform=[{use: conditional, column: level, threshold: 2.0, drop: 0.5, above: '+', below: '-'}, "
    "{use: masked_thought, p: 0.5, ramp: 0.0}]"
)
NOTHING = (
    "stages.sft.transform=[{use: filter, column: level, threshold: -9.0}, {use: metadata, text: '{level} ', cooldown: 1.0}, "
    "{use: own_tokens, rate: 0.0, column: level}, {use: conditional, column: level, threshold: 2.0, drop: 1.0}, {use: masked_thought, p: 0.0}]"
)


def ran(folder: Path, *overrides: str) -> Path:
    folder.mkdir()
    recipe = write_recipe(folder)
    finish(start("train", recipe, *SHORT, *overrides))
    return run_folder(recipe)


@pytest.mark.parametrize("train_on", ["completion", "all"])
def test_strength_zero_is_sft_bit_for_bit(tmp_path: Path, train_on: str) -> None:
    tokens = f"stages.sft.train_on={train_on}"
    plain, same = ran(tmp_path / "plain", tokens), ran(tmp_path / "same", tokens, NOTHING)
    assert story(plain) == story(same)


def test_transforms_change_what_is_learned_and_neither_rate_nor_evaluation(tmp_path: Path) -> None:
    still = ("stages.sft.optim.lr=1e-30", "stages.rl.optim.lr=1e-30")
    plain, changed = ran(tmp_path / "plain"), ran(tmp_path / "changed", CHANGED)
    assert weights(plain) != weights(changed)
    rates = [[row["lr"] for row in read_rows(folder / "metrics.jsonl")] for folder in (plain, changed)]
    assert rates[0] == rates[1]
    evaluations = [
        untimed(read_rows(ran(tmp_path / name, *still, *overrides) / "eval.jsonl"))
        for name, overrides in (("still", ()), ("still changed", (CHANGED,)))
    ]
    assert evaluations[0] == evaluations[1]


def test_the_cooldown_goes_on_with_moments_and_rate(tmp_path: Path) -> None:
    """At the switch nothing starts again: a run whose documents never had metadata has the same schedule, and the last step
    of the other reads as many tokens as it."""
    named = "stages.sft.transform={use: metadata, text: 'level {level}: ', cooldown: 0.5}"
    rows = [read_rows(ran(tmp_path / name, *more) / "metrics.jsonl")[:4] for name, more in (("p", ()), ("m", (named,)))]
    assert [row["lr"] for row in rows[0]] == [row["lr"] for row in rows[1]]
    assert [row["tokens/trained"] for row in rows[0]] == [row["tokens/trained"] for row in rows[1]]
    losses = [[row["loss"] for row in one] for one in rows]
    assert all(a != b for a, b in zip(*losses, strict=True))


def test_kill_and_resume_inside_a_ramp_are_exact(tmp_path: Path) -> None:
    ramp = CHANGED.replace("ramp: 0.0", "ramp: 1.0")
    stories = []
    for name in ("whole", "killed"):
        folder = tmp_path / name
        folder.mkdir()
        recipe = write_recipe(folder)
        if name == "killed":
            saved = run_folder(recipe) / "checkpoints/step_000002"
            kill_when(start("train", recipe, *SHORT, ramp), saved.exists)
        finish(start("train", recipe, *SHORT, ramp, "--resume"))
        stories.append(story(run_folder(recipe)))
    assert stories[0] == stories[1]


def test_two_processes_draw_what_one_draws(tmp_path: Path) -> None:
    rows = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        recipe = write_recipe(folder)
        finish(start("train", recipe, *SHORT, CHANGED, processes=processes))
        rows.append(read_rows(run_folder(recipe) / "metrics.jsonl")[:4])
    for one, two in zip(*rows, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("mask_thought", "stages.sft.transform: there is no transform 'mask_thought'"),
        ("{use: masked_thought, p: 2.0}", "'p' must be less than or equal to 1"),
        ("[conditional]", "needs a value for threshold"),
        ("metadata", "stages.sft.transform: metadata reads the column 'url', which the tasks do not have; there are: level"),
        ("{use: filter, threshold: 1.0, column: levl}", "filter reads the column 'levl', which the tasks do not have; did you mean"),
        ("{use: markers, columns: [length]}", "markers reads the column 'length'"),
        ("{use: signals, prompts: {titel: '{text}'}}", "signals reads the column 'titel'"),
        ("{use: feedback}", "feedback reads the column 'passed'"),
        ("{use: score, column: level}", "score has no effect: the objective 'sft' reads no advantages"),
    ],
)
def test_a_transform_is_checked_with_the_recipe(tmp_path: Path, value: str, said: str) -> None:
    with pytest.raises(RlcoreError) as error:
        check(load(str(write_recipe(tmp_path)), [f"stages.sft.transform={value}"]))
    assert said in str(error.value)


@pytest.mark.parametrize("objective", ["unlikelihood", "{use: awr, beta: 10.0, cap: 1000.0}"])
def test_a_score_is_let_through_where_it_is_read(tmp_path: Path, objective: str) -> None:
    check(
        load(
            str(write_recipe(tmp_path)),
            ["stages.sft.transform={use: score, column: level}", f"stages.sft.objective={objective}"],
        )
    )


def test_a_demonstration_that_a_transform_makes_too_long(tmp_path: Path) -> None:
    from rlcore.run.driver import train

    text = "x" * 80 + "{level}"
    recipe = load(str(write_recipe(tmp_path)), [f"stages.sft.transform={{use: metadata, text: {text!r}}}"])
    with pytest.raises(RlcoreError, match="its transform makes the demonstration of task .* tokens long, and the model reads 64"):
        train(recipe)


def test_what_a_transform_leaves_out_is_said(tmp_path: Path) -> None:
    none = ran(tmp_path / "none", "stages.sft.transform={use: filter, column: level, threshold: 1e9}")
    rows = [row for row in read_rows(none / "metrics.jsonl") if row["stage"] == "sft"]
    assert [row["transform/frac_left_out"] for row in rows] == [1.0] * 4
    assert zero_advantages(rows[0]) == "the transform left out every demonstration of the step, so nothing was learned"


def test_a_token_that_the_model_does_not_have(tmp_path: Path) -> None:
    from rlcore.run.driver import train

    (tmp_path / "strange.py").write_text(
        "from dataclasses import replace\n\n\ndef strange(sample, draw):\n"
        "    return replace(sample, input_ids=[10**6] * len(sample.token_ids))\n"
    )
    recipe = load(str(write_recipe(tmp_path)), [f"stages.sft.transform={tmp_path}/strange.py:strange"])
    with pytest.raises(RlcoreError, match="its transform puts the token 1000000 into the demonstration of task"):
        train(recipe)
