"""The table of docs/methods.md, made from `METHODS` and the docstrings of the presets.

`python docs/site_methods.py` writes it into the page; building the site does so too, and a test compares them.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlcore.learner.gradient import reads_behaviour
from rlcore.objective import Objective
from rlcore.objective.methods import METHODS, Method
from rlcore.objective.parts import live, unit
from rlcore.objective.presets import find_preset

PAGE = Path(__file__).resolve().parent / "methods.md"
TABLE = re.compile(r"(<!-- table -->\n).*?(<!-- end of table -->)", flags=re.DOTALL)
HEAD = ("method", "what it optimises", "keys that it sets", "extra cost of a step", "choose it for", "paper")


def with_table(page: str) -> str:
    """The page with the table as it is now."""
    lines = [HEAD, ("---",) * len(HEAD), *(_row(name, method) for name, method in METHODS.items())]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return TABLE.sub(lambda match: f"{match[1]}\n{table}\n\n{match[2]}", page)


def _row(name: str, method: Method) -> tuple[str, ...]:
    loss = _cell(_loss(method.objective))
    keys = ", ".join(f"`{key}={_plain(value)}`" for key, value in _flat(method.keys()))
    cost = "; ".join(_costs(method)) or "none"
    return f"`{name}`", loss, keys, cost, _cell(method.when), _cell(method.source)


def _loss(preset: str) -> str:
    """The first paragraph of the preset's docstring, without name and source."""
    paragraph = (inspect.getdoc(find_preset(preset)) or "").split("\n\n")[0]
    text = " ".join(paragraph.split())
    return re.sub(r"^[^:]*\([^()]*\)[^:]*: ", "", text).rstrip(".")


def _flat(keys: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in keys.items():
        if isinstance(value, Mapping) and "use" not in value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {item}" for key, item in value.items()) + "}"
    return str(value)


def _costs(method: Method) -> Iterator[str]:
    parameters = inspect.signature(find_preset(method.objective)).parameters
    required = {
        name: 64 for name, item in parameters.items() if item.default is inspect.Parameter.empty
    }
    aim = find_preset(method.objective)(**required)
    if method.filter is not None:
        yield "generation: rejected groups are sampled anew"
    if method.baseline == "critic":
        yield "a value model with its own updates, and its forward pass over the rollouts"
    if getattr(aim, "needs_teacher", False):
        yield "a teacher's forward pass over the rollouts"
    if aim.needs_reference:
        yield "a reference model and its forward pass"
    if getattr(aim.select, "compares_stale", False):
        yield "a forward pass over stale tokens"
    elif _has_a_ratio(aim):
        yield "old log-probabilities"
    demonstrations = method.credit.get("demonstrations", "none")
    if demonstrations == "solved":
        yield "correct completions in the updates twice"
    elif demonstrations != "none":
        yield "updates on demonstrations"
    if "steps" in method.credit:
        yield "generation: a greedy completion a task"
    if "solutions" in method.credit:
        yield "a forward pass over the solutions of the tasks, and updates on all of them"


def _has_a_ratio(aim: Objective) -> bool:
    moved = any(term.denominator not in (live, unit) for term in aim.terms)
    return moved or reads_behaviour(aim)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
