"""Whether two final answers are the same value. The conventions are stated in `rewards.math`.

Each step asks one question, from text to algebra: the same text, the same choice, the same words,
the same list, the same number with an agreeing unit. What is left is a formula, for math-verify.
"""

from __future__ import annotations

import ast
import operator
import re
from fractions import Fraction

from rewards.math_parse import CLOSE, close_to, equal
from rewards.math_relations import bounds, interval
from rewards.math_spelling import plain_number, tidy
from rewards.math_units import split_unit
from rewards.math_words import (
    is_letter,
    qualified_alike,
    same_text,
    says_no_solution,
    split_choice,
    words,
)

_RELATION = re.compile(
    r"[<>?]|\\(?:le|ge|ne|in|notin|to|rightarrow|Rightarrow|implies|iff|mid|not|equiv)(?![a-z])"
)
_SET = re.compile(r"[\[\](]|\\[{}]|\\cup|\\mathbb|\\emptyset")
_NO_LIST = re.compile(r"\\pm|\\mp|\\begin|\\cup|\\mid|\\in(?![a-z])|\\mathbb|[<>:|]|\\le|\\ge")
_MEMBER = re.compile(r"^\s*([A-Za-z]|\\[a-z]+)\s*\\in\s*(?=[(\[\\])")
_DATE = re.compile(r"(\d{4})-(\d\d?)-(\d\d?)|(\d\d?)/(\d\d?)/(\d{4})")
_NAME = re.compile(
    r"(?:\\(?:angle|triangle|vec|overline|overrightarrow|widehat|hat|mathbb|lim|frac|text|[a-z]+)"
    r"(?![a-z])|[A-Za-z][A-Za-z']*|_\s*\{[^{}]*\}|_\w|\((?:[^()=]|=)*\)|[|{}\s,]|\\\|)+"
)
"""What stands for a value on the left of `=`: `x`, `f(2)`, `|AB|`, `\\angle ABC`, `(x,y)`."""
_ARITHMETIC = re.compile(r"[\d.][-+*/\d.() ]{2,80}")
_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def same_value(reference: str, candidate: str) -> bool:
    """Whether two final answers are equal. Raises math-verify's `TimeoutException`."""
    left, right = tidy(reference), tidy(candidate)
    if not re.search(r"[^\W_]|\\[a-z{]", right):
        return False
    if left == right or same_text(left, right):
        return True
    if "=" in right and "=" not in left and (is_letter(left) or words(left)):
        right = right.rpartition("=")[2].strip()
    if is_letter(left) or (len(left) == 1 == len(right) and left.isalpha() and right.isalpha()):
        return is_letter(left) and split_choice(left)[0] == split_choice(right)[0]
    if says_no_solution(left) or says_no_solution(right):
        return says_no_solution(left) and says_no_solution(right)
    decided = _same_choice(left, right)
    if decided is not None:
        return decided
    if _decimal_comma(left, right) or _decimal_comma(right, left):
        return True
    related = _same_bounds(left, right)
    if related is not None:
        return related
    listed = _same_elements(left, right)
    if listed is not None:
        return listed
    if words(left) or not qualified_alike(left, right):
        return words(left) == words(right) != []
    return _same_spelling(left, right) and _same_formula(left, right)


def _same_choice(reference: str, candidate: str) -> bool | None:
    """By letter where both name a choice, by its text where one does; None where neither does."""
    (letter, text), (other, other_text) = split_choice(reference), split_choice(candidate)
    if letter and text:
        return letter == other if other else same_value(text, candidate)
    return same_value(reference, other_text) if other and other_text else None


def _same_spelling(reference: str, candidate: str) -> bool:
    """What is compared as it is written: dates, ratios and clock times, bases of numbers."""
    dates = _DATE.fullmatch(reference), _DATE.fullmatch(candidate)
    if any(dates):
        return all(dates) and [int(part or 0) for part in dates[0].groups()] == [
            int(part or 0) for part in dates[1].groups()
        ]
    ratios = []
    for text in (reference, candidate):
        dense = re.sub(
            r"[\s{}]",
            "",
            re.sub(r"^\\frac\{(\d+)\}\{(\d+)\}$|^(\d+)/(\d+)$", r"\1\3:\2\4", text),
        )
        ratios.append(
            [tuple(map(int, pair.split(":"))) for pair in re.findall(r"\d+(?::\d+)+", dense)]
        )
    if ":" in reference + candidate and ratios[0] != ratios[1]:
        return False
    # 101_{2}, 0x10: sympy would read an index and a product
    written = r"\d_\{(\d+)\}|\b(0[xbo]\w+)"
    bases = [re.findall(written, text, re.IGNORECASE) for text in (reference, candidate)]
    return bases[0] == bases[1]


def _same_bounds(reference: str, candidate: str) -> bool | None:
    """Whether two inequalities, or an inequality and an interval, are the same; None for all else."""
    left, right = bounds(reference), bounds(candidate)
    if left and right:
        low, high = same_value(left[1], right[1]), same_value(left[3], right[3])
        return low and high and left[::2] == right[::2]
    if left and (_elements(candidate) or ("",))[0]:
        return same_value(interval(left), _MEMBER.sub("", candidate))
    if right and (_elements(reference) or ("",))[0]:
        return same_value(_MEMBER.sub("", reference), interval(right))
    return None


def _decimal_comma(pointed: str, comma: str) -> bool:
    """Whether these are `3.5` and `3,5`, which is a list of two beside anything else."""
    return (
        re.fullmatch(r"[-+]?\d+,\d+", comma) is not None and comma.replace(",", ".") == pointed
    )


def _same_elements(reference: str, candidate: str) -> bool | None:
    """Whether two lists, sets, tuples or intervals hold equal elements, in order where it matters;
    None where neither is one, or sympy has to tell.
    """
    left, right = _elements(reference), _elements(candidate)
    if left is None or right is None:
        one, other = (left, candidate) if right is None else (right, reference)
        if one is None:
            return None
        bare = not one[0] and not _NO_LIST.search(other)
        return False if bare or plain_number(split_unit(other)[0]) is not None else None
    if max(len(left[1]), len(right[1])) > 20:
        return None
    (left_kind, references), (right_kind, others) = left, right
    if left_kind == right_kind or (left_kind == "()" and not right_kind):
        if not left_kind and len(set(references)) == len(references) > 1:
            # to name a value twice adds none
            others = list({re.sub(r"\s", "", other): other for other in others}.values())
        if len(references) != len(others):
            return False
        if left_kind:
            return all(same_value(a, b) for a, b in zip(references, others, strict=True))
        for one in references:
            match = next((i for i, other in enumerate(others) if same_value(one, other)), None)
            if match is None:
                return False
            others = others[:match] + others[match + 1 :]
        return True
    intervals = len(references) == len(others) == 2 and left_kind and right_kind
    return False if intervals else None


def _elements(text: str) -> tuple[str, list[str]] | None:
    """The brackets around a list of two elements or more, and these; brackets of sets are "". None
    where there is no list.
    """
    text = re.sub(r"^[A-Z](?=\([^()]*,[^()]*\)$)", "", _MEMBER.sub("", text))
    if "\\pm" in text or "\\mp" in text or "\\begin" in text:
        return None
    inner = text[2:-2] if text.startswith("\\{") and text.endswith("\\}") else text
    bracketed = inner is text and len(text) > 2 and text[0] in "([" and text[-1] in ")]"
    parts = split_top(text[1:-1], ",") if bracketed else None
    if parts is None:
        # the first bracket closes before the end: (1,2),(3,4)
        bracketed, parts = False, split_top(inner, ",")
    if parts is None or len(parts) < 2 or not all(parts):
        return None
    return (text[0] + text[-1] if bracketed else "", parts)


def split_top(text: str, sign: str) -> list[str] | None:
    """The parts of a text between signs that stand outside of all brackets; None where brackets do
    not match. A comma in a number, `1,234`, parts nothing, nor does the `=` of another sign.
    """
    parts, depth, start = [], 0, 0
    for position, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if depth < 0:
            return None
        if letter != sign[0] or depth or not text.startswith(sign, position):
            continue
        if (
            sign == ","
            and re.match(r",\d{3}(?!\d)", text[position:])
            and text[:position][-1:].isdigit()
        ):
            continue
        parts.append(text[start:position].strip())
        start = position + len(sign)
    return None if depth else [*parts, text[start:].strip()]


def _same_formula(left: str, right: str) -> bool:
    """Whether two single values are equal, with agreeing units and no other statement around them."""
    sides = _without_names(left, right)
    if sides is None:
        return False
    if sides != (left, right):
        return same_value(*sides)
    approximated = _approximated(left, right)
    if approximated is not None:
        return approximated
    # beside a unit a letter is one: `5 m` where the other is `5 cm`
    letters = any(split_unit(side)[1] for side in (left, right))
    left, left_unit = split_unit(left, letters=letters)
    right, right_unit = split_unit(right, letters=letters)
    if left_unit and right_unit and not left_unit.agrees(right_unit):
        return False
    numbers = plain_number(left), plain_number(right)
    if left == right and numbers[0] is None:
        return True
    if numbers[0] is not None and numbers[1] is not None:
        percent = right_unit is not None and right_unit.is_percent
        share = percent and not (left_unit and left_unit.is_percent) and abs(numbers[0]) < 1
        value = numbers[1] / 100 if share else numbers[1]
        return numbers[0] == value or (
            ("/" in left + right or "frac" in left + right or "overline" in left + right)
            and _rounded(numbers[0], value)
        )
    if _differ_in_kind(left, right, numbers[0], numbers[1]):
        return False
    return equal(_MEMBER.sub("", left), _MEMBER.sub("", right))


def _without_names(reference: str, candidate: str) -> tuple[str, str] | None:
    """Both answers without the name they give the value, `AM = 5`; None where an equation that is
    no name stands against a value, or a chain of numbers is false, `7 = 8`, `2+3 = 6`.
    """
    left, right = (_equation(text) for text in (reference, candidate))
    numbers = {value for side in right if (value := plain_number(side)) is not None}
    if len(right) > 1 and len(left) == 1:
        if len(numbers) > 1 or _is_false(right[-2], right[-1]):
            return None
        return reference, right[-1]
    if len(left) > 1 and len(right) == 1:
        return (left[-1], candidate) if _NAME.fullmatch(left[0]) else (reference, candidate)
    if (
        len(left) > 1
        and _bare_name(left[0]) == _bare_name(right[0])
        and _NAME.fullmatch(left[0])
    ):
        return left[-1], right[-1]
    return reference, candidate


def _is_false(worked: str, result: str) -> bool:
    """Whether a sum or product of plain numbers has another value, also when it is rounded."""
    value = plain_number(result)
    if value is None or not _ARITHMETIC.fullmatch(worked):
        return False
    try:
        exact = _worked_out(ast.parse(worked.strip(), mode="eval").body)
    except (SyntaxError, ValueError, KeyError, ZeroDivisionError, RecursionError):
        return False
    return value not in (exact, round(exact, len(result.strip("{} ").partition(".")[2])))


def _worked_out(node: ast.AST) -> Fraction:
    """The value of numbers and + - * /. Raises KeyError for all else."""
    if isinstance(node, ast.BinOp):
        operation = _OPERATORS[type(node.op)]
        return operation(_worked_out(node.left), _worked_out(node.right))
    if isinstance(node, ast.Constant):
        return Fraction(str(node.value))
    raise KeyError(type(node))


def _equation(text: str) -> list[str]:
    """The sides of an equation; the text itself where it is none, or a relation too."""
    parts = split_top(text, "=")
    if parts is None or not all(parts) or _elements(text) and not text.startswith(("(", "\\{")):
        return [text]
    return parts


def _bare_name(name: str) -> str:
    return re.sub(r"\\(?:angle|overline|vec|left|right)|[\s|{}]|\\\|", "", name)


def _approximated(reference: str, candidate: str) -> bool | None:
    """Of `\\sqrt7 \\approx 2.646` either side counts, if the second is the first to its last digit."""
    parts = candidate.split("\\approx")
    if len(parts) != 2 or "\\approx" in reference:
        return None
    exact, decimal = (part.strip() for part in parts)
    value = plain_number(split_unit(decimal)[0])
    digits = re.search(r"\.(\d+)", decimal)
    if not exact or _NAME.fullmatch(exact):
        return same_value(reference, decimal)
    if value is None or not close_to(
        exact, value, Fraction(1, 2 * 10 ** (len(digits[1]) if digits else 0))
    ):
        return False
    return same_value(reference, exact) or same_value(reference, decimal)


def _rounded(a: Fraction, b: Fraction) -> bool:
    """Whether one is the other to six decimals, and to a relative `CLOSE`."""
    return abs(a - b) <= min(Fraction(1, 1_000_000), CLOSE * max(abs(a), abs(b)))


def _differ_in_kind(
    reference: str, candidate: str, left: Fraction | None, right: Fraction | None
) -> bool:
    """What sympy would not tell apart: a number and a letter, a value and a relation beside it."""
    if left is not None and not re.search(r"\d|\\", candidate):
        return True
    if right is not None and not re.search(r"\d|\\", reference):
        return True
    related = [
        bool(_RELATION.search(bare)) or bare.count("|") % 2 == 1
        for bare in (
            re.sub(r"\\lim\s*_\s*\{[^{}]*\}", "", text) for text in (reference, candidate)
        )
    ]
    sets = [bool(_SET.search(text)) for text in (reference, candidate)]
    return related[0] != related[1] and not sets[related.index(False)]
