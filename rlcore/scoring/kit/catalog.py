"""Which rewards there are, and a page about them made from their docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rlcore.errors import RewardError
from rlcore.scoring.forms import OFFERED, RewardSpec, find_reward, form_of, registered_rewards

_EXAMPLE = re.compile(r"(?:^>>> .*\n?(?:^(?!>>> ).+\n?)*)+", re.MULTILINE)
_MARKUP = re.compile(r"\s*# doctest:.*$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class RewardInfo:
    """One reward. `summary` is the first line of its docstring, or says why it cannot be imported."""

    name: str
    source: str
    signature: str
    summary: str
    form: str = ""
    text: str = ""
    """The whole docstring."""
    params: tuple[str, ...] = ()
    """What a recipe may set: `name = default`."""


def describe_rewards(points: Mapping[str, str] | None = None) -> list[RewardInfo]:
    """Rewards by name; one that cannot be imported is listed with the reason. points: name to `module:function`, by default
    all that installed packages register."""
    points = registered_rewards() if points is None else points
    return [_describe(name, source) for name, source in sorted(points.items())]


def markdown(infos: Iterable[RewardInfo]) -> str:
    """One page: each reward with its place, its form, what a recipe may set, its docstring and example."""
    parts = [
        "# Rewards",
        "Made from the docstrings by `rlcore rewards list --markdown`; the examples are run by the tests. How a reward is "
        "called in each form: `rlcore/scoring/forms.py`.",
    ]
    for info in infos:
        params = (
            f"Recipe parameters: {', '.join(f'`{param}`' for param in info.params)}."
            if info.params
            else ""
        )
        parts += [
            f"## {info.name}",
            f"`{info.source}`, {info.form} form. {params}".rstrip(),
            _fenced(info.text or info.summary),
        ]
    return "\n\n".join(parts) + "\n"


def _describe(name: str, source: str) -> RewardInfo:
    try:
        found = find_reward(RewardSpec(source, name=name))
    except RewardError as error:
        return RewardInfo(name=name, source=source, signature="", summary=str(error))
    text = inspect.getdoc(found) or ""
    return RewardInfo(
        name=name,
        source=source,
        signature=str(inspect.signature(found)),
        summary=text.partition("\n")[0],
        form=form_of(found),
        text=text,
        params=tuple(_params(found)),
    )


def _params(found: Callable[..., Any]) -> list[str]:
    """Of a function, what has a default: what has none is a column, or cannot be told from one."""
    given = () if inspect.isclass(found) else OFFERED[form_of(found)]
    return [
        parameter.name
        if parameter.default is parameter.empty
        else f"{parameter.name} = {_short(parameter.default)}"
        for parameter in inspect.signature(found).parameters.values()
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and parameter.name not in given
        and (inspect.isclass(found) or parameter.default is not parameter.empty)
    ]


def _short(default: Any) -> str:
    text = repr(default).replace("`", "'")
    return text if len(text) <= 40 else text[:20] + "..." + text[-1]


def _fenced(text: str) -> str:
    """A docstring as Markdown: its examples become blocks of code."""
    return _EXAMPLE.sub(
        lambda match: f"```python\n{_MARKUP.sub('', match[0]).rstrip()}\n```\n", text.strip() + "\n"
    ).strip()
