"""Whole runs with an environment: exact after a kill, in one process and in two, with staleness, adapters and trouble."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from rlcore.run.folder import read_rows
from rlcore.run.stored import read_stored
from rlcore.workers.strays import MARK
from tests.env.guessing import guess
from tests.run.whole import finish, kill_when, run_folder, start, story, untimed

RECIPE = f"""
name: tiny
model:
  tokenizer: bytes
  config: {{model_type: qwen2, hidden_size: 64, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2,
           num_key_value_heads: 1, max_position_embeddings: 64, tie_word_embeddings: true}}
engine: {{use: hf, max_length: 48, max_sequences: 64, deadline_s: 120}}
tasks:
  demonstrations: {{use: "{Path(__file__).with_name("guessing.py")}:digits", size: 256}}
  eval_set: {{use: "{Path(__file__).with_name("guessing.py")}:digits", size: 8, seed: 1}}
env: {{use: "{Path(__file__).with_name("guessing.py")}:guess", workers: 2, max_turns: 4, deadline_s: 20}}
rewards: [{{use: environment}}]
sampling: {{max_tokens: 3}}
stages:
  - {{kind: sft, tasks: demonstrations, steps: 12, batch_size: 32, optim: {{lr: 1e-2, warmup_steps: 2}}}}
  - {{kind: eval, name: before, tasks: eval_set}}
  - {{kind: rl, tasks: demonstrations, steps: 6, groups_per_step: 4, group_size: 4, credit: {{turns: gigpo}}, optim: {{lr: 1e-3}}}}
  - {{kind: eval, name: after, tasks: eval_set}}
run: {{checkpoint_every: 1}}
"""
UPDATES = ("stages.rl.minibatches=2", "stages.rl.update_epochs=2")


def write_recipe(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "tiny.yaml"
    path.write_text(RECIPE + f"run.folder: {folder / 'runs'}\n")
    return path


def rl(recipe: Path) -> list[dict]:
    rows = untimed(read_rows(run_folder(recipe) / "metrics.jsonl"))
    return [row for row in rows if row["stage"] == "rl"]


def rollouts(recipe: Path) -> list[dict]:
    files = sorted((run_folder(recipe) / "rollouts").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


@pytest.mark.parametrize(("staleness", "processes"), [(0, 1), (1, 2)])
def test_kill_and_resume_in_the_middle_of_episodes_are_exact(
    staleness: int, processes: int, tmp_path: Path
) -> None:
    options = (*UPDATES, f"stages.rl.max_staleness={staleness}")
    reference = write_recipe(tmp_path / "whole")
    finish(start("train", reference, *options, processes=processes))
    uninterrupted = story(run_folder(reference))
    rows = rl(reference)
    assert all(row["env/turns/mean"] > 1 for row in rows), "not one rollout of several turns"
    assert any(row["updates"] == 4 for row in rows)

    recipe = write_recipe(tmp_path / "killed")
    process = start("train", recipe, *options, processes=processes)
    kill_when(process, lambda: len(rl(recipe)) >= 3)
    finish(start("train", recipe, *options, "--resume", processes=processes))
    for part, left in story(run_folder(recipe)).items():
        assert left == uninterrupted[part], f"{part} differ after kill and resume"


def test_stored_rows_hold_the_conversation(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    finish(start("train", recipe, "stages.rl.steps=2", "stages.rl.env.restart=true"))
    rows = rollouts(recipe)
    several = [row for row in rows if len(row["episode"]["rewards"]) > 1]
    assert several
    for row in several:
        assert len(row["prompt_starts"]) == len(row["episode"]["rewards"])
        tokens = sum(n for _, n in row.get("advantages", []))
        assert tokens in (0, sum(row["mask"]))
    stored = read_stored(run_folder(recipe) / "rollouts")
    by_id = {row["id"]: row for row in several}
    for one in stored:
        for rollout in one.group.rollouts:
            row = by_id.get(rollout.id.partition("/")[2])
            if row is not None:
                assert rollout.episode is not None
                assert rollout.episode.rewards == row["episode"]["rewards"]
                assert len(rollout.sequences) == len(row["prompt_starts"])
    first = rl(recipe)[0]
    assert first["env/sequences/mean"] > 1
    # The engine and the learner read the same tokens.
    assert first["mismatch/kl"] < 1e-6 and abs(first["mismatch/ratio_max"] - 1) < 1e-3


def test_an_environment_may_make_the_whole_prompt(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    here = Path(__file__).with_name("whole_prompt.py")
    finish(
        start(
            "train",
            recipe,
            f"tasks.eval_set={{use: '{here}:tasks'}}",
            f"stages.rl.env.use={here}:asks",
            "stages.rl.tasks=eval_set",
            "stages.rl.steps=1",
            "stages.rl.credit.turns=null",
            f"stages.before.env.use={here}:asks",
            f"stages.after.env.use={here}:asks",
        )
    )
    rows = rollouts(recipe)
    assert {row["prompt"] for row in rows} == {""}
    assert all(row["episode"]["messages"][0]["content"] == f"say {row['answer']}:" for row in rows)


def test_trouble_costs_only_the_rollouts_that_made_it(tmp_path: Path) -> None:
    """A fifth of all replies hang, crash, lie or kill their worker: the run ends, and every other reward is right."""
    recipe = write_recipe(tmp_path)
    options = (
        "stages.rl.env.trouble=0.2",
        "stages.rl.env.deadline_s=1.0",
        "stages.rl.env.memory_gb=1",
        "stages.rl.steps=3",
    )
    finish(start("train", recipe, *options))
    rows = rollouts(recipe)
    failed = [row for row in rows if row["status"] != "ok"]
    assert 3 <= len(failed) < len(rows)
    for row in rows:
        assert (row["value"] is None) == (row["status"] in ("crashed", "timed-out"))
        if row["value"] is not None:
            assert row["value"] == pytest.approx(reward_without_trouble(row))
    time.sleep(2.5)  # workers look for their parent every second
    assert not orphans()


def reward_without_trouble(row: dict) -> float:
    """What the environment gives for these completions when it runs here."""
    said = [m["content"] for m in row["episode"]["messages"] if m["role"] == "assistant"]
    if row["episode"]["ending"] == "length":
        said = said[:-1]  # the cut completion is not shown to the environment
    episode = guess(answer=row["answer"], seed=0)
    next(episode)
    total = 0.0
    for text in said:
        try:
            total += episode.send(text).reward
        except StopIteration as end:
            total += end.value
    return total


def orphans() -> set[int]:
    """Workers whose run has ended: their mark begins with the id of the process that started them."""
    left = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        for variable in variables:
            name, _, token = variable.partition(b"=")
            if name == MARK.encode() and not Path(f"/proc/{token.split(b'-')[0].decode()}").exists():
                left.add(int(entry.name))
    return left
