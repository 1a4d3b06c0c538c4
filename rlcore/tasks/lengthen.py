"""Self-Lengthen (arXiv 2410.23933): a model lengthens its own answers, and then learns to answer so at once.

A micro-round cuts an answer in two and asks for a longer first half (`longer_half`), keeps two thirds of what comes, and asks for
the whole from there (`longer_whole`). After some of them `lengthened` makes demonstrations of two roles: the generator answers at
length, the extender makes a long text of a short one. Each is a maker of tasks, so each stage between them is a `sample` stage.

Columns carry what the prompts hide: `request`, the prompt that the generator was given; `short`, the answer before the
micro-round; `kept`, the beginning that is not written again; `first`, the generator's own answer.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from rlcore.errors import RecipeError, TaskError
from rlcore.tasks.made import scored
from rlcore.types import Group, Rollout, Task

HALF = "{request}\n\nAn answer begins so:\n{text}\n\nWrite this beginning at greater length, with more detail.\n\n"
WHOLE = "{request}\n\nA short answer:\n{text}\n\nWrite this answer at greater length, with more detail.\n\n"
Role = Literal["generator", "extender"]
Fraction = Annotated[float, Field(ge=0, le=1)]


def longer_half(group: Group, *, template: str = HALF) -> Iterator[Task]:
    """Of each answer the first half, to be written at greater length.

    template: the prompt, with {request} and {text}.
    """
    for number, rollout in enumerate(_written(group)):
        text = _answer(group.task, rollout)
        request = _request(group.task)
        columns = {
            "first": text,
            **group.task.columns,
            "request": request,
            "short": text,
            "kept": "",
        }
        prompt = _filled(template, request, beginning(text, 1 / 2))
        yield _task(group.task, number, prompt, columns)


def longer_whole(
    group: Group, *, template: str = WHOLE, keep: Fraction = 2 / 3
) -> Iterator[Task]:
    """The answer to be written at greater length, from the first part of what `longer_half` came to.

    template: the prompt, with {request} and {text}; what is kept follows it. keep: part of the words.
    """
    for number, rollout in enumerate(_written(group)):
        kept = beginning(rollout.text, keep)
        columns = {**group.task.columns, "kept": kept}
        if "short" not in columns:
            raise TaskError(
                f"task {group.task.id!r} has no column 'short': longer_whole follows a stage whose tasks longer_half made"
            )
        prompt = _filled(template, _request(group.task), columns["short"]) + kept
        yield _task(group.task, number, prompt, columns)


def lengthened(
    group: Group,
    *,
    draw: random.Random,
    roles: Sequence[Role] = ("generator", "extender"),
    ratio: float = 1.2,
    drop: Fraction = 0.2,
    max_repeated: Fraction = 0.3,
    template: str = WHOLE,
) -> Iterator[Task]:
    """Demonstrations of the two roles, of the first answer of a task that is long enough and does not repeat itself; none without.

    roles: generator (request -> long answer) and extender (short answer -> long answer); their names are the categories. ratio: the
    long answer has more than so many times the words of the generator's own. drop: part of the short answer's lines that the
    extender is not shown (words, of a text of one line). max_repeated: most that `repeated` may be. template: of the extender.
    """
    request = _request(group.task)
    for rollout in _written(group):
        long, short = _answer(group.task, rollout), str(group.task.columns.get("first", ""))
        if not short:
            raise TaskError(
                f"task {group.task.id!r} has no column 'first': lengthened follows stages whose tasks longer_half and longer_whole made"
            )
        if _words(long) <= ratio * _words(short) or repeated(long) > max_repeated:
            continue
        shown = _filled(template, request, without_some(short, drop, draw))
        prompts = {"generator": request, "extender": shown}
        for role in roles:
            yield replace(
                group.task,
                id=f"{group.task.id}/{role}",
                prompt=prompts[role],
                category=role,
                demonstration=long,
                columns={**group.task.columns, "long": long},
            )
        return


longer_half.columns = ("request", "short", "first", "kept")  # type: ignore[attr-defined]
longer_whole.columns = ("kept",)  # type: ignore[attr-defined]
lengthened.columns = ("long",)  # type: ignore[attr-defined]


def beginning(text: str, part: float) -> str:
    """The first words of a text, that part of them rounded up, as they stand in it.

    >>> beginning("one two  three four five", 1 / 2)
    'one two  three'
    """
    ends = [word.end() for word in re.finditer(r"\S+", text)]
    count = -(-len(ends) * round(part * 6) // 6)
    return text[: ends[count - 1]] if count else ""


def repeated(text: str, size: int = 4) -> float:
    """Fraction of a text's runs of `size` words that stood in it before: 0 for a short text.

    >>> repeated("a b c d"), repeated("a b c d a b c d a b c d")
    (0.0, 0.5555555555555556)
    """
    words = text.split()
    runs = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def without_some(text: str, part: float, draw: random.Random) -> str:
    """The text without that part of its lines, drawn; of a single line, of its words."""
    between = "\n" if "\n" in text.strip() else " "
    pieces = text.split(between)
    lost = set(draw.sample(range(len(pieces)), round(part * len(pieces))))
    return between.join(piece for i, piece in enumerate(pieces) if i not in lost)


def _written(group: Group) -> list[Rollout]:
    """Completions that ended by themselves."""
    return [rollout for rollout, _ in scored(group) if rollout.finish == "stop"]


def _answer(task: Task, rollout: Rollout) -> str:
    """The whole answer: what was kept of it, and what was written."""
    return str(task.columns.get("kept", "")) + rollout.text


def _request(task: Task) -> str:
    request = task.columns.get("request", task.prompt)
    if not isinstance(request, str):
        raise TaskError(
            f"task {task.id!r}: lengthening fills prompts that are a text, and this one is a list of messages"
        )
    return request


def _task(task: Task, number: int, prompt: str, columns: dict[str, object]) -> Task:
    return replace(task, id=f"{task.id}~{number}", prompt=prompt, columns=dict(columns))


def _filled(template: str, request: str, text: str) -> str:
    for place in ("{request}", "{text}"):
        if place not in template:
            raise RecipeError(f"lengthening: the template {template[:60]!r} has no {place}")
    before, _, behind = template.partition("{text}")
    return before.replace("{request}", request) + text + behind.replace("{request}", request)


def _words(text: str) -> int:
    return len(text.split())
