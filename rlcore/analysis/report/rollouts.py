"""The stored rollouts of a run as the viewer reads them: an index with what is filtered by, and chunks with the texts.

The index has one entry a rollout in each column. Chunks hold the rollouts in the same order, a few
hundred kilobytes each, so that the page loads only those that are looked at.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rlcore.errors import RunError
from rlcore.run.folder import RunFolder, read_rows
from rlcore.terminal import visible

CHUNK_CHARACTERS = 400_000
"""Size at which a chunk is closed."""

LEAST_LOGPROB = -1000.0
"""JSON has no infinity."""

Texts = Callable[[Sequence[int]], list[str]]
"""The text of each token, [L]."""


class RunLengths:
    """A column in which neighbours are mostly equal, as [value, times]."""

    def __init__(self) -> None:
        self.pairs: list[list[Any]] = []

    def append(self, value: Any) -> None:
        if self.pairs and self.pairs[-1][0] == value:
            self.pairs[-1][1] += 1
        else:
            self.pairs.append([value, 1])


class RolloutIndex:
    """What the viewer filters by, for every rollout."""

    def __init__(self) -> None:
        names = ("step", "stage", "group", "category", "status", "finish", "decoding")
        self._columns = {name: RunLengths() for name in names}
        self._values: list[float | None] = []
        self._lengths: list[int] = []
        self._group = -1
        self._last_group: Any = None

    def __len__(self) -> int:
        return len(self._values)

    def append(self, row: Mapping[str, Any], *, file: str, step: int, stage: str) -> None:
        # Rollouts of a task stand together in a file; a task may come twice in one step.
        group = (file, row.get("index"), row.get("task"))
        if group != self._last_group:
            self._group += 1
            self._last_group = group
        entry = {
            "step": step,
            "stage": stage,
            "group": self._group,
            "category": visible(str(row.get("category", "all"))),
            "status": str(row.get("status", "ok")),
            "finish": str(row.get("finish", "stop")),
            "decoding": "greedy" if row.get("temperature") == 0 else "sampled",
        }
        for name, value in entry.items():
            self._columns[name].append(value)
        value = row.get("value")
        self._values.append(None if value is None else float(f"{value:.5g}"))
        self._lengths.append(sum(row.get("mask", ())))

    def columns(self) -> dict[str, Any]:
        lengths = {name: column.pairs for name, column in self._columns.items()}
        return {**lengths, "value": self._values, "length": self._lengths}


class ChunkWriter:
    """Writes rollouts to chunk files `prefix0.js`, `prefix1.js`, ... as they come.

    The last chunk stays open: `flush` writes what it has so far, and it goes on afterwards.
    """

    def __init__(self, prefix: Path, run: int) -> None:
        self._prefix = prefix
        self._run = run
        self.sizes: list[int] = []
        """Rollouts of each chunk."""
        self._start_chunk()

    def append(self, row: Mapping[str, Any], texts: Texts | None) -> None:
        if self._characters > CHUNK_CHARACTERS:
            self.flush()
            self._start_chunk()
        shown = _shown(row, texts, self._task_number(row))
        self._rows.append(as_script_json(shown))
        self._characters += len(self._rows[-1])
        self.sizes[-1] += 1

    def flush(self) -> None:
        """Write the open chunk."""
        number = len(self.sizes) - 1
        text = f'{{"tasks":[{",".join(self._tasks)}],"rows":[{",".join(self._rows)}]}}'
        call = f"RlcoreReport.chunk({self._run},{number},{text})\n"
        path = self._prefix.with_name(f"{self._prefix.name}{number}.js")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(call, encoding="utf-8")

    def _start_chunk(self) -> None:
        self._tasks: list[str] = []
        self._numbers: dict[str, int] = {}
        self._rows: list[str] = []
        self._characters = 0
        self.sizes.append(0)

    def _task_number(self, row: Mapping[str, Any]) -> int:
        """Position of the row's task in the chunk: a group shares its prompt."""
        task = as_script_json(
            {
                "id": visible(str(row.get("task", ""))),
                "prompt": _readable(row.get("prompt", "")),
                "answer": _readable(row.get("answer")),
            }
        )
        if task not in self._numbers:
            self._numbers[task] = len(self._tasks)
            self._tasks.append(task)
            self._characters += len(task)
        return self._numbers[task]


class RunRollouts:
    """All rollouts of one run; `update` adds those of steps that came since the last call."""

    def __init__(self, folder: RunFolder, prefix: Path, run: int, texts: Texts | None) -> None:
        self._folder = folder
        self._prefix = prefix
        self._run = run
        self._texts = texts
        self._forget()

    def _forget(self) -> None:
        self.index = RolloutIndex()
        self.chunks = ChunkWriter(self._prefix, self._run)
        self._files: dict[Path, tuple[int, int]] = {}

    def update(self, stages: Sequence[Mapping[str, Any]], *, until: int | None = None) -> None:
        """stages: as `curves.stages` returns them. until: the last step whose files are complete."""
        files = list(_files(self._folder, until))
        if any(stamp(path) != before for path, before in self._files.items()):
            self._forget()  # a resumed run wrote steps again
        for path, step, stage in files:
            if path in self._files:
                continue
            self._files[path] = stamp(path)
            label = stage or _stage_of(step, stages)
            for row in read_rows(path):
                try:
                    self.index.append(row, file=str(path), step=step, stage=label)
                    self.chunks.append(row, self._texts)
                except KeyError as error:
                    raise RunError(
                        f"a rollout in {path} has no {error}: repair its line or delete it"
                    ) from error
        self.chunks.flush()


def as_script_json(value: Any) -> str:
    """JSON that may stand inside a script element: no text in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def _files(folder: RunFolder, until: int | None) -> Iterator[tuple[Path, int, str]]:
    """(file, step, stage) of the rollouts of rl stages in order, then of the sample stages and evaluations.

    The stage is empty for the former.
    """
    for step, path in folder.rollout_files():
        if until is None or step <= until:
            yield path, step, ""
    for summary in sorted(folder.samples.glob("*/summary.json")):
        step = json.loads(summary.read_text(encoding="utf-8")).get("step", 0)
        for path in sorted(summary.parent.glob("*.jsonl")):
            yield path, step, summary.parent.name
    for row in read_rows(folder.evals):
        for path in folder.evaluation_files(row):
            yield path, row["step"], f"{row['stage']}, {row['eval_set']}"


def _stage_of(step: int, stages: Sequence[Mapping[str, Any]]) -> str:
    for stage in stages:
        if stage["first"] <= step <= stage["last"]:
            return str(stage["name"])
    return "unfinished step"


def stamp(path: Path) -> tuple[int, int]:
    """Changes when a file does; zeros where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _shown(row: Mapping[str, Any], texts: Texts | None, task: int) -> dict[str, Any]:
    """What the viewer shows of a rollout beside the columns of the index."""
    mask = row.get("mask", ())
    # in hundredths of a nat, which is what a colour shows
    logprobs = [
        round(100 * max(logprob, LEAST_LOGPROB))
        for logprob, wrote in zip(row.get("logprobs") or (), mask, strict=False)
        if wrote
    ]
    shown = {
        "id": visible(str(row.get("id", ""))),
        "task": task,
        "turns": _turns(row, texts),
        "logprobs": logprobs,
        "versions": row.get("versions", []),
        "advantages": [_four_digits(run) for run in row.get("advantages", [])],
        "parts": {visible(name): _finite(part) for name, part in row.get("parts", {}).items()},
        "reason": visible(str(row.get("reason", ""))),
        "temperature": row.get("temperature"),
        "accepted": row.get("accepted", True),
        **_trainer(row),
    }
    if "steps" in row:
        steps = row["steps"]
        shown["steps"] = {
            "ends": [end for _, end in steps["spans"]],
            "values": steps["values"],
        }
    return shown


def _trainer(row: Mapping[str, Any]) -> dict[str, Any]:
    """`gaps`, learner minus engine in ten-thousandths of a nat, and `entropies` in hundredths, where the run kept them."""
    if "trainer" not in row:
        return {}
    recorded = zip(row["logprobs"], row["mask"], strict=True)
    behaviour = [max(logprob, LEAST_LOGPROB) for logprob, wrote in recorded if wrote]
    gaps = [
        None if mine is None else round(10_000 * (max(mine, LEAST_LOGPROB) - theirs))
        for mine, theirs in zip(row["trainer"]["logprobs"], behaviour, strict=True)
    ]
    entropies = [
        None if value is None else round(100 * value) for value in row["trainer"]["entropies"]
    ]
    return {"gaps": gaps, "entropies": entropies}


def _turns(row: Mapping[str, Any], texts: Texts | None) -> list[dict[str, Any]]:
    """Text of each turn after the prompt, with the number of UTF-16 units of each of its tokens, which is how JavaScript counts."""
    if texts is None:
        return [{"role": "completion", "text": visible(row.get("text", ""))}]
    turns = []
    position = 0
    starts = row.get("prompt_starts", ())
    rewards = iter(row["episode"]["rewards"] if row.get("episode") else ())
    for wrote, run in groupby(row["mask"]):
        end = position + len(list(run))
        is_prompt = not wrote and not turns
        if not is_prompt:
            pieces = [visible(piece) for piece in texts(row["token_ids"][position:end])]
            again = "prompt" if position in starts else "observation"
            turn: dict[str, Any] = {
                "role": "completion" if wrote else again,
                "text": "".join(pieces),
                "lengths": [_utf16_units(piece) for piece in pieces],
            }
            if wrote:
                turn["reward"] = next(rewards, None)
            turns.append(turn)
        position = end
    return turns


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _utf16_units(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-16-le")) // 2


def _four_digits(run: Sequence[Any]) -> list[Any]:
    advantage, tokens = run
    return [None if advantage is None else float(f"{advantage:.4g}"), tokens]


def _readable(value: Any) -> Any:
    """A prompt or an answer: text, chat messages as [role, text], anything else as JSON."""
    if value is None:
        return None
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, list) and all(
        isinstance(item, dict) and "role" in item for item in value
    ):
        return [
            [visible(str(message["role"])), visible(str(message.get("content")))]
            for message in value
        ]
    return visible(json.dumps(value, ensure_ascii=False))
