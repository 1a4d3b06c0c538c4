"""The rewards that can be named, and a page about them made from their docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rlcore.errors import RewardError
from rlcore.scoring.forms import OFFERED, RewardSpec, form_of
from rlcore.scoring.load import find_reward, registered_rewards

_EXAMPLE = re.compile(r"(?:^>>> .*\n?(?:^(?!>>> ).+\n?)*)+", re.MULTILINE)
_DOCTEST_OPTION = re.compile(r"\s*# doctest:.*$", re.MULTILINE)
INTRODUCTION = """
Made from the docstrings by `rlcore rewards list --markdown`; the tests run the examples.
`completion` is the model's text and `answer` the task's reference answer in every form;
`rlcore/scoring/forms.py` says how each form is called.
"""


@dataclass(frozen=True, kw_only=True)
class RewardInfo:
    """One reward. `summary` is the first line of its docstring, or why it cannot be imported."""

    name: str
    source: str
    signature: str
    summary: str
    form: str = ""
    text: str = ""
    """The whole docstring."""
    params: tuple[str, ...] = ()
    """What a recipe may set: `name = default`."""
    notes: str = ""
    """The rest of its module's docstring, where the module holds this reward only."""


def describe_rewards(points: Mapping[str, str] | None = None) -> list[RewardInfo]:
    """Rewards by name; one that cannot be imported is listed with the reason.

    points: name to `module:function`; by default all that installed packages register.
    """
    points = registered_rewards() if points is None else points
    modules = [source.partition(":")[0] for source in points.values()]
    return [
        _describe(name, source, alone=modules.count(source.partition(":")[0]) == 1)
        for name, source in sorted(points.items())
    ]


def markdown(infos: Iterable[RewardInfo]) -> str:
    """One page: each reward with its source, form, parameters, docstring, example and notes."""
    parts = ["# Rewards", INTRODUCTION.strip()]
    for info in infos:
        line = f"`{info.source}`, {info.form} form."
        if info.params:
            params = ", ".join(f"`{param}`" for param in info.params)
            line += f" Recipe parameters: {params}."
        parts += [f"## {info.name}", line, _fenced(info.text or info.summary)]
        parts += [info.notes] if info.notes else []
    return "\n\n".join(parts) + "\n"


def _describe(name: str, source: str, *, alone: bool) -> RewardInfo:
    try:
        function = find_reward(RewardSpec(source, name=name))
    except RewardError as error:
        return RewardInfo(name=name, source=source, signature="", summary=str(error))
    text = inspect.getdoc(function) or ""
    module = inspect.getdoc(inspect.getmodule(function)) or ""
    return RewardInfo(
        name=name,
        source=source,
        signature=str(inspect.signature(function)),
        summary=text.partition("\n")[0],
        form=form_of(function),
        text=text,
        params=tuple(_params(function)),
        notes=module.partition("\n\n")[2].strip() if alone else "",
    )


def _params(function: Callable[..., Any]) -> list[str]:
    """Parameters for a recipe. A parameter of a function without default is taken for a column."""
    is_class = inspect.isclass(function)
    offered = () if is_class else OFFERED[form_of(function)]
    params: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        named = parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        required = parameter.default is parameter.empty
        if not named or parameter.name in offered or (required and not is_class):
            continue
        default = "" if required else f" = {_short(parameter.default)}"
        params.append(f"{parameter.name}{default}")
    return params


def _short(default: Any) -> str:
    text = repr(default).replace("`", "'")
    return text if len(text) <= 40 else text[:20] + "..." + text[-1]


def _fenced(text: str) -> str:
    """A docstring as Markdown: its examples become code blocks."""

    def fence(match: re.Match[str]) -> str:
        code = _DOCTEST_OPTION.sub("", match[0]).rstrip()
        return f"```python\n{code}\n```\n"

    return _EXAMPLE.sub(fence, text.strip() + "\n").strip()
