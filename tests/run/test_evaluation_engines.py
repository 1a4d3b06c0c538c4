"""One evaluation on one process and on two, in transformers and in vLLM: several task sets, pass@k, greedy beside sampled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlcore.run.folder import RunFolder, read_rows
from tests.run.test_train import needs_vllm
from tests.run.whole import TINY, finish, run_folder, start, untimed

EVALUATION = """
stages:
  - {kind: eval, name: measured, tasks: [eval_set, other], num_samples: 4, greedy: true, vote_by: "VOTES:length",
     rewards: [{use: "VOTES:short"}], scoring: {workers: 1}, sampling: {max_tokens: 6}}
"""
VOTES = """
from rlcore import reward

@reward
def short(completion, answer, **columns):
    return float(len(completion) % 2)

def length(text, finished):
    return str(len(text))
"""
TRAINED = """
  - {kind: sft, tasks: demonstrations, steps: 4, batch_size: 16, eval_every: 2, optim: {lr: 1e-2}}
  - {kind: rl, tasks: demonstrations, steps: 4, groups_per_step: 4, group_size: 4, eval_every: 2, keep_best: true,
     rewards: [{use: "VOTES:short"}], scoring: {workers: 1}, sampling: {max_tokens: 6}, optim: {lr: 1e-3}}
"""


def write(folder: Path, stages: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "votes.py").write_text(VOTES)
    tasks = TINY.partition("stages:")[0] + (
        "  other: {use: arithmetic, split: heldout, size: 5, max_number: 3, terms: [2]}\n"
    )
    path = folder / "tiny.yaml"
    path.write_text(
        tasks
        + stages.replace("VOTES", str(folder / "votes.py"))
        + f"run: {{folder: {folder / 'runs'}, checkpoint_every: 100}}\n"
    )
    return path


def trained(folder: Path) -> Path:
    """The recipe with an sft and an rl stage before the evaluation, which evaluate as it says."""
    head, _, evaluation = EVALUATION.partition("stages:\n")
    return write(folder, head + "stages:" + TRAINED + evaluation)


def evaluate(recipe: Path, *overrides: str, processes: int = 1) -> RunFolder:
    finish(start("train", recipe, *overrides, processes=processes))
    return RunFolder(run_folder(recipe))


def kept(folder: RunFolder, row: dict[str, Any]) -> list[dict[str, Any]]:
    """The completions of an evaluation, in the order of their tasks."""
    rows = [one for path in folder.evaluation_files(row) for one in read_rows(path)]
    return sorted(rows, key=lambda one: (one["mode"], one["index"], one["id"]))


def test_two_ranks_evaluate_as_one_bit_for_bit(tmp_path: Path) -> None:
    one = evaluate(write(tmp_path / "one", EVALUATION))
    two = evaluate(write(tmp_path / "two", EVALUATION), processes=2)
    assert untimed(one.evaluations()) == untimed(two.evaluations())
    for row in one.evaluations():
        assert {"pass@4", "maj@4", "greedy/accuracy"} <= row.keys() and 0 < row["accuracy"] < 1
        assert len(two.evaluation_files(row)) == 2 and len(one.evaluation_files(row)) == 1
        alone, shared = kept(one, row), kept(two, row)
        # A forward pass over other neighbours rounds otherwise; nothing else may differ.
        recorded = [[completion.pop("logprobs") for completion in rows] for rows in (alone, shared)]
        assert alone == shared and len(alone) == row["tasks"] * (4 + 1)
        for theirs, ours in zip(*recorded, strict=True):
            assert theirs == pytest.approx(ours, abs=1e-5)


def check_between_steps(folder: RunFolder) -> None:
    """Every evaluation is there, over all tasks of both sets, and its numbers are those of its completions."""
    rows = folder.evaluations()
    during = [(row["during"], row["step"], row["eval_set"]) for row in rows if "during" in row]
    sets = ("eval_set", "other")
    expected = [("sft", 2), ("sft", 4), ("rl", 6), ("rl", 8)]
    assert during == [(*place, name) for place in expected for name in sets]
    for row in rows:
        completions = kept(folder, row)
        sampled = [one["score"] for one in completions if one["mode"] == "sampled"]
        assert len(sampled) == row["completions"] == row["tasks"] * 4
        assert row["accuracy"] == pytest.approx(sum(sampled) / len(sampled))
        assert {one["index"] for one in completions} == set(range(row["tasks"]))
    assert (folder.best / "model.safetensors").is_file()


def test_two_ranks_evaluate_between_steps(tmp_path: Path) -> None:
    folder = evaluate(trained(tmp_path), processes=2)
    check_between_steps(folder)
    # what is evaluated after the last step is what the eval stage finds
    last = [row["accuracy"] for row in folder.evaluations() if row["step"] == 8]
    assert last[:2] == last[2:]


@needs_vllm
@pytest.mark.vllm
def test_vllm_evaluates_between_steps_and_agrees_with_transformers(tmp_path: Path) -> None:
    """Greedy completions of the same weights are the same; sampled ones are other draws."""
    recipe = trained(tmp_path / "vllm")
    vllm = evaluate(recipe, "engine.use=vllm_local")
    check_between_steps(vllm)
    rows = vllm.evaluations()
    [checkpoint] = [path for path in vllm.checkpoints.iterdir() if path.name.endswith("8")]
    again = write(tmp_path / "hf", EVALUATION)
    hf = evaluate(again, f"model={{path: {checkpoint}, dtype: float32}}")
    for row in hf.evaluations():
        [same] = [r for r in rows if r["eval_set"] == row["eval_set"] and "during" not in r]
        texts = [
            [one["text"] for one in kept(folder, found) if one["mode"] == "greedy"]
            for folder, found in ((vllm, same), (hf, row))
        ]
        assert texts[0] == texts[1] and len(texts[0]) == row["tasks"]
        assert row["greedy/accuracy"] == same["greedy/accuracy"]
        assert same["completions"] == row["completions"] and "pass@4" in same
