"""Kills runs, resumes them, and compares what they leave with a run that nobody killed, bit for bit.

    python -m tests.soak.kill --runs 100 --seed 0

Two small recipes are run on the hf engine: one with curriculum, KL reference, two rewards and
averaged weights, and one whose stages save the same step twice. Each run is killed several times,
by SIGKILL: at a call of `os.replace`, `os.fsync` or `shutil.rmtree` of the checkpoint code (every
one of them is taken in turn, `rmtree` also after half of its files), and at random moments. Then
it is resumed to its end. Compared are models, averaged weights, moments, schedules, curriculum,
cursor, metrics without times, evaluations, rollouts and the list of files.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from rlcore.run.checkpoint import all_checkpoints, read
from rlcore.run.folder import read_rows
from tests.run.whole import finish, start, untimed

SCRIPT = Path(__file__).with_name("killed_run.py")
KILLS = 3
"""Kills of one run, about: one that comes after the end of its start is none."""
HEAD = """
name: tiny
model:
  tokenizer: bytes
  config: {model_type: qwen2, hidden_size: 16, intermediate_size: 16, num_hidden_layers: 1, num_attention_heads: 2,
           num_key_value_heads: 1, max_position_embeddings: 64, tie_word_embeddings: true}
engine: {use: hf, max_length: 32, max_sequences: 64, deadline_s: 120}
tasks:
  train: {use: arithmetic, size: 32, max_number: 4, terms: [2, 3]}
  eval_set: {use: arithmetic, split: heldout, size: 4, max_number: 4, terms: [2]}
rewards: [{use: length, max_tokens: 4}]
scoring: {workers: 1}
sampling: {max_tokens: 4}
"""
RECIPES = {
    "whole": HEAD + """
stages:
  - {kind: sft, tasks: train, steps: 5, batch_size: 8, optim: {lr: 1e-2, schedule: cosine, warmup_steps: 2}}
  - {kind: eval, name: before, tasks: eval_set}
  - {kind: rl, tasks: train, steps: 5, groups_per_step: 4, group_size: 2, optim: {lr: 1e-3, ema: 0.9},
     rewards: [{use: length, max_tokens: 4}, {use: repetition, weight: 0.1}], curriculum: thompson,
     objective: {use: grpo, kl: 0.1}}
  - {kind: eval, name: after, tasks: eval_set}
run: {checkpoint_every: 2}
""",
    "twice": HEAD + """
stages:
  - {kind: sft, tasks: train, steps: 2, batch_size: 8, optim: {lr: 1e-2}}
  - {kind: rl, tasks: train, steps: 5, groups_per_step: 4, group_size: 2, stop_after_tokens: 1, optim: {lr: 1e-3}}
  - {kind: sft, name: more, tasks: train, steps: 2, batch_size: 8, optim: {lr: 1e-2}}
run: {checkpoint_every: 1, keep_checkpoints: 1}
""",
}  # fmt: skip


def write(recipe: str, folder: Path) -> Path:
    folder.mkdir(parents=True)
    path = folder / "tiny.yaml"
    path.write_text(RECIPES[recipe] + f"run.folder: {folder / 'runs'}\n")
    return path


def left_by(folder: Path) -> dict[str, Any]:
    """Everything that must not depend on kills."""
    last = all_checkpoints(folder / "checkpoints")[-1]
    cursor, state = read(last)
    state.pop("rng", None)
    own = {"trainer/state.pt", "trainer/manifest.json"}
    files = [path for path in sorted(last.rglob("*")) if path.is_file()]
    checkpoint: dict[str, Any] = {}
    for path in files:
        if (name := str(path.relative_to(last))) in own:
            continue
        checkpoint[name] = path.read_bytes()
        if path.name == "tokenizer_config.json":
            # transformers notes whether it was read from a folder.
            checkpoint[name] = json.loads(checkpoint[name])
            for key in ("is_local", "local_files_only"):
                checkpoint[name].pop(key, None)
    return {
        "files": {str(path.relative_to(folder)): True for path in folder.rglob("*")},
        "checkpoint": checkpoint,
        "state": plain(state),
        "cursor": vars(cursor),
        "metrics": untimed(read_rows(folder / "metrics.jsonl")),
        "evaluations": untimed(read_rows(folder / "eval.jsonl")),
        "rollouts": {path.name: path.read_bytes() for path in (folder / "rollouts").iterdir()},
    }


def plain(value: Any) -> Any:
    """The value with tensors as bytes."""
    if isinstance(value, torch.Tensor):
        return (str(value.dtype), tuple(value.shape), value.numpy().tobytes())
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def run_to_end(recipe: Path, *options: str) -> list[str]:
    """The calls that the command made."""
    calls = recipe.parent / "calls.json"
    finish(start("none", calls, "train", recipe, *options, script=SCRIPT))
    return json.loads(calls.read_text())


def points(calls: list[str], rng: random.Random) -> Iterator[str]:
    """Every call to be killed at, in random order but one of each role first; then again."""
    every = list(map(str, range(len(calls))))
    every += [f"half{i}" for i, call in enumerate(calls) if call.startswith("rmtree")]
    while True:
        rng.shuffle(every)
        roles: set[str] = set()
        later = []
        for point in every:
            role = role_of(point, calls)
            if role in roles:
                later.append(point)
            else:
                roles.add(role)
                yield point
        yield from later


def role_of(point: str, calls: list[str]) -> str:
    number = point.removeprefix("half")
    return calls[int(number)] + (" half" if number != point else "")


def kill_once(recipe: Path, point: str | None, longest_s: float, rng: random.Random) -> str:
    """Start or resume, and kill. How it was killed; "" if the command ended before."""
    calls = recipe.parent / "calls.json"
    process = start(point or "none", calls, "train", recipe, "--resume", script=SCRIPT)
    if point is None:
        time.sleep(rng.uniform(0.0, longest_s))
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(9)
    process.communicate(timeout=240)
    if process.returncode == 0:
        return ""
    assert process.returncode == -9, f"exit {process.returncode} at {point}"
    return point or "random moment"


class Case:
    """One recipe, and what it leaves when nobody kills it."""

    def __init__(self, name: str, place: Path, rng: random.Random) -> None:
        self.name = name
        self.rng = rng
        self.place = place / name
        recipe = write(name, self.place)
        run_to_end(recipe)  # the first pays for the start of the process that is forked
        shutil.rmtree(self.place)
        started = time.monotonic()
        recipe = write(name, self.place)
        self.calls = run_to_end(recipe)
        self.seconds = time.monotonic() - started
        self.wanted = left_by(self.place / "runs/tiny")
        self.points = points(self.calls, rng)
        self.covered: set[str] = set()
        self.kills: dict[str, int] = {}

    def killed(self) -> list[str]:
        """Kill and resume one run in the same place; the parts that differ."""
        shutil.rmtree(self.place)
        recipe = write(self.name, self.place)
        for turn in range(KILLS):
            # The first start makes all calls of an unbroken run; later ones make fewer.
            some = str(self.rng.randrange(len(self.calls) // 2))
            point = (
                next(self.points) if turn == 0 else self.rng.choice([some, f"half{some}", None])
            )
            kill = kill_once(recipe, point, self.seconds, self.rng)
            kind = (
                self.calls[int(kill.removeprefix("half"))].split()[0]
                if kill[-1:].isdigit()
                else kill
            )
            if kill:
                self.kills[kind] = self.kills.get(kind, 0) + 1
            if kill and turn == 0:
                self.covered.add(kill)
        run_to_end(recipe, "--resume")
        return compare(self.wanted, left_by(self.place / "runs/tiny"))

    def report(self) -> str:
        roles = {role_of(point, self.calls) for point in self.covered}
        halves = [call + " half" for call in self.calls if call.startswith("rmtree")]
        every = len(self.calls) + len(halves)
        return (
            f"{self.name}: killed at {len(roles)} of {len({*self.calls, *halves})} kinds of calls, at "
            f"{len(self.covered)} of {every} single ones of an unbroken run; all kills: {self.kills}"
        )


def run(runs: int, seed: int) -> int:
    """Kill `runs` runs; the number of those that differ."""
    rng = random.Random(seed)
    differing = 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        cases = [Case(name, Path(place), rng) for name in RECIPES]
        for number, case in zip(range(runs), itertools.cycle(cases), strict=False):
            problems = case.killed()
            differing += bool(problems)
            if problems:
                print(f"run {number} ({case.name}): {problems} differ", flush=True)
        for case in cases:
            print(case.report())
    print(
        f"{runs - differing} of {runs} runs equal bit for bit, {time.monotonic() - began:.0f} s"
    )
    return differing


def compare(wanted: Any, left: Any, path: str = "") -> list[str]:
    """Paths of what differs."""
    if isinstance(wanted, dict) and isinstance(left, dict):
        keys = sorted({*map(str, wanted), *map(str, left)})
        both = ({str(k): v for k, v in side.items()} for side in (wanted, left))
        one, two = both
        return [p for key in keys for p in compare(one.get(key), two.get(key), f"{path}/{key}")]
    return [] if wanted == left else [path]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    return int(bool(run(arguments.runs, arguments.seed)))


if __name__ == "__main__":
    sys.exit(main())
