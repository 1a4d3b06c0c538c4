"""Mappings laid over mappings, and keys with dots that reach into what is already there.

A list item is named by its number, or a stage by its name or kind: `stages.rl.steps`.
"""

from __future__ import annotations

from typing import Any

from rlcore.errors import RecipeError, brief
from rlcore.recipe.stage_names import position_of


def merge(base: Any, over: Any) -> Any:
    """`over` laid over `base`: mappings merge, everything else replaces."""
    if not isinstance(over, dict):
        return over
    merged = dict(_as_mapping(base))
    for name, value in over.items():
        merged[name] = merge(merged.get(name), value)
    return merged


def _as_mapping(value: Any) -> dict[str, Any]:
    """The mapping that a short form stands for (`sec`: `{use: sec}`); {} for any other value."""
    if isinstance(value, dict):
        return value
    return {"use": value} if isinstance(value, str) else {}


def assign(raw: dict[str, Any], dotted: str, value: Any, *, where: str) -> None:
    """Set `raw[a][b][c]` for "a.b.c"; mappings that are missing are added.

    So the schema can name an unknown key. A short form on the way becomes the mapping it stands for. An item of a list
    that is set to None is removed (`stages.dpo=null`), and a name with a plus puts the value behind that item
    (`stages.dpo+={kind: eval, ...}`), or the items of a list.
    """
    node: Any = raw
    *parents, last = dotted.split(".")
    for part in parents:
        if isinstance(node, list):
            node = node[position_of(node, part, dotted, where)]
        elif isinstance(node, dict):
            child = node.get(part)
            if not isinstance(child, list):
                node[part] = _as_mapping(child)
            node = node[part]
    if isinstance(node, list):
        _set_item(node, last, value, dotted, where)
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise RecipeError(f"{where}: {dotted!r} reaches into {brief(node)}, which has no keys")


def _set_item(items: list[Any], part: str, value: Any, dotted: str, where: str) -> None:
    """Replace or remove the item that `part` names, or put the value behind it."""
    name = part.removesuffix("+")
    position = position_of(items, name, dotted, where)
    if name == part:
        items[position : position + 1] = [] if value is None else [value]
    else:
        items[position + 1 : position + 1] = value if isinstance(value, list) else [value]
