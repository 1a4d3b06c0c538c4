"""From a recipe's name and overrides to a checked `Recipe`.

A recipe file may extend another (`extends: quickstart`): mappings merge, lists and values replace. A key with dots
(`stages.rl.steps: 20`), in the file or on the command line, reaches into what is already there (`rlcore.recipe.dotted`).
A file that a recipe names (`problems.jsonl`, `my_parts.py:name`) is looked up from the working directory and then beside the
recipe file that names it.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from rlcore.errors import RecipeError, brief
from rlcore.plugin import did_you_mean, file_and_name
from rlcore.recipe.dotted import assign, merge
from rlcore.recipe.keys import keys_below, section_at
from rlcore.recipe.other_names import NAMES_IN_TRL, RENAMED
from rlcore.recipe.run_mark import RUN_MARK, read_mark
from rlcore.recipe.schema import Recipe
from rlcore.recipe.stage_names import by_name
from rlcore.recipe.yaml_text import plain, read_yaml, write_yaml

SUFFIX = ".yaml"
RUN_RECIPE = "recipe.yaml"
"""The resolved recipe in a run folder."""
_CLASS = re.compile(r"a valid dictionary( or (an )?(instance|object) .*)?$")
"""How pydantic asks for a section."""


def recipe_folders() -> list[Path]:
    """Where recipes are looked up by name: the working folder's `recipes/`, then the installed ones."""
    package = Path(__file__).resolve().parent.parent
    candidates = [Path("recipes"), package / "share" / "recipes", package.parent / "recipes"]
    return [folder for folder in candidates if folder.is_dir()]


def recipe_names() -> dict[str, Path]:
    """Every recipe that can be named, first match wins; papers' recipes have their folder in the name."""
    found: dict[str, Path] = {}
    for folder in recipe_folders():
        for path in sorted(folder.rglob(f"*{SUFFIX}")):
            found.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path)
    return found


def load(
    name: str, overrides: Sequence[str] = (), changes: Mapping[str, Any] = MappingProxyType({})
) -> Recipe:
    """The checked recipe called `name` (a name, or a path to a file). Raises `RecipeError`.

    changes: top-level keys that replace the recipe's; `rewards` replace those of its stages too.
    overrides: `key=value`, laid over that.
    """
    path = find(name)
    raw = _read(path, seen=())
    return _finish(raw, overrides, changes, where=str(name), folder=_folder_of(path))


def load_mapping(
    raw: Mapping[str, Any],
    overrides: Sequence[str] = (),
    changes: Mapping[str, Any] = MappingProxyType({}),
) -> Recipe:
    """The checked recipe of a mapping with the keys of a recipe file. Raises `RecipeError`."""
    where = "given as a mapping"
    return _finish(_plain(raw, where), overrides, changes, where=where)


def is_run_folder(path: Path) -> bool:
    """Whether a run was started in this folder, or copied to it."""
    has_trace = os.path.isfile(path / RUN_MARK) or os.path.isdir(path / "checkpoints")
    return os.path.isfile(path / RUN_RECIPE) and has_trace


def _finish(
    raw: dict[str, Any],
    overrides: Sequence[str],
    changes: Mapping[str, Any],
    *,
    where: str,
    folder: Path | None = None,
) -> Recipe:
    raw |= changes
    if "rewards" in changes:
        for stage in raw.get("stages", []):
            if isinstance(stage, dict):
                stage.pop("rewards", None)
    override(raw, overrides, folder)
    return validate(raw, where=where)


def override(raw: dict[str, Any], overrides: Sequence[str], folder: Path | None = None) -> None:
    """Set the `key=value` overrides in a plain mapping; a file that is not here is named by its place in `folder`. Raises `RecipeError`."""
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals:
            raise RecipeError(
                f"the override {brief(item)} has no '='; write key=value, for example seed=1"
            )
        value = read_yaml(text, f"the value of the override {brief(item)}")
        placed = value if folder is None else _placed(value, folder)
        assign(raw, key, placed, where="the command line")


def validate(raw: dict[str, Any], *, where: str) -> Recipe:
    """Check a plain mapping. Raises `RecipeError` with the first few problems, one line each."""
    raw = _plain(raw, where)
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        problems = [
            by_name(_sentence(detail, raw), raw) for detail in error.errors(include_url=False)
        ]
    shown = problems[:5] + ([f"and {len(problems) - 5} more"] if len(problems) > 5 else [])
    raise RecipeError(f"recipe {where}: " + "; ".join(map(_shortened, shown)))


def _plain(raw: Mapping[str, Any], where: str) -> Any:
    try:
        return plain(raw)
    except ValueError as error:
        raise RecipeError(f"recipe {where}: {error}") from None


def _shortened(problem: str) -> str:
    return problem if len(problem) <= 400 else f"{problem[:300]} ... {problem[-90:]}"


def dump(recipe: Recipe) -> str:
    """The resolved recipe as YAML: loading it again gives the same recipe."""
    return write_yaml(plain(recipe.model_dump()))


def find(name: str) -> Path:
    """The file of a recipe given by path or by name. Raises `RecipeError` with the nearest names."""
    # os.path's functions, unlike Path's, do not raise for a name that no file can have.
    path = Path(name)
    if os.path.isfile(path):
        return path
    if os.path.isfile(path / RUN_RECIPE):
        return path / RUN_RECIPE
    names = recipe_names()
    if name in names:
        return names[name]
    if os.path.isdir(path):
        raise RecipeError(
            f"the folder {brief(name)} holds no {RUN_RECIPE}: name a recipe or a run folder"
        )
    near = difflib.get_close_matches(Path(name).stem, names, n=3, cutoff=0.5)
    nearest = (
        f" (nearest: {', '.join(near)})" if near else "; `rlcore recipes list` shows those"
    )
    raise RecipeError(
        f"there is no recipe {brief(name)}: it is neither a file, a run folder nor one of the known names{nearest}"
    )


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """The file's mapping laid over that of the recipe it extends."""
    if path.resolve() in seen:
        raise RecipeError(
            f"recipe {path} extends itself through {' -> '.join(p.name for p in seen)}"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path} cannot be read: {error}") from None
    raw = read_yaml(text, f"recipe {path}")
    if not isinstance(raw, dict):
        raise RecipeError(
            f"recipe {path} must be a mapping of keys such as name, model and stages, not {type(raw).__name__}"
        )
    parent = raw.pop("extends", None)
    if parent is None:
        base: dict[str, Any] = {}
    elif isinstance(parent, str):
        base = _read(_parent(path, parent), (*seen, path.resolve()))
    else:
        raise RecipeError(f"recipe {path}: extends is {brief(parent)}; it must name a recipe")
    raw = _placed(raw, _folder_of(path))
    plain = {key: value for key, value in raw.items() if "." not in str(key)}
    merged = merge(base, plain)
    for key, value in raw.items():
        if "." in str(key):
            assign(merged, key, value, where=f"recipe {path}")
    return merged


def _folder_of(path: Path) -> Path:
    """Where the files that a recipe names are; the files beside a run's own recipe are what it wrote."""
    started_in = read_mark(path.parent).started_in if is_run_folder(path.parent) else None
    return path.parent if started_in is None else Path(started_in)


def _parent(path: Path, parent: str) -> Path:
    """The file that the recipe at `path` extends: beside it, or as `find` finds it."""
    for beside in (path.parent / f"{parent}{SUFFIX}", path.parent / parent):
        if os.path.isfile(beside):
            return beside
    try:
        return find(parent)
    except RecipeError as error:
        raise RecipeError(
            f"recipe {path} extends {brief(parent)}, which is not in its folder either: {error}"
        ) from None


def _placed(value: Any, folder: Path) -> Any:
    """The value, in which a file that is not here but in another folder is named by its place there."""
    if isinstance(value, dict):
        return {key: _placed(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_placed(item, folder) for item in value]
    if not isinstance(value, str):
        return value
    file, name = file_and_name(value)
    if not Path(file).suffix or os.path.exists(file) or not os.path.isfile(folder / file):
        # unlike Path's, these never raise
        return value
    return f"{folder / file}{name}"


def _sentence(detail: Any, raw: Any) -> str:
    """One pydantic problem as `where: what`, with the nearest known key for an unknown one."""
    path = _recipe_path(detail["loc"], raw)
    where = ".".join(map(str, path)) or "the recipe"
    if detail["type"] == "extra_forbidden":
        key = str(path[-1])
        if key in RENAMED:
            return f"unknown key {where!r}; it is now {RENAMED[key]!r}"
        if key in NAMES_IN_TRL:
            return f"unknown key {where!r}; what TRL calls so is {NAMES_IN_TRL[key]} here"
        known = dict(keys_below(section_at(path[:-1], raw)))
        return f"unknown key {where!r}{_did_you_mean(str(path[-1]), known)}"
    if detail["type"] == "union_tag_invalid":
        known = [tag.strip("' ") for tag in detail["ctx"]["expected_tags"].split(",")]
        return f"{where}: there is no kind {detail['ctx']['tag']!r}{did_you_mean(detail['ctx']['tag'], known)}"
    if detail["type"] == "missing":
        return f"the key {where!r} is required"
    message = detail["msg"].removeprefix("Value error, ").replace("Input should", "must")
    message = _CLASS.sub("a mapping, {key: value}", message)
    got = (
        ""
        if detail["type"] == "value_error" or isinstance(detail["input"], dict)
        else f" (got {brief(detail['input'])})"
    )
    return f"{where}: {message}{got}"


def _recipe_path(loc: Sequence[int | str], raw: Any) -> list[int | str]:
    """A pydantic location without the union tags that pydantic puts between its parts."""
    path: list[int | str] = []
    node = raw
    for part in loc:
        is_tag = isinstance(node, dict) and part not in node and node.get("kind") == part
        if is_tag:
            continue
        path.append(part)
        if isinstance(node, dict):
            node = node.get(part)
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            node = node[part]
        else:
            node = None
    return path


def _did_you_mean(key: str, known: dict[str, str]) -> str:
    named_so = [dotted for dotted, leaf in known.items() if leaf == key]
    exact = sorted(named_so, key=lambda dotted: dotted.count("."))
    near = exact or difflib.get_close_matches(
        key, [k for k in known if "." not in k], n=1, cutoff=0.6
    )
    if not near:
        leaves = difflib.get_close_matches(key, known.values(), n=1, cutoff=0.7)
        near = [dotted for dotted, leaf in known.items() if leaf in leaves]
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; the keys here are {', '.join(k for k in known if '.' not in k)}"
