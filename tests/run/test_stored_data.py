"""Stages that write and read stored answers, in whole runs: sample, offline and prefer; killed and resumed, refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from rlcore.errors import RlcoreError
from rlcore.learner.gradient import reads_behaviour
from rlcore.objective import PRESETS, objective
from rlcore.recipe.check import check
from rlcore.recipe.load import load
from rlcore.run.driver import train
from rlcore.run.folder import read_rows
from rlcore.run.stored import read_stored
from tests.run.whole import TINY, run_folder, story

HEAD = (
    TINY.split("stages:")[0]
    .replace("demonstrations: {", "demonstrations: {mistakes: 0.4, ")
    .replace("max_number: 4", "max_number: 9")
)
STAGES = """
stages:
  - {kind: sft, tasks: demonstrations, steps: 60, batch_size: 32, optim: {lr: 1e-2, schedule: cosine, warmup_steps: 2}}
  - {kind: sample, name: drawn, tasks: demonstrations, limit: 24, num_samples: 4, demonstrations: true,
     steps: {rollouts: 4, split: {use: delimiter, at: "+"}, completions: all},
     rewards: [{use: exact, after: "="}], sampling: {max_tokens: 12}}
  - {kind: offline, name: rft, data: drawn, keep: correct, distinct: 2, steps: 4, batch_size: 8, optim: {lr: 1e-3}}
  - {kind: offline, name: weighted, data: drawn, objective: {use: awr, beta: 0.5}, steps: 2,
     credit: {baseline: none, steps: {scheme: {use: per_step, mix: 1.0}}}}
  - {kind: prefer, name: answers, data: drawn, steps: 3, batch_size: 4, loss_type: {sigmoid: 1.0, sft: 0.1}, optim: {lr: 1e-4}}
  - {kind: prefer, name: pits, data: drawn, pairs: first_pit, steps: 2, batch_size: 4, optim: {lr: 1e-4}}
  - {kind: eval, tasks: eval_set, rewards: [{use: length, max_tokens: 4}], sampling: {max_tokens: 12}}
run: {checkpoint_every: 2}
"""


def write(folder: Path) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(HEAD + STAGES + f"run.folder: {folder / 'runs'}\n")
    return path


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = write(tmp_path_factory.mktemp("stored"))
    train(load(str(recipe)), console=Console(quiet=True))
    return run_folder(recipe)


def test_a_sample_stage_keeps_answers_demonstrations_and_step_values(done: Path) -> None:
    rows = read_rows(done / "samples/drawn/rank0.jsonl")
    shown = [row for row in rows if row["id"].endswith("#demonstration")]
    assert (
        len(rows) == 24 * 5 and len(shown) == 24 and all(row["logprobs"] is None for row in shown)
    )
    assert {row["value"] for row in shown} == {
        0.0,
        1.0,
    }  # the teacher forgets carries, and that is seen
    for row in rows:
        if row in shown:
            continue
        steps = row["steps"]
        assert [span[0] for span in steps["spans"]] == [
            0,
            *(span[1] for span in steps["spans"][:-1]),
        ]
        assert (
            steps["spans"][-1][1] == sum(row["mask"])
            and len(steps["values"]) == len(steps["spans"]) + 1
        )
        gains = [
            after - before
            for before, after in zip(steps["values"], steps["values"][1:], strict=False)
        ]
        assert sum(gains) == pytest.approx(
            row["value"] - steps["values"][0], abs=1e-12
        )  # the sum telescopes
    assert json.loads((done / "samples/drawn/summary.json").read_text())["credit/tokens"] > 0


def test_what_the_learning_stages_saw(done: Path) -> None:
    by_id = {row["id"]: row for row in read_rows(done / "samples/drawn/rank0.jsonl")}
    right = {(row["task"], row["text"]) for row in by_id.values() if row["value"] == 1}
    pairs = read_rows(done / "pairs/answers.jsonl")
    assert pairs and all(
        (p["task"], p["chosen"]) in right and (p["task"], p["rejected"]) not in right for p in pairs
    )
    assert all(
        pair["chosen_ids"][-1] == 258 for pair in pairs
    )  # closed by the end token, exactly as sampled
    pits = read_rows(done / "pairs/pits.jsonl")
    ends = set()
    for row in by_id.values():
        if row["value"] == 0 and row.get("steps"):
            after = row["steps"]["values"][1:]
            end = row["steps"]["spans"][after.index(min(after))][
                1
            ]  # the first step of lowest value
            ends.add(tuple(row["token_ids"][: row["mask"].index(1) + end]))
    assert pits and all(tuple(pair["prompt_ids"] + pair["rejected_ids"]) in ends for pair in pits)
    metrics = read_rows(done / "metrics.jsonl")
    assert [row["step"] for row in metrics] == list(range(1, 72))
    assert {row["stage"] for row in metrics} == {"sft", "rft", "weighted", "answers", "pits"}
    assert all(row["time/total"] > 0 for row in metrics)
    first, last = ([row for row in metrics if row["stage"] == "answers"][at] for at in (0, -1))
    assert first["margin"] == pytest.approx(0, abs=1e-6) and last["margin"] > 0


def test_a_run_killed_between_stages_goes_on_to_the_same_end(
    done: Path, tmp_path: Path, monkeypatch
) -> None:
    from rlcore.stages import prefer_trl

    recipe = load(str(write(tmp_path)))

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prefer_trl, "train_pairs", killed)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, console=Console(quiet=True))
    folder = run_folder(tmp_path / "tiny.yaml")
    drawn = (folder / "samples/drawn/rank0.jsonl").stat().st_mtime_ns
    train(recipe, resume=True, console=Console(quiet=True))
    assert (folder / "samples/drawn/rank0.jsonl").stat().st_mtime_ns == drawn  # not sampled again
    wanted = story(done)
    for part, left in story(folder).items():
        assert left == wanted[part], f"{part} differ after kill and resume"


def test_which_objectives_need_behaviour_logprobs() -> None:
    params = {"dr_grpo": {"max_tokens": 8}}
    free = {
        name for name in PRESETS if not reads_behaviour(objective(name, **params.get(name, {})))
    }
    assert free == {"rloo", "reinforce", "awr", "sft", "dft", "unlikelihood", "gkd"}
    assert reads_behaviour(
        objective("reinforce", correction={"kind": "token_mask", "high": 2.0, "low": 0.5})
    )


@pytest.mark.parametrize(
    ("stage", "kept", "sentence"),
    [
        (
            "kind: offline, objective: grpo",
            lambda row: row,
            "needs the log-probabilities of the policy that wrote a completion",
        ),
        (
            "kind: offline, keep: correct",
            lambda row: row if row["value"] == 0 else None,
            "is left to learn from",
        ),
        (
            "kind: prefer, pairs: first_pit, loss_type: simgoid",
            lambda row: row,
            "refused stage taught: Unknown loss type",
        ),
        (
            "kind: prefer, pairs: first_pit",
            lambda row: {k: v for k, v in row.items() if k != "steps"},
            "and step values",
        ),
    ],
    ids="behaviour nothing loss values".split(),
)
def test_a_stage_that_cannot_learn_says_why(
    done: Path, tmp_path: Path, stage: str, kept, sentence: str
) -> None:
    rows = [
        json.dumps(row)
        for found in read_rows(done / "samples/drawn/rank0.jsonl")
        if (row := kept(found))
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows) + "\n")
    stages = f"stages=[{{{stage}, name: taught, steps: 1, data: {tmp_path}/rows.jsonl}}]"
    with pytest.raises(RlcoreError, match=sentence):
        train(load(str(write(tmp_path)), [stages]), console=Console(quiet=True))


@pytest.mark.parametrize("stage", ["kind: offline, keep: correct", "kind: prefer, pairs: answers"])
def test_a_stage_with_nothing_to_learn_from_is_skipped_on_request(
    done: Path, tmp_path: Path, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row for row in read_rows(done / "samples/drawn/rank0.jsonl") if row["value"] == 0]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    keys = f"name: taught, steps: 1, if_empty: skip, data: {tmp_path}/rows.jsonl"
    train(load(str(write(tmp_path)), [f"stages=[{{{stage}, {keys}}}]"]))
    assert "so the stage is skipped" in " ".join(capsys.readouterr().out.split())
    assert not (run_folder(tmp_path / "tiny.yaml") / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            "stages.rft.data=drawm",
            "neither a file or folder here nor a sample stage before this one .drawn.",
        ),
        ("stages.rft.keep=right", "stages.rft.keep"),
        ("stages.drawn.steps={rollouts: 4, best_of: 5}", "cannot be estimated from 4 rollouts"),
        ("stages.drawn.steps={split: lines}", "there is no split 'lines'"),
        (
            "stages.weighted.credit={steps: {keep: all}}",
            "is for rl stages: nothing is continued here",
        ),
        (
            "stages.rft.credit={demonstrations: gated}",
            "set demonstrations: true in the sample stage",
        ),
        ("stages.answers.optim={ema: 0.9}", "unknown key 'stages.answers.optim.ema'"),
        (
            "stages.answers.micro_batch=3",
            "stages.answers: micro_batch is 3, which does not divide batch_size",
        ),
    ],
)
def test_bad_recipes_are_met_with_a_sentence(tmp_path: Path, change: str, sentence: str) -> None:
    with pytest.raises(RlcoreError, match=sentence):
        check(load(str(write(tmp_path)), [change]))


@pytest.mark.parametrize(
    "row",
    [
        "{}",
        '{"task": "a"}',
        '{"task": "a", "prompt": "b", "text": "", "value": 1, "token_ids": [1], "mask": []}',
    ],
)
def test_bad_rows_are_met_with_a_sentence(tmp_path: Path, row: str) -> None:
    (tmp_path / "rows.jsonl").write_text(row + "\n")
    with pytest.raises(RlcoreError, match="rows.jsonl: .*; rows need task, prompt"):
        read_stored(tmp_path)


def test_files_of_processes_are_read_as_one(tmp_path: Path) -> None:
    """In the order of the tasks; files of other names stand one behind the other."""
    def row(index: int) -> str:
        known = {"task": f"t{index}", "index": index, "prompt": "p", "text": "a", "value": 1.0, "token_ids": [1, 2], "mask": [0, 1]}
        return json.dumps(known) + "\n"

    for names, want in ((("rank0", "rank1"), ["t0", "t1", "t2", "t3"]), (("000001", "000002"), ["t0", "t2", "t1", "t3"])):
        folder = tmp_path / names[0]
        folder.mkdir()
        for number, name in enumerate(names):
            (folder / f"{name}.jsonl").write_text(row(number) + row(number + 2))
        assert [one.group.task.id for one in read_stored(folder)] == want
