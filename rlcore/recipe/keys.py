"""Questions about the schema: which section describes a place, which keys are below it, what are all keys."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pydantic.fields import FieldInfo

from rlcore.errors import RecipeError
from rlcore.plugin import did_you_mean
from rlcore.recipe.schema import Recipe, Section


class Key(NamedTuple):
    """One key of a recipe; `stages[rl].group_size` is one of stages of kind rl."""

    key: str
    type: str
    default: str
    meaning: str


def all_keys() -> list[Key]:
    """Every key once, in the order of the schema."""
    found: dict[str, Key] = {}
    for key in _table(Recipe, ""):
        found.setdefault(key.key, key)
    return list(found.values())


def find_keys(word: str) -> list[Key]:
    """The keys of a section (`credit`, `rl.optim`, `stages[rl].optim`), else those with the word in their name or meaning.

    Raises `RecipeError` if there are none.
    """
    keys = all_keys()
    wanted = _plain(word)
    found = [key for key in keys if f".{wanted}." in f".{_plain(key.key)}."]
    found = found or [
        key for key in keys if wanted in _plain(key.key) or word.lower() in key.meaning.lower()
    ]
    if not found:
        names = {part for key in keys for part in _plain(key.key).split(".")}
        raise RecipeError(
            f"no key of a recipe has {word!r} in its name or meaning{did_you_mean(wanted.split('.')[-1], names)}"
        )
    return found


def section_at(path: Sequence[int | str], tags: Mapping[int, str]) -> type[Section]:
    """The section that describes the mapping at `path`; `tags[depth]` is the kind chosen there, where there is a choice."""
    place: Any = Recipe
    for depth, part in enumerate(path, start=1):
        place = (
            place.model_fields[part].annotation
            if _is_section(place)
            else typing.get_args(place)[-1]
        )
        choices = [option for option in _options(place) if _is_section(option)]
        if len(choices) > 1:
            choices = [option for option in choices if _kind(option) == tags.get(depth)]
        place = choices[0] if choices else place
    return place


def keys_below(section: type[Section], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, last part) of a section's keys and those of the sections directly inside it, lists and mappings aside."""
    for name, field in section.model_fields.items():
        yield prefix + name, name
        for option in _options(field.annotation):
            if _is_section(option):
                yield from keys_below(option, f"{prefix}{name}.")


def _table(section: type[Section], prefix: str, made: Section | None = None) -> Iterator[Key]:
    """Keys of a section; `made` is the instance its parent has by default, whose values may differ from the class's."""
    for name, field in section.model_fields.items():
        inner = list(_sections(field.annotation))
        if name == "kind" and prefix.endswith("]."):
            continue  # it stands in the brackets
        value = _default(field) if made is None else getattr(made, name)
        yield Key(
            prefix + name,
            "" if inner else _type(field.annotation),
            _shown(value),
            field.description or "",
        )
        for option in inner:
            label = f"[{_kind(option)}]" if len(inner) > 1 else ""
            yield from _table(
                option, f"{prefix}{name}{label}.", value if isinstance(value, option) else None
            )


def _plain(key: str) -> str:
    """`stages[rl].optim` as `stages.rl.optim`, which is how an override names it."""
    return key.replace("[", ".").replace("]", "").strip(".").lower()


def _options(annotation: Any) -> Iterator[Any]:
    """The members of a (possibly annotated, possibly optional) union; the annotation itself where it is none."""
    if typing.get_origin(annotation) is typing.Annotated:
        yield from _options(typing.get_args(annotation)[0])
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for option in typing.get_args(annotation):
            yield from _options(option)
    else:
        yield annotation


def _sections(annotation: Any) -> Iterator[type[Section]]:
    """The sections a field holds: itself, or as items of a list or values of a mapping."""
    for option in _options(annotation):
        if _is_section(option):
            yield option
        elif typing.get_origin(option) in (list, dict):
            yield from _sections(typing.get_args(option)[-1])


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _kind(section: type[Section]) -> str:
    return typing.get_args(section.model_fields["kind"].annotation)[0]


def _type(annotation: Any) -> str:
    names = []
    for option in _options(annotation):
        if typing.get_origin(option) is Literal:
            names.append(" | ".join(typing.get_args(option)))
        elif option is not types.NoneType:
            names.append(getattr(typing.get_origin(option) or option, "__name__", str(option)))
    return " | ".join(names)


def _default(field: FieldInfo) -> Any:
    return "required" if field.is_required() else field.get_default(call_default_factory=True)


def _shown(value: Any) -> str:
    return "" if value is None or isinstance(value, Section) else str(value)
