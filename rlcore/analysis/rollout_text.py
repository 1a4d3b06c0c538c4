"""Stored completions for a terminal: chosen by step, category, status, reward or text, and printed with prompt and verdict."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Group as Lines
from rich.text import Text

from rlcore.errors import RunError
from rlcore.run.folder import RunFolder, read_rows
from rlcore.terminal import visible
from rlcore.types import Verdict

LONGEST = 20_000
"""Characters of one text that are printed."""


@dataclass(frozen=True)
class Choice:
    """Which rollouts are wanted; what is None or empty chooses nothing."""

    step: int | None = None
    """None: the last step with rollouts."""
    evaluation: str | None = None
    """Completions of evaluations: those of this eval stage or task set, "" for any; None: of training."""
    failed: bool = False
    """Only those that did not pass: without a value, or with a first reward below 0.5."""
    category: str = ""
    status: str = ""
    finish: str = ""
    search: str = ""
    """In prompt, completion, answer or reason, in any case."""

    def takes(self, row: dict[str, Any]) -> bool:
        if self.failed and _passed(row):
            return False
        for key in ("category", "status", "finish"):
            wanted = getattr(self, key)
            if wanted and row.get(key) != wanted:
                return False
        if self.search:
            texts = (row.get(key) for key in ("task", "prompt", "text", "answer", "reason"))
            return self.search.lower() in "\n".join(map(str, texts)).lower()
        return True


def chosen_rows(folder: RunFolder, choice: Choice) -> tuple[int, list[dict[str, Any]]]:
    """The step, and its rollouts that are wanted. Raises `RunError` where there are no rollouts."""
    steps = _steps(folder) if choice.evaluation is None else _evaluated(folder, choice)
    if not steps:
        what = "" if choice.evaluation is None else " of an evaluation"
        of = f" called {choice.evaluation!r}" if choice.evaluation else ""
        names = dict.fromkeys(row["stage"] for row in folder.evaluations()) if of else ()
        there = f": there are {', '.join(names)}" if names else ""
        raise RunError(f"{folder.path} has no stored rollouts{what}{of}{there}")
    step = max(steps) if choice.step is None else choice.step
    if step not in steps:
        raise RunError(
            f"{folder.path} has no rollouts of step {step}: it has those of steps {min(steps)} to {max(steps)}"
        )
    rows = [row for path in steps[step] for row in read_rows(path)]
    categories = {str(row.get("category", "")) for row in rows}
    if choice.category and choice.category not in categories:
        raise RunError(
            f"no completion of step {step} has the category {choice.category!r}: there are {', '.join(sorted(categories))}"
        )
    return step, [row for row in rows if choice.takes(row)]


def _steps(folder: RunFolder) -> dict[int, list[Any]]:
    """Step -> its files, one a process."""
    files: dict[int, list[Any]] = {}
    for step, path in folder.rollout_files():
        files.setdefault(step, []).append(path)
    return files


def _evaluated(folder: RunFolder, choice: Choice) -> dict[int, list[Any]]:
    """Step -> files of its evaluations that are wanted."""
    files: dict[int, list[Any]] = {}
    for row in folder.evaluations():
        if choice.evaluation in ("", row["stage"], row["eval_set"]):
            # an eval stage after the last step repeats what was evaluated after that step
            earlier = files.setdefault(row["step"], [])
            earlier[:] = [path for path in earlier if not _repeats(row, path.name)]
            earlier += folder.evaluation_files(row)
    return {step: paths for step, paths in files.items() if paths}


def _repeats(row: dict[str, Any], name: str) -> bool:
    """Whether a file holds an earlier evaluation of the same step, eval stage and task set."""
    what = f"_{row['stage']}_{row['eval_set']}"
    return re.fullmatch(rf"\d+_\d+{re.escape(what)}(\.rank\d+)?\.jsonl", name) is not None


def shown(rows: list[dict[str, Any]], step: int | None = None) -> Lines:
    """Rollouts for a terminal; the prompt stands once above those of its task.

    Control characters are shown as pictures: rich would leave some of them out.
    """
    lines: list[Text] = []

    def add(text: str, style: str = "") -> None:
        lines.append(Text(visible(text), style=style))

    task = None
    for row in rows:
        if row.get("task") != task:
            task = row.get("task")
            where = "" if step is None else f", step {step}"
            add(f"\ntask {task}{where}", "bold")
            add(_cut(_prompt(row)), "dim")
            if row.get("answer") is not None:
                add(_cut(f"answer: {row['answer']}"), "dim")
        add(_verdict(row), "bold green" if _passed(row) else "bold red")
        add("\n".join(_indented(_cut(_said(row)))))
        if row.get("reason"):
            add(_cut(f"  reason: {row['reason']}"), "dim")
    return Lines(*lines)


def _said(row: dict[str, Any]) -> str:
    """The completion; of several turns the conversation, with what the environment gave for each."""
    episode = row.get("episode")
    if episode is None:
        return str(row.get("text", ""))
    lines, rewards = [], iter(episode["rewards"])
    for message in episode["messages"][episode["prompt_messages"] :]:
        calls = [call["function"] for call in message.get("tool_calls", ())]
        called = "".join(
            f" [{call['name']}({json.dumps(call['arguments'])})]" for call in calls
        )
        line = f"{message['role']}: {message.get('content', '')}{called}"
        if message["role"] == "assistant":
            reward = next(rewards, 0.0)
            line += f"  ({reward:+.3g})" if reward else ""
        lines.append(line)
    if episode["ending"] != "done":
        lines.append(f"ended: {episode['ending']}")
    return "\n".join(lines)


def _passed(row: dict[str, Any]) -> bool:
    verdict = Verdict(
        value=row.get("value"), status=row.get("status", "ok"), parts=row.get("parts", {})
    )
    return verdict.value is not None and verdict.passed()


def _verdict(row: dict[str, Any]) -> str:
    value = row.get("value")
    text = f"reward {value:.4g}" if value is not None else f"no score ({row.get('status')})"
    parts = {
        name: part
        for name, part in row.get("parts", {}).items()
        if part is not None and "/" not in name  # whole rewards, not their own parts
    }
    if len(parts) > 1:
        text += f" ({', '.join(f'{name} {part:.3g}' for name, part in parts.items())})"
    text += f", {sum(row.get('mask', ()))} tokens"
    if row.get("finish") != "stop":
        ways = {"length": ", truncated", "aborted": ", cut at the deadline"}
        text += ways.get(str(row.get("finish")), f", {row.get('finish')}")
    if row.get("mode") == "greedy":
        text += ", greedy"
    if row.get("status") == "wrong-format":
        text += ", wrong format"
    return text


def _prompt(row: dict[str, Any]) -> str:
    prompt = row.get("prompt", "")
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def _cut(text: str) -> str:
    """The text, or its beginning and end where it is far longer than anybody reads on a terminal."""
    more = len(text) - LONGEST
    if more <= 0:
        return text
    half = LONGEST // 2
    return (
        f"{text[:half]}\n[... {more:,} characters; the report shows them ...]\n{text[-half:]}"
    )


def _indented(text: str) -> Iterator[str]:
    for line in text.split("\n"):
        yield f"  {line}"
