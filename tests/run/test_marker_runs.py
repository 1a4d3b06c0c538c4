"""Treasure Hunt's markers in a whole run: what rewards see, and what a marker of length does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from rlcore.errors import RlcoreError
from rlcore.recipe.load import load
from rlcore.run.folder import read_rows
from tests.run.whole import finish, run_folder, start, write_recipe

HIDE = r"M(\d*)m"
"""Short markers, so that a small model learns them in seconds."""
OWN = '''
import re
from dataclasses import replace

from rlcore import reward
from rlcore.transforms.markers import markers


def short(task, draw, *, drop_all: float, drop_each: float):
    """The transform `markers`, its list written as M3m."""
    made = markers(task, draw, drop_all=drop_all, drop_each=drop_each, separator="")
    texts = [re.sub(r"<MARKER_LIST> <length_tokens> (\\d+) .*</MARKER_LIST>", r"M\\1m", text) for text in (made.prompt, made.demonstration)]
    return replace(made, prompt=texts[0], demonstration=texts[1])


@reward
def same_length(completion, answer, **columns):
    assert "M" not in completion and "m" not in completion
    return float(len(completion) == len(answer))


@reward
def length(completion, **columns):
    return float(completion.count("a"))
'''


def rows_of(folder: Path, name: str, prompt: str) -> str:
    """Prompts whose letter stands for the number of letters that are wanted."""
    path = folder / f"{name}.jsonl"
    rows = [{"prompt": prompt.format(letter="qwertyui"[n - 1]), "answer": "a" * n, "demonstration": "a" * n} for n in range(1, 9)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"{{use: dataset, path: {path}}}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run with the paper's dropout and one without any."""
    made = {}
    for name, drop in (("half", 0.5), ("none", 0.0)):
        folder = tmp_path_factory.mktemp(name)
        (folder / "own.py").write_text(OWN)
        recipe = write_recipe(folder)
        evaluate = "num_samples: 8, sampling: {max_tokens: 16}"
        words = [
            f"tasks={{plain: {rows_of(folder, 'plain', '{letter}?')}}}",
            *(f"tasks.given{n}={rows_of(folder, f'given{n}', f'{{letter}}?M{n}m')}" for n in (2, 4, 7)),
            f"prompt.hide={HIDE}",
            f"stages=[{{kind: sft, tasks: plain, steps: 150, batch_size: 32, optim: {{lr: 5e-3, schedule: cosine, warmup_steps: 20}}, "
            f"transform: {{use: '{folder}/own.py:short', drop_all: {drop}, drop_each: 0.0}}}}, "
            f"{{kind: eval, name: plain, tasks: plain, rewards: [{{use: '{folder}/own.py:same_length'}}], {evaluate}}}, "
            + ", ".join(
                f"{{kind: eval, name: given{n}, tasks: given{n}, rewards: [{{use: '{folder}/own.py:length'}}], {evaluate}}}"
                for n in (2, 4, 7)
            )
            + "]",
        ]
        finish(start("train", recipe, *words), timeout_s=500)
        made[name] = run_folder(recipe)
    return made


def evaluations(folder: Path) -> dict[str, dict]:
    return {row["stage"]: row for row in read_rows(folder / "eval.jsonl")}


def test_a_marker_of_length_sets_the_length(runs: dict[str, Path]) -> None:
    lengths = [evaluations(runs["half"])[f"given{n}"]["reward/mean"] for n in (2, 4, 7)]
    assert lengths[0] < lengths[1] < lengths[2], lengths


def test_without_dropout_nothing_is_inferred_where_no_marker_is_given(runs: dict[str, Path]) -> None:
    accuracy = {name: evaluations(folder)["plain"]["accuracy"] for name, folder in runs.items()}
    assert accuracy["half"] > 0.8, accuracy
    assert accuracy["none"] < accuracy["half"] - 0.3, accuracy


def test_rewards_and_rows_have_no_marker_and_the_tokens_have_it(runs: dict[str, Path]) -> None:
    """The reward of the run raises where it sees one, and a completion without a score would end the run."""
    rows = [row for path in sorted((runs["half"] / "evaluations").rglob("*plain*.jsonl")) for row in read_rows(path)]
    assert len(rows) == 64
    assert not any(re.search("[Mm]", row["text"]) for row in rows)
    written = [[token for token, own in zip(row["token_ids"], row["mask"], strict=True) if own] for row in rows]
    assert sum(tokens[0] == ord("M") for tokens in written) > 0.9 * len(rows)


@pytest.mark.parametrize(("value", "said"), [("'('", "is no regular expression"), ("'a*'", "matches an empty text")])
def test_what_cannot_be_hidden(tmp_path: Path, value: str, said: str) -> None:
    with pytest.raises(RlcoreError) as error:
        load(str(write_recipe(tmp_path)), [f"prompt.hide={value}"])
    assert said in str(error.value) and "prompt.hide" in str(error.value)
