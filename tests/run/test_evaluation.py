"""Evaluations of whole runs: their numbers follow from the completions that they keep, and training does not feel them."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rewards.math_vote import final_answer_of
from rlcore.cli.main import main
from rlcore.errors import RecipeError
from rlcore.measures.majority import majority_at_k
from rlcore.recipe.load import load
from rlcore.run.driver import train
from rlcore.run.evaluation import TaskScores, accuracy_metrics, is_best, left_out_of_rm, remarks
from rlcore.run.evaluation_rows import proportion
from rlcore.run.folder import RunFolder, read_rows
from rlcore.run.tracker_tables import log_table
from tests.run.test_cut_completions import ENGINE
from tests.run.whole import TINY, run_folder, untimed, weights

EVALUATION = """
  - {kind: eval, name: measured, tasks: [eval_set, other], num_samples: 4, greedy: true, vote_by: "VOTES:first_letter",
     rewards: [{use: length, max_tokens: 4}], scoring: {workers: 1}, sampling: {max_tokens: 6}}
"""
VOTES = """
def first_letter(text, finished):
    return text[:1] or None
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The tiny recipe, with an eval stage of two task sets in place of its last one."""
    (tmp_path / "votes.py").write_text(VOTES)
    stages = TINY.partition("  - {kind: eval, name: after")[0]
    stages = stages.replace("  eval_set:", "  other: {use: arithmetic, split: heldout, size: 3, "
                            "max_number: 3, terms: [2]}\n  eval_set:")  # fmt: skip
    path = tmp_path / "tiny.yaml"
    path.write_text(
        stages
        + EVALUATION.replace("VOTES", str(tmp_path / "votes.py"))
        + f"run: {{checkpoint_every: 2, folder: {tmp_path / 'runs'}}}\n"
    )
    return path


def run(recipe: Path, *overrides: str, **options: Any) -> RunFolder:
    short = ("stages.sft.steps=1", "stages.rl.steps=4", "stages.before.limit=1")
    train(load(str(recipe), [*short, *overrides]), console=Console(quiet=True), **options)
    return RunFolder(run_folder(recipe))


def kept_rows(folder: RunFolder, row: dict[str, Any]) -> list[dict[str, Any]]:
    return [kept for path in folder.evaluation_files(row) for kept in read_rows(path)]


def by_task(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    tasks: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        tasks.setdefault(row["index"], []).append(row)
    return list(tasks.values())


def test_the_numbers_follow_from_the_kept_completions(
    recipe: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = run(recipe, "stages.rl.steps=1", "run.trackers=[tensorboard]")
    rows = {row["eval_set"]: row for row in folder.evaluations() if row["stage"] == "measured"}
    assert rows["eval_set"]["tasks"] == 8 and rows["other"]["tasks"] == 3
    for row in rows.values():
        kept = kept_rows(folder, row)
        sampled = by_task([one for one in kept if one["mode"] == "sampled"])
        greedy = [one for one in kept if one["mode"] == "greedy"]
        assert [len(task) for task in sampled] == [4] * row["tasks"]
        assert len(greedy) == row["tasks"] and {one["temperature"] for one in greedy} == {0.0}
        assert row["accuracy"] == pytest.approx(
            fmean(one["score"] for task in sampled for one in task)
        )
        assert row["greedy/accuracy"] == pytest.approx(fmean(one["score"] for one in greedy))
        for k in (1, 2, 4):
            passes, votes = [], []
            for task in sampled:
                right = [float(one["score"] >= 0.5) for one in task]
                passes.append(fmean(max(subset) for subset in combinations(right, k)))
                letters = [one["text"][:1] or None for one in task]
                votes.append(majority_at_k(letters, right, k))
            assert row[f"pass@{k}"] == pytest.approx(fmean(passes))
            assert row[f"maj@{k}"] == pytest.approx(fmean(votes))
        assert row["intervals"].keys() >= {"accuracy", "greedy/accuracy", "pass@4", "maj@4"}
        assert all(low <= row[key] <= high for key, (low, high) in row["intervals"].items())
    check_tensorboard(folder, rows["other"])
    main(["rollouts", str(folder.path), "--eval", "other", "--limit", "99"])
    said = capsys.readouterr().out
    assert "15 of 15 completions" in said and said.count(", greedy") == 3
    main(["rollouts", str(folder.path), "--eval"])
    assert "of 55 completions" in capsys.readouterr().out


def check_tensorboard(folder: RunFolder, row: dict[str, Any]) -> None:
    """Trackers have the numbers under the keys of eval.jsonl, and the first completions as tables."""
    [events] = {path.parent for path in folder.path.rglob("events.out.tfevents.*")}
    log = EventAccumulator(str(events))
    log.Reload()
    for key in ("accuracy", "greedy/accuracy", "pass@2", "maj@4"):
        [event] = log.Scalars(f"eval/measured/other/{key}")
        assert (event.step, event.value) == (row["step"], pytest.approx(row[key]))
    tags = {f"eval/measured/{name}/rollouts/text_summary" for name in ("eval_set", "other")}
    assert tags | {"rollouts/text_summary"} <= set(log.Tags()["tensors"])
    [text] = log.Tensors("eval/measured/other/rollouts/text_summary")
    table = text.tensor_proto.string_val[0].decode()
    assert table.startswith("| task | prompt | text |") and table.count("\n") == 1 + 15


def test_a_completion_cannot_leave_its_cell() -> None:
    class Recorded:
        name = "tensorboard"

        @property
        def writer(self) -> Any:
            return self

        def add_text(self, name: str, text: str, step: int) -> None:
            self.text = text

    recorded = Recorded()
    hostile = "a | b\n| c <img src=x onerror=alert(1)> ![x](http://y)"
    log_table([recorded], "rollouts", [{"task": "t", "text": hostile}], 1)
    lines = recorded.text.split("\n")
    assert len(lines) == 3 and "<img" not in recorded.text and "](" not in recorded.text
    assert lines[2].count(" | ") == lines[0].count(" | ")


def test_training_does_not_feel_evaluations_and_resumes_exactly(recipe: Path) -> None:
    plain = weights(run(recipe).path)
    every = ("stages.rl.eval_every=2", "stages.rl.keep_best=true", "stages.measured.greedy=false")
    folder = run(recipe, *every, overwrite=True)
    assert weights(folder.path) == plain
    rows = folder.evaluations()
    during = [row for row in rows if row.get("during") == "rl"]
    assert [(row["eval_set"], row["step"]) for row in during] == [
        ("eval_set", 3), ("other", 3), ("eval_set", 5), ("other", 5),
    ]  # fmt: skip
    # What is evaluated after the last step is what the eval stage finds.
    assert during[2]["accuracy"] == rows[-2]["accuracy"]
    assert [row["is_best"] for row in during if row["step"] == 3] == [True, True]
    assert (folder.best / "model.safetensors").is_file()

    def interrupt(step: int, metrics: dict[str, Any]) -> None:
        if step == 4:
            raise KeyboardInterrupt

    def texts() -> dict[str, str]:
        return {path.name: path.read_text() for path in folder.evaluated.iterdir()}

    before, kept = untimed(rows), texts()
    with pytest.raises(KeyboardInterrupt):
        run(recipe, *every, overwrite=True, callbacks=[interrupt])
    assert {row["step"] for row in folder.evaluations()} == {1, 3}
    folder.write_evaluation("000005_02_measured_other", 0, [{"left": "by a killed process"}])
    folder.log_eval(during[-1])
    run(recipe, *every, resume=True)
    assert untimed(folder.evaluations()) == before and texts() == kept
    assert weights(folder.path) == plain


def test_before_an_engine_serves_anything_the_policy_is_published(recipe: Path) -> None:
    folder = run(
        recipe, "stages.sft.steps=2", "stages.sft.eval_every=1", "stages.rl.steps=1",
        "stages.measured.greedy=false", "stages.measured.tasks=other",
    )  # fmt: skip
    during = [row for row in folder.evaluations() if row.get("during") == "sft"]
    assert [(row["stage"], row["step"]) for row in during] == [("before", 1), ("before", 2)]
    [first, second] = (kept_rows(folder, row) for row in during)
    assert [row["logprobs"] for row in first] != [row["logprobs"] for row in second]


def test_cut_completions_are_kept_and_not_solved(
    recipe: Path, capsys: pytest.CaptureFixture
) -> None:
    """The engine never finishes 5 of 32 completions: task 0 wholly, and one of task 1."""
    (recipe.parent / "my_engine.py").write_text(ENGINE)
    engine = f"engine={{use: '{recipe.parent / 'my_engine.py'}:Stuck', stuck: 5, max_length: 48, deadline_s: 1.5}}"
    limits = ("stages.before.limit=8", "stages.measured.greedy=false", "stages.measured.tasks=eval_set")
    folder = run(recipe, engine, "stages.rl.steps=1", *limits)
    row = folder.evaluations()[-1]
    assert row["completions/frac_unfinished"] == 5 / 32
    kept = kept_rows(folder, row)
    cut = [one for one in kept if one["finish"] == "aborted"]
    assert len(kept) == 32 and [one["score"] for one in cut] == [0.0] * 5
    solved = [one["score"] for one in kept if one["finish"] != "aborted"]
    assert row["accuracy"] == pytest.approx(sum(solved) / 32)
    # a task of which nothing was finished is one that is never passed, not one that is missing
    passes = [float(any(one["score"] >= 0.5 for one in task)) for task in by_task(kept)]
    assert len(passes) == 8 and row["pass@4"] == pytest.approx(fmean(passes))
    main(["rollouts", str(folder.path), "--eval", "measured", "--failed", "--limit", "99"])
    assert capsys.readouterr().out.count("cut at the deadline") == 5


def test_completions_without_a_score_are_named_beside_the_accuracy(
    recipe: Path, capsys: pytest.CaptureFixture
) -> None:
    """The reward crashes on tasks with an even answer."""
    own = recipe.parent / "own.py"
    own.write_text(
        "def odd(completion, answer, **columns):\n"
        "    return 1.0 if int(answer) % 2 else 1 / 0\n"
    )
    stages = f"stages=[{{kind: eval, tasks: eval_set, rewards: [{{use: '{own}:odd'}}], sampling: {{max_tokens: 2}}}}]"
    assert main(["train", str(recipe), stages]) == 0
    said = " ".join(capsys.readouterr().out.split())
    folder = RunFolder(run_folder(recipe))
    [row] = folder.evaluations()
    scored = sum(one["score"] is not None for one in kept_rows(folder, row))
    assert 0 < scored < 8 and "accuracy 100.0% (" in said
    assert f"of {scored} scored of 8 completions" in said
    assert f"{8 - scored} of 8 completions have no score and count in no number" in said
    assert main(["compare", str(folder.path)]) == 0
    assert f"{scored} of 8" in capsys.readouterr().out


def test_categories_ks_and_tasks_with_failed_scores() -> None:
    tasks = [
        TaskScores("easy", [1.0, 1.0], ["4", "4"]),
        TaskScores("hard", [0.0, 1.0], ["3", "4"]),
        TaskScores("hard", [1.0], ["4"]),  # the score of its second completion failed
    ]
    metrics = accuracy_metrics(tasks, ks=(1, 2), has_votes=True)
    assert metrics["accuracy"] == 4 / 5 and metrics["accuracy/hard"] == 2 / 3
    assert metrics["pass@2"] == 1.0 and metrics["pass@1"] == pytest.approx((1 + 0.5 + 1) / 3)
    assert metrics["maj@2"] == 0.75
    assert metrics["intervals"].keys() == metrics.keys() - {"intervals"}


def test_best_of_k_says_of_how_many_tasks_it_is() -> None:
    tasks = [
        TaskScores("easy", [1.0, 0.0], [None] * 2, [0.4, 0.2]),
        TaskScores("hard", [0.0, 1.0], [None] * 2, [None, None]),
        TaskScores("hard", [0.0, 0.0], [None] * 2, [0.1, None]),
    ]
    assert [said.partition(":")[0] for said in left_out_of_rm(tasks, (1, 2))] == [
        "rm@1 is of 2 tasks and pass@1 of 3",
        "rm@2 is of 1 tasks and pass@2 of 3",
    ]
    assert not list(left_out_of_rm(tasks[:1], (1, 2)))
    assert not list(left_out_of_rm([TaskScores("easy", [1.0], [None])], (1,))), "nothing ranks"


def test_the_first_of_equal_evaluations_is_the_best() -> None:
    def row(accuracy: float, **other: Any) -> dict[str, Any]:
        same = {"stage": "a", "eval_set": "e", "stage_index": 1, "during": "rl"}
        return same | {"accuracy": accuracy} | other

    assert is_best(row(0.1), [row(0.9, eval_set="other"), row(0.9, stage_index=0)])
    assert not is_best(row(0.5), [row(0.5)]) and is_best(row(0.6), [row(0.5), row(0.4)])


def test_the_final_answer_votes_in_one_spelling() -> None:
    same = ["The answer is 1,234.", r"\boxed{1234.0}", "#### 2468/2", r"so $x = 1234$"]
    assert {final_answer_of(text) for text in same} == {"1234"}
    assert final_answer_of(r"\boxed{\frac{1}{2}}") == final_answer_of("0.5")
    assert final_answer_of("I think \\boxed{7} is", finished=False) == "7"
    assert final_answer_of("3 and then 7", finished=False) is None
    assert final_answer_of("<answer>7</answer> or 8", within="answer") == "7"
    assert final_answer_of("7", within="answer") is None


@pytest.mark.parametrize(
    "override, sentence",
    [
        ("stages.measured.pass_at=[8]", "pass_at asks for pass@8, which needs num_samples 8"),
        ("stages.measured.num_samples=1", "vote_by has no effect with one completion per task"),
        ("stages.measured.sampling.temperature=0", "greedy has no effect where"),
        ("stages.measured.tasks=[other, other]", "name each task set once"),
        ("stages.measured.tasks=[other, nowhere]", "tasks is 'nowhere', but the recipe's task sets"),
        ("stages.rl.keep_best=true", "keep_best has no effect without eval_every"),
        ("stages.rl.eval_every=99", "eval_every is 99, but the stage has only 6 steps"),
    ],
)
def test_what_makes_no_sense_is_refused(recipe: Path, override: str, sentence: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(str(recipe), [override])
    assert sentence in str(caught.value)


def test_a_first_reward_beyond_one_is_no_accuracy() -> None:
    [said] = remarks([TaskScores("a", [5.0, 0.0], [None] * 2)], (), first="points")
    assert said.startswith("the first reward, points, goes from 0 to 5: its mean stands where an accuracy does and is none")
    assert not list(remarks([TaskScores("a", [1.0, 0.0], [None] * 2)], (), first="points"))


def test_a_mean_that_is_no_proportion_is_shown_as_a_number() -> None:
    shown = [proportion(value) for value in (0, 0.625, 1, -4.524, 1.02, 12.3456)]
    assert shown == ["0.0%", "62.5%", "100.0%", "-4.52", "1.02", "12.3"]
