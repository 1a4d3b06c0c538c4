"""Questions about the schema: which section describes a place, which keys are below it, what are all keys."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pydantic.fields import FieldInfo

from rlcore.errors import RecipeError
from rlcore.plugin import did_you_mean
from rlcore.recipe.schema import STAGES, AnyStage, Recipe, stage_class
from rlcore.recipe.section import Section


class Key(NamedTuple):
    """One key of a recipe; `stages[rl].group_size` is one of stages of kind rl."""

    key: str
    type: str
    default: str
    meaning: str


def all_keys() -> list[Key]:
    """Every key once, in the order of the schema; shared sections at the top of the recipe."""
    return list(_table(Recipe, "", set()))


def find_keys(word: str) -> list[Key]:
    """The keys of a section (`credit`, `rl.optim`, `stages[rl].optim`), else those with the word in their name or meaning.

    Raises `RecipeError` if there are none.
    """
    from rlcore.recipe.parts import kinds

    kind, _, name = word.partition(".")
    if name and kind in kinds():
        return _part_keys(kind, name)
    if ":" in word:
        return list(_table(stage_class(word), "", None))
    keys = list(_table(Recipe, "", None))
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


def _part_keys(kind: str, name: str) -> list[Key]:
    """What the signature and docstring of a part say: `curriculum.sec`."""
    from rlcore.recipe.parts import part_help

    text, parameters = part_help(kind, name)
    part = f"{kind}.{name}"
    head = Key(part, "", "", text)
    keys = [
        Key(f"{part}.{item.name}", item.type, item.default, item.meaning) for item in parameters
    ]
    return [head, *keys]


def part_names() -> list[Key]:
    """The parts that can be named in a recipe, one row for each kind."""
    from rlcore.recipe.parts import kinds

    rows = []
    for kind, description in kinds().items():
        names = ", ".join(description.names)
        rows.append(Key(kind, "{use: ...}", "", f"parts: {names}"))
    return rows


def section_at(path: Sequence[int | str], raw: Any) -> type[Section]:
    """The section that describes the mapping at `path` of the raw recipe."""
    annotation: Any = Recipe
    value = raw
    for part in path:
        if _is_section(annotation):
            annotation = annotation.model_fields[part].annotation
        else:
            annotation = typing.get_args(annotation)[-1]
        value = value[part]
        kind = value.get("kind", value.get("use")) if isinstance(value, Mapping) else None
        annotation = _chosen(annotation, kind)
    return annotation


def _chosen(annotation: Any, kind: Any) -> Any:
    """Of several sections the one of that kind; else the only one, or the annotation."""
    choices = _choices(annotation)
    if annotation == AnyStage:
        return stage_class(kind)
    if len(choices) > 1:
        return choices.get(kind, choices.get(""))
    return next(iter(choices.values()), annotation)


def _choices(annotation: Any) -> dict[str, type[Section]]:
    """The sections that a value with this annotation may have, by kind."""
    if annotation == AnyStage:
        return {kind: stage_class(kind) for kind in STAGES}
    sections = [option for option in _options(annotation) if _is_section(option)]
    return dict.fromkeys([""], sections[0]) if sections else {}


def keys_below(section: type[Section], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, last part) of a section's keys and those of the sections directly inside it, lists and mappings aside."""
    for name, field in section.model_fields.items():
        yield prefix + name, name
        for option in _options(field.annotation):
            if _is_section(option):
                yield from keys_below(option, f"{prefix}{name}.")


def _table(
    section: type[Section], prefix: str, listed: set[Any] | None, default: Section | None = None
) -> Iterator[Key]:
    """Keys of a section and of the sections in it.

    listed: fields that are listed already and left out; None lists them at every place.
    default: the instance that the parent has by default, whose values may differ from the class's.
    """
    for name, field in section.model_fields.items():
        if name in ("kind", "use") and prefix.endswith("]."):
            continue  # it stands in the brackets
        declared = (_declaring_class(section, name), name)
        if listed is not None and declared in listed:
            continue
        if listed is not None:
            listed.add(declared)
        inner = _inner(field.annotation)
        value = _default(field) if default is None else getattr(default, name)
        kind = "" if inner else _type(field.annotation)
        yield Key(prefix + name, kind, _shown(value), field.description or "")
        for label, option in inner.items():
            inner_prefix = f"{prefix}{name}[{label}]." if label else f"{prefix}{name}."
            inner_default = value if isinstance(value, option) else None
            yield from _table(option, inner_prefix, listed, inner_default)


def _declaring_class(section: type[Section], name: str) -> type:
    return next(
        cls for cls in section.__mro__ if name in cls.__dict__.get("__annotations__", {})
    )


def _inner(annotation: Any) -> dict[str, type[Section]]:
    """The sections a field holds: itself, or as items of a list or values of a mapping."""
    sections = _choices(annotation)
    for option in _options(annotation):
        if typing.get_origin(option) in (list, dict):
            sections |= _inner(typing.get_args(option)[-1])
    return sections


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


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


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
