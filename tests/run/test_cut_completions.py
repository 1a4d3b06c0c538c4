"""Completions that are not finished in time: an evaluation counts them, a step without any score leaves its rollouts."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlcore.run.folder import read_rows
from tests.run.whole import finish, run_folder, start, write_recipe

ENGINE = """
from rlcore.rollout.hf import HfEngine
from rlcore.types import Completion


class Stuck(HfEngine):
    '''Never finishes the requests of the first tasks; hands them back when they are aborted.'''

    def __init__(self, model_folder, *, dtype="float32", max_length, max_sequences=256, stuck: int = 3):
        super().__init__(model_folder, dtype=dtype, max_length=max_length, max_sequences=max_sequences)
        self._stuck = stuck
        self._held = set()

    def submit(self, requests):
        held = requests[: self._stuck]
        self._held |= {request.id for request in held}
        super().submit(requests[self._stuck :])

    def poll(self, timeout_s):
        return super().poll(min(timeout_s, 0.05))

    def abort(self, request_ids):
        for id in self._held & set(request_ids):
            self._held.discard(id)
            self._done.append(
                Completion(request_id=id, token_ids=[], logprobs=[], versions=[], finish="aborted")
            )
        super().abort([id for id in request_ids if id not in self._held])
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = write_recipe(tmp_path)
    (tmp_path / "my_engine.py").write_text(ENGINE)
    return path


def with_engine(recipe: Path, stuck: int) -> tuple[str, ...]:
    engine = recipe.parent / "my_engine.py"
    return (
        f"engine={{use: '{engine}:Stuck', stuck: {stuck}, max_length: 48, deadline_s: 1.5}}",
        "stages.sft.steps=1",
        "stages.rl.steps=1",
    )


def test_what_was_cut_counts_as_not_solved(recipe: Path) -> None:
    """3 of 8 completions are never written: 5 right ones are an accuracy of at most 5/8, not 1."""
    finish(start("train", recipe, *with_engine(recipe, stuck=3)))
    [before, _] = read_rows(run_folder(recipe) / "eval.jsonl")
    assert before["completions/frac_unfinished"] == 3 / 8
    rows = [row for row in read_rows(run_folder(recipe) / "metrics.jsonl") if row["stage"] == "rl"]
    assert rows[0]["reward/frac_unscored"] == 3 / 16
    assert before["accuracy"] == pytest.approx(before["reward/length"] * 5 / 8)


def test_a_step_without_a_score_leaves_its_rollouts(recipe: Path) -> None:
    stages = ("stages.before.limit=1", "stages.after.limit=1", "stages.before.num_samples=99")
    process = start("train", recipe, *with_engine(recipe, stuck=16), *stages)
    _, err = process.communicate(timeout=240)
    assert (
        process.returncode == 2 and "none of the 16 completions of this step could be scored" in err
    )
    rollouts = read_rows(run_folder(recipe) / "rollouts" / "000002.jsonl")
    assert len(rollouts) == 16 and all(row["finish"] == "aborted" for row in rollouts)


def test_where_all_completions_are_cut_the_end_tokens_are_named(tmp_path: Path) -> None:
    """Those at which the engine stops, and the one that demonstrations teach."""
    short = ("stages.sft.steps=1", "stages.rl.steps=1", "stages.before.limit=1", "stages.after.limit=1")
    out = finish(start("train", write_recipe(tmp_path), *short, "stages.rl.sampling.max_tokens=1"))
    assert "every completion was cut at sampling.max_tokens" in out
    assert (
        "Completions end at <|eos|> (258); in the prompt format 'plain' demonstrations teach <|eos|> (258)"
        in out
    )
