"""Scores a Countdown answer: the given numbers, each used once, must make the target.

reasoning-gym's own check evaluates what the model wrote as Python through sympy; here nothing but
numbers and + - * / is read.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from rewards.thoughts import after_thoughts
from rlcore import Verdict, reward

OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
LONGEST = 400
"""Characters of an answer that are read."""
_STEP = re.compile(r"(\d+)([-+*/])(\d+)=(\d+)")
_SPELLINGS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "$": ""})
_NODES = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


@reward
def countdown(
    completion: str,
    *,
    numbers: Sequence[int],
    target: int,
    use_all: bool = True,
    finished: bool = True,
    **columns: Any,
) -> float | Verdict:
    """1 if the completion makes `target` from `numbers`, each used once, else 0.

    With `use_all: false` a number may be left out. The answer is the text in the last <answer> tag,
    or else what stands behind the last `</think>`: an expression such as (8-5)*3 or (8-5)*3=9, or steps such as
    8-5=3;3*3=9, each of which uses two of the numbers that are left. Anything else is wrong-format and 0, and so is a
    completion that was cut off before its end. `numbers` and `target` are columns of the task.
    Source: the Countdown task of SEC (arXiv 2505.14970).

    >>> texts = ["8-5=3;3*3=9", "(8-5)*3", "8+5-3", "3*3"]
    >>> [countdown(text, numbers=[3, 5, 8], target=9) for text in texts]
    [1.0, 1.0, 0.0, 0.0]
    """
    if not finished:
        return Verdict(value=0.0, status="wrong-format", reason="cut off before its end")
    try:
        goal, available = int(target), [int(number) for number in numbers]
    except (TypeError, ValueError):
        reason = f"numbers and target are no whole numbers: {numbers!r}, {target!r}"
        return Verdict(value=None, status="unscorable", reason=reason[:200])
    text = _read(after_thoughts(completion))
    left, made = _steps(text, available) if ";" in text else _expression(text, available)
    if left is None:
        return Verdict(value=0.0, status="wrong-format", reason=f"{made}: {text[:60]!r}")
    return float(made == goal and not (use_all and left))


def _read(answer: str) -> str:
    """The expression or the steps in an answer, in ASCII and without spaces."""
    if "<answer>" in answer:
        answer = answer.rpartition("<answer>")[2].partition("</answer>")[0]
    text = re.sub(r"\\(?:times|cdot)(?![a-z])", "*", re.sub(r"\\div(?![a-z])", "/", answer))
    text = re.sub(r"\\(?:left|right|[()\[\]])|\s+", "", text.translate(_SPELLINGS))
    return text[:LONGEST].rstrip(".")


def _steps(text: str, left: list[int]) -> tuple[list[int] | None, Any]:
    """Numbers left and the last result; (None, why) for what are no steps. A wrong step makes nothing."""
    result: Any = None
    for step in text.split(";"):
        match = _STEP.fullmatch(step)
        if match is None:
            return None, "these are neither steps nor an expression"
        a, b, made = int(match[1]), int(match[3]), int(match[4])
        for number in (a, b):
            if number not in left:
                return left, None
            left.remove(number)
        if (match[2] == "/" and b == 0) or OPERATORS[match[2]](
            Fraction(a), Fraction(b)
        ) != made:
            return left, None
        left.append(made)
        result = made
    left.remove(result)
    return left, result


def _expression(text: str, left: list[int]) -> tuple[list[int] | None, Any]:
    """Numbers left and the value; (None, why) for what is no expression. A number that is not there makes nothing,
    nor does a wrong result behind `=`.
    """
    text, told, result = text.partition("=")
    is_result = re.search(r"[-+*/]", text) and re.fullmatch(r"-?\d+", result)
    if re.search(r"[^\d+\-*/()]", text) or (told and not is_result):
        return None, "these are neither steps nor an expression"
    try:
        value = _value(ast.parse(text, mode="eval").body, left)
        return left, value if not told or value == int(result) else None
    except (KeyError, ZeroDivisionError):
        return left, None
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None, "these are neither steps nor an expression"


def _value(node: ast.AST, left: list[int]) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        if node.value not in left:
            raise KeyError(node.value)
        left.remove(node.value)
        return Fraction(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in _NODES:
        return OPERATORS[_NODES[type(node.op)]](
            _value(node.left, left), _value(node.right, left)
        )
    raise TypeError("no expression")
