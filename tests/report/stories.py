"""Run folders that nobody trained: recipe, metrics, evaluations and rollouts, written through what a run writes them with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from rlcore.recipe.load import validate
from rlcore.recipe.yaml_text import read_yaml
from rlcore.run.folder import RunFolder
from rlcore.run.metrics import rollout_rows
from rlcore.types import Group, Rollout, Span, StepValues, Task, Turn, Verdict
from tests.run.whole import TINY

STATUSES = ("ok", "ok", "ok", "wrong-format", "timed-out")


def new_run(folder: Path, *, steps: int = 6, starts: Sequence[int] = (0,)) -> RunFolder:
    """A run of one rl stage, without rollouts. starts: steps after which a process began."""
    run = RunFolder(folder)
    run.start(validate(read_yaml(TINY, "tiny"), where="tiny"), resume=False, overwrite=False)
    run.release()
    for step in starts:
        run.log_start(
            {"after_step": step, "stage_index": 0, "time": "2026-11-28T10:00:00+00:00"}
        )
    log_steps(run, range(1, steps + 1))
    for step, accuracy in ((0, 0.25), (steps, 0.75)):
        run.log_eval(
            {
                "stage": "before" if step == 0 else "after",
                "stage_index": 1,
                "step": step,
                "eval_set": "eval_set",
                "tasks": 64,
                "completions": 64,
                "accuracy": accuracy,
                "accuracy/easy": accuracy,
                "accuracy/hard": accuracy / 2,
                "completions/length/mean": 9.5,
                "time/total": 1.5,
            }
        )
    return run


def log_steps(run: RunFolder, steps: Sequence[int]) -> None:
    for step in steps:
        run.log_metrics(
            {
                "step": step,
                "stage": "rl",
                "reward/mean": 1 - math.exp(-step / 10),
                "completions/length/mean": 10 + math.sin(step),
                "completions/frac_truncated": 0.0,
                "reward/frac_zero_std": 0.1,
                "entropy": 2 / step,
                "curriculum/easy/frac": 0.5,
                "curriculum/hard/frac": 0.5,
                "time/rollout": 2.0,
                "time/learn": 1.0,
                "time/total": 3.1,
                "probe/value": 1.0 * step,
            }
        )


def single_turn(task: Task, number: int, text: str, value: float | None) -> Rollout:
    ids = list(text.encode()) or [0]
    prompt = [1] if not isinstance(task.prompt, str) else list(task.prompt.encode()) or [1]
    finish = "length" if number % 7 == 3 else "stop"
    completion = Turn(
        role="completion",
        token_ids=ids,
        logprobs=[-0.1 * (i % 30) for i in range(len(ids))],
        versions=[number % 3] * len(ids),
        finish=finish,
        temperature=0.0 if number % 4 == 1 else 1.0,
    )
    turns = (Turn(role="prompt", token_ids=prompt), completion)
    return Rollout(id=f"{task.id}#{number}", task_id=task.id, turns=turns, text=text)


def multi_turn(task: Task) -> Rollout:
    """Two completions with an observation between them."""
    turns = [Turn(role="prompt", token_ids=list(task.prompt.encode()))]
    for role, text in (
        ("completion", "<call>6*7</call>"),
        ("observation", "the tool says 42"),
        ("completion", "It is 42."),
    ):
        ids = list(text.encode())
        written = {"logprobs": [-0.5] * len(ids), "versions": [1] * len(ids), "finish": "stop"}
        turns.append(
            Turn(role=role, token_ids=ids, **(written if role == "completion" else {}))
        )
    return Rollout(id=f"{task.id}#0", task_id=task.id, turns=tuple(turns), text="It is 42.")


def write_group(
    run: RunFolder, step: int, task: Task, texts: Sequence[str], *, steps: bool = False
) -> None:
    """A group with one rollout a text; the rewards rise from 0 to 1. steps: also with step values."""
    run.write_rollouts(step, 0, group_rows(task, texts, steps=steps))


def group_rows(task: Task, texts: Sequence[str], *, steps: bool = False) -> Iterator[dict]:
    n = len(texts)
    rollouts, verdicts = [], []
    advantages, values = {}, {}
    for i, text in enumerate(texts):
        status = STATUSES[i % len(STATUSES)]
        value = None if status == "timed-out" else i / max(1, n - 1)
        rollout = single_turn(task, i, text, value)
        rollouts.append(rollout)
        verdicts.append(
            Verdict(
                value=value, status=status, parts={"exact": value}, reason=f"because {text}"
            )
        )
        length = sum(rollout.mask)
        if value is not None:
            advantages[rollout.id] = [[value - 0.5, length - 1], [None, 1]]
        if steps and length > 3 and value is not None:
            spans = [Span(0, length // 2), Span(length // 2, length)]
            of_rollout = StepValues(
                rollout_id=rollout.id, spans=spans, values=[0.5, 0.25, value]
            )
            values[rollout.id] = {"spans": spans, "values": of_rollout.values}
    group = Group(task=task, rollouts=rollouts, verdicts=verdicts)
    yield from rollout_rows([(0, group, True)], values, advantages)


def with_trainer(row: dict) -> dict:
    """A row with what a learner says: log-probabilities 0.02 above the engine's, entropies rising; the last token is not trained."""
    behaviour = [logprob for logprob, wrote in zip(row["logprobs"], row["mask"], strict=True) if wrote]
    n = len(behaviour)
    trainer = {
        "logprobs": [*(logprob + 0.02 for logprob in behaviour[:-1]), None],
        "entropies": [*(i / n for i in range(n - 1)), None],
    }
    return row | {"trainer": trainer}
