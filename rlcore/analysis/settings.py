"""Whether two sets of settings are those of the same study."""

from __future__ import annotations

import json
from typing import Any


def as_json(value: Any) -> Any:
    """As it would be read from a file: tuples are lists, keys are texts."""
    return json.loads(json.dumps(value))


def first_difference(before: Any, now: Any, stated: Any, where: str = "") -> str:
    """The first key with another value, with both values; empty if there is none.

    stated: `now` without what is default. A key that `before` lacks and that is default now is one
    that recipes have got since: no difference.
    """
    if isinstance(before, dict) and isinstance(now, dict):
        own = stated if isinstance(stated, dict) else {}
        for key in sorted(before.keys() | now.keys()):
            if key not in before and key not in own:
                continue
            path = f"{where}.{key}" if where else key
            found = first_difference(before.get(key), now.get(key), own.get(key), path)
            if found:
                return found
        return ""
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        is_list = isinstance(stated, list) and len(stated) == len(now)
        own_items = stated if is_list else [None] * len(now)
        for i, (old, new, own) in enumerate(zip(before, now, own_items, strict=True)):
            found = first_difference(old, new, own, f"{where}.{i}")
            if found:
                return found
        return ""
    return "" if before == now else f"{where}: {before!r} -> {now!r}"
