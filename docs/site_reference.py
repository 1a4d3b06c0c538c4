"""Pages of the reference that are made from the code: keys and parts of a recipe, and the Python interface."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby

from rlcore.recipe.keys import Key, all_keys
from rlcore.recipe.parts import kinds, part_help

PYTHON = {
    "Run a recipe": ["rlcore.api.train", "rlcore.run.tracking.Callback"],
    "Tasks, completions, verdicts": [
        "rlcore.types.task.Task",
        "rlcore.types.request.Request",
        "rlcore.types.request.Completion",
        "rlcore.types.rollout.Rollout",
        "rlcore.types.task.Verdict",
        "rlcore.types.group.Group",
        "rlcore.types.sample.Sample",
    ],
    "Rewards": ["rlcore.scoring.forms.reward", "rlcore.scoring.forms.RewardSpec"],
    "Objectives": [
        "rlcore.objective.term.Objective",
        "rlcore.objective.term.Term",
        "rlcore.objective.tokens.Tokens",
        "rlcore.objective.parts",
    ],
    "Protocols of parts": [
        "rlcore.rollout.engine.Engine",
        "rlcore.curriculum.task_sampler.TaskSampler",
        "rlcore.stages.base.Stage",
    ],
    "Models": ["rlcore.pretrained.load_model", "rlcore.tokenizer.load_tokenizer"],
}
"""Section of the page on Python -> what it documents."""

def reference_pages() -> dict[str, str]:
    """Name of a page -> its text."""
    return {
        "keys": _keys_page(all_keys()),
        "parts": _parts_page(),
        "python": _python_page(),
    }


def _keys_page(keys: Sequence[Key]) -> str:
    text = [
        "# Keys of a recipe",
        "Every key of a recipe, as `rlcore recipes keys` prints it. A key in a list is written with its kind: "
        "`stages[rl].group_size` is `group_size` of a stage of kind `rl`. Keys that several stages share are listed "
        "once, with the first stage that has them; each of those stages has a value of its own. "
        "Sections whose value is a part (`{use: name, ...}`) also have the [part's parameters](parts.md).",
    ]
    for section, rows in groupby(keys, key=_section_of):
        text.append(f"## `{section}`")
        text.append(_table(["key", "type", "default", "meaning"], map(_key_row, rows)))
    return "\n\n".join(text) + "\n"


def _section_of(key: Key) -> str:
    return re.match(r"\w+(\[[^\]]*\])?", key.key)[0]


def _key_row(key: Key) -> list[str]:
    return [f"`{key.key}`", key.type, f"`{key.default}`" if key.default else "", key.meaning]


def _parts_page() -> str:
    text = [
        "# Parts",
        "What a recipe can name with `{use: name, parameter: value}`, by the key that names it. "
        "`rlcore recipes keys KIND.NAME` prints one of them. Rewards have [a page of their own](../rewards.md), "
        "and so have [objectives](../objectives.md).",
    ]
    for kind, description in kinds().items():
        if kind == "rewards":
            continue
        text.append(f"## `{kind}`")
        for name in description.names:
            text.append(_part(kind, name))
    return "\n\n".join(text) + "\n"


def _part(kind: str, name: str) -> str:
    about, parameters = part_help(kind, name)
    text = [f"### `{name}` {{: #{kind}-{name} }}", _escaped(about)]
    rows = [
        [f"`{item.name}`", item.type, f"`{item.default}`" if item.default else "", item.meaning]
        for item in parameters
    ]
    if rows:
        text.append(_table(["parameter", "type", "default", "meaning"], rows))
    return "\n\n".join(text)


def _python_page() -> str:
    text = [
        "# Python",
        "`rlcore.train` runs a recipe, with functions and classes where the recipe names parts: "
        "[an example](../recipes.md#from-python). The names below are those that parts of your own meet.",
    ]
    for section, names in PYTHON.items():
        text.append(f"## {section}")
        text += [f"::: {name}" for name in names]
    return "\n\n".join(text) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return _escaped(" ".join(text.split())).replace("|", "\\|")


def _escaped(text: str) -> str:
    """The text with what would be read as a tag or a reference shown as it is; code is left alone."""
    pieces = re.split(r"(`[^`]*`|^ {4}.*$)", text, flags=re.MULTILINE)
    return "".join(
        piece if piece.startswith(("`", "    ")) else piece.replace("<", "&lt;").replace("[", "\\[")
        for piece in pieces
    )
