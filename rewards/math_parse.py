"""Whether two formulas are equal, by math-verify and sympy, within a bound on CPU time."""

from __future__ import annotations

import logging
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify
from math_verify.errors import TimeoutException
from sympy import Basic, FiniteSet, I, Integer, MatrixBase, Symbol, Tuple, simplify

CPU_S = 3.0
"""Seconds of CPU time for one verdict: a busy machine changes none."""
REPEAT_S = 0.2
"""Seconds of CPU time after which an interruption that had no effect is tried again."""
CLOSE = Fraction(1, 100_000)
"""Largest relative difference of a decimal and the value it stands for."""
_CONFIG = (LatexExtractionConfig(boxed_match_priority=0),)
# math-verify warns that its own limit, an alarm on the wall clock, is off
logging.getLogger("math_verify").setLevel(logging.ERROR)


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Raises math-verify's `TimeoutException`, a BaseException, after so much CPU time of this
    process. Only the main thread can be interrupted; elsewhere there is no limit.

    The timer goes on: Python swallows what is raised while it runs a finalizer or a callback of
    the garbage collector, and a signal sent once would be lost with it. What it swallows is not
    reported: a report can take longer than `REPEAT_S`, and would be interrupted itself.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    over = False

    def stop(*_: Any) -> None:
        if not over:
            raise TimeoutException(f"over {seconds:g} s of CPU time")

    report = sys.unraisablehook

    def report_others(swallowed: sys.UnraisableHookArgs) -> None:
        if swallowed.exc_type is not TimeoutException:
            report(swallowed)

    sys.unraisablehook = report_others
    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, REPEAT_S)
    try:
        yield
    finally:
        over = True
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
        sys.unraisablehook = report


def equal(reference: str, candidate: str) -> bool:
    """Whether two tidy formulas are equal; those that cannot be read are not."""
    if _out_of_reach(candidate):
        return False
    left, right = _parsed(reference), _parsed(candidate)
    try:
        if not left or not right:
            return False
        sides = _with_imaginary_unit(left[0], right[0])
        if not _sizes_agree(*sides):
            return False
        return bool(
            verify(
                [sides[0], *left[1:]],
                [sides[1], *right[1:]],
                timeout_seconds=None,
                raise_on_error=True,
                allow_set_relation_comp=True,
            )
        )
    except Exception:  # values that sympy cannot compare are not equal
        return False


def close_to(formula: str, value: Fraction, difference: Fraction) -> bool:
    """Whether a formula is a real number at most so far from `value`."""
    if _out_of_reach(formula):
        return False
    try:
        number = Fraction(str(_parsed(formula)[0].evalf(30)))
    except Exception:  # not a number
        return False
    return abs(number - value) <= difference


@lru_cache(maxsize=65536)
def _parsed(text: str) -> tuple[Any, ...]:
    try:
        return tuple(
            parse(f"\\boxed{{{text}}}", _CONFIG, parsing_timeout=None, raise_on_error=True)
        )
    except Exception:
        return ()


def _with_imaginary_unit(*values: Any) -> tuple[Any, ...]:
    """The values with `i` as the imaginary unit, where either has it: math-verify reads a symbol,
    real in one spelling and not in another.
    """
    symbols = {
        symbol
        for value in values
        if isinstance(value, Basic | MatrixBase)
        for symbol in value.free_symbols
    }
    if not any(symbol.name == "i" for symbol in symbols):
        return values
    meant = {symbol: I if symbol.name == "i" else Symbol(symbol.name) for symbol in symbols}
    return tuple(
        value.subs(meant).doit() if isinstance(value, Basic | MatrixBase) else value
        for value in values
    )


def _out_of_reach(text: str) -> bool:
    """Numbers too large to compute, which no reference answer is: towers of three powers, exponents
    of five digits, 9999!, 3!!!.
    """
    dense = re.sub(r"\s", "", text)
    tower = re.search(r"\d\}?\^\{?\(?\d[^+\-*/=,{}^]*\^\{?\(?\d[^+\-*/=,{}^]*\^", dense)
    large = re.search(r"\^\{?-?\d{5,}|\d{4,}\)?!|!!!|\d\)?!\)?!", dense)
    return bool(tower or large or dense.count("^") > 40 or _depth(dense) > 30)


def _depth(text: str) -> int:
    depth = deepest = 0
    for letter in text:
        depth += (letter in "{([") - (letter in "})]")
        deepest = max(deepest, depth)
    return deepest


def _sizes_agree(left: Any, right: Any) -> bool:
    """math-verify rounds to six decimals and to 1e-15: numbers must also agree relative to their
    own size.
    """
    if (
        isinstance(left, FiniteSet | Tuple)
        and isinstance(right, FiniteSet | Tuple)
        and len(left.args) == len(right.args)
    ):
        pairs = zip(sorted(left.args, key=_order), sorted(right.args, key=_order), strict=True)
        return all(_sizes_agree(a, b) for a, b in pairs)
    if not all(
        isinstance(value, Basic) and getattr(value, "is_number", False)
        for value in (left, right)
    ):
        return True
    a, b = left.evalf(30), right.evalf(30)
    if not (a.is_real and b.is_real) or abs(a - b) <= float(CLOSE) * max(abs(a), abs(b)):
        return True
    return max(abs(a), abs(b)) < 1e-9 and simplify(left - right) == Integer(0)


def _order(value: Any) -> tuple[float, str]:
    try:
        return float(value), str(value)
    except (TypeError, ValueError):
        return 0.0, str(value)
