"""The tool `calculator`: exact arithmetic on a text, without running any of it as a program."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from fractions import Fraction

LONGEST = 500
"""Characters of an expression."""
LARGEST_BITS = 10_000
"""Of a numerator or denominator on the way; about 3,000 digits."""
DIGITS = 12
"""Significant digits of a result whose decimals do not end."""
_SPELLINGS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "^": "**"})
_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: lambda a, b: Fraction(a // b),
    ast.Mod: operator.mod,
}


def calculator(expression: str) -> str:
    """Work out an arithmetic expression exactly.

    Args:
        expression: Numbers with + - * / // % ** and parentheses, for example "(483 * 92 - 5) / 4".
    """
    return shown(evaluate(expression))


def evaluate(expression: str) -> Fraction:
    """The value of an expression. Raises `ValueError` with what is wrong, and `ZeroDivisionError`.

    >>> evaluate("2 ** 10 - 0.5")
    Fraction(2047, 2)
    """
    text = expression.translate(_SPELLINGS).strip()
    if len(text) > LONGEST:
        raise ValueError(f"the expression has over {LONGEST} characters")
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ValueError(f"{expression!r} is no arithmetic expression") from None
    return _value(tree.body, text)


def shown(value: Fraction) -> str:
    """A number as a decimal: exact where it ends within 100 places, else rounded to 12 digits.

    >>> shown(Fraction(2047, 2)), shown(Fraction(1, 3))
    ('1023.5', '0.333333333333')
    """
    if value.denominator == 1:
        return str(value.numerator)
    for places in range(1, 101):
        scaled = value * 10**places
        if scaled.denominator == 1:
            sign = "-" if scaled < 0 else ""
            digits = str(abs(scaled.numerator)).rjust(places + 1, "0")
            return f"{sign}{digits[:-places]}.{digits[-places:]}"
    try:
        return f"{float(value):.{DIGITS}g}"
    except OverflowError:
        return str(round(value))


def _value(node: ast.expr, text: str) -> Fraction:
    match node:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() as number):
            return _bounded(Fraction(number))
        case ast.Constant(value=float()):
            return _bounded(_decimal(ast.get_source_segment(text, node) or ""))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, text)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand, text)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_value(left, text), _value(right, text))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
            return _bounded(_OPERATIONS[type(op)](_value(left, text), _value(right, text)))
    part = ast.get_source_segment(text, node)
    raise ValueError(f"{part!r} is not allowed: only numbers, + - * / // % ** and parentheses")


def _decimal(text: str) -> Fraction:
    """From the text, not from the float: 0.1 is one tenth here."""
    _, _, exponent = text.lower().partition("e")
    if exponent and abs(int(exponent)) > LARGEST_BITS:
        raise ValueError("the result is too large")
    return Fraction(text)


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise ValueError("only whole exponents are allowed")
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if bits * abs(exponent) > LARGEST_BITS:
        raise ValueError("the result is too large")
    return base ** int(exponent)


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > LARGEST_BITS:
        raise ValueError("the result is too large")
    return value
