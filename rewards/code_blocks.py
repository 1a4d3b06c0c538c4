"""Fenced code blocks of a text, as CommonMark has them, and a program put together from them."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_FENCE = re.compile(r"([ \t]*)(`{3,}|~{3,})[ \t]*([^`]*)")
_PYTHON = re.compile(r"(?:|\W*\b(?:python|py|ipython)[\d.]*\b.*)", re.IGNORECASE)
"""Info strings of Python: none at all, `python`, `{.python .numberLines}`, `py copy`."""


@dataclass(frozen=True)
class Block:
    """The content of a fence, and whether the text closes it."""

    code: str
    closed: bool


def python_blocks(text: str) -> list[Block]:
    """The blocks in Python or without a language, in order.

    A fence is three or more backquotes or tildes; the same sign, as often or more, closes it,
    unless it is indented by four columns more: that is a fence in a docstring. What a block is
    indented by is taken off its content, as in a list.
    """
    blocks: list[Block] = []
    lines = text.replace("\r\n", "\n").split("\n")
    position = 0
    while position < len(lines):
        opening = _FENCE.fullmatch(lines[position])
        position += 1
        if opening is None:
            continue
        indent, _, info = opening.groups()
        start = position
        position = _end(lines, start, opening)
        if _PYTHON.fullmatch(info.strip()):
            content = [_outdented(line, len(indent)) for line in lines[start:position]]
            closed = position < len(lines)
            blocks.append(Block("\n".join([*content, ""] if closed else content), closed))
        position += 1
    return blocks


def with_helpers(program: str, blocks: Sequence[str], wanted: Iterable[str]) -> str:
    """The program after the definitions and imports of other blocks that it uses and lacks.

    Only what is missing is taken, never a block's other statements, nor anything that defines what
    the tests call: an earlier draft of the program stays out.
    """
    missing = _missing(program)
    taken: list[str] = []
    for block in blocks:
        definitions = _definitions(block)
        if missing.isdisjoint(definitions) or not definitions.keys().isdisjoint(wanted):
            continue
        needed = "\n".join(dict.fromkeys(definitions.values()))
        taken.append(needed)
        missing = (missing - definitions.keys()) | (_missing(needed) - definitions.keys())
    return "\n".join([*taken, program]) if taken else program


def parsed(program: str) -> ast.Module | None:
    """The program's tree; None where it is no Python."""
    try:
        return ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _end(lines: Sequence[str], start: int, opening: re.Match[str]) -> int:
    """The line that closes a block; one indented too far where there is no other, or the last."""
    indent, fence, _ = opening.groups()
    furthest = _columns(indent + ".") + 3
    far = len(lines)
    for number in range(start, len(lines)):
        if _closes(lines[number], fence):
            if _columns(lines[number]) <= furthest:
                return number
            far = min(far, number)
    return far


def _closes(line: str, fence: str) -> bool:
    bare = line.strip()
    return len(bare) >= len(fence) and set(bare) == {fence[0]}


def _columns(line: str) -> int:
    """How far a line is indented; a tab stands for four columns."""
    expanded = line.expandtabs(4)
    return len(expanded) - len(expanded.lstrip(" "))


def _outdented(line: str, columns: int) -> str:
    """A line without up to so many of the spaces it begins with."""
    spaces = len(line) - len(line.lstrip(" \t"))
    return line[min(columns, spaces) :]


def _missing(program: str) -> set[str]:
    """Names a program reads and neither defines nor finds in Python."""
    tree = parsed(program)
    if tree is None:
        return set()
    read, defined = set(), set(dir(builtins))
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else defined).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.arg):
            defined.add(node.arg)
        elif isinstance(node, ast.alias):
            defined.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            defined.add(node.name)
    return read - defined


def _definitions(block: str) -> dict[str, str]:
    """Name -> source of what a block defines or imports at its top level."""
    tree = parsed(block)
    definitions: dict[str, str] = {}
    for node in tree.body if tree else ():
        names: list[str] = []
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [(alias.asname or alias.name).partition(".")[0] for alias in node.names]
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        definitions |= dict.fromkeys(names, ast.unparse(node))
    return definitions
