"""Numbers in prose: what the words around one say of it decides whether it is the answer."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rewards.math import math_answer
from tests.rewards.test_math_spellings import FEW, MANY, right

WAYS = [
    "The answer is {}",
    "The answer is {}.",
    "#### {}",
    "So we add. The final answer is {} here.",
    "**Answer:** {}",
]
way = st.sampled_from(WAYS)
number = st.integers(2, 400)

READ = {
    "minus {n}": "-{n}",
    "negative {n}": "-{n}",
    "minus ${n}$": "-{n}",
    "negative {n} degrees": "-{n}",
    "{n} and a half": "{n}.5",
    "{n} and a quarter": "{n}.25",
    "{n} and three quarters": "{n}.75",
    "{n} dozen": "12*{n}",
    "{n} fifths": "{n}/5",
    "{n} tenths": "{n}/10",
    "{n} hundred": "{n}00",
}


@MANY
@given(number, st.sampled_from(sorted(READ)), way)
def test_words_with_one_meaning_are_read(n, words, text):
    said = text.format(words.format(n=n))
    assert right(said, READ[words].format(n=n)) and not right(said, str(n))


@FEW
@given(
    number,
    st.sampled_from(sorted(READ)),
    st.sampled_from([r"\text{{ {} }}", r"\mathrm{{ {} }}"]),
)
def test_words_with_one_meaning_are_read_in_a_box(n, words, wrapper):
    before, _, after = words.replace("$", "").partition("{n}")
    inside = "".join(
        [
            wrapper.format(before) if before else "",
            str(n),
            wrapper.format(after) if after else "",
        ]
    )
    assert right(rf"\boxed{{{inside}}}", READ[words].format(n=n))
    assert not right(rf"\boxed{{{inside}}}", str(n))


OPERATIONS = [
    "{n} squared", "{n} cubed", "{n} factorial", "{n} to the power 6", "{n} to the 6th power", "{n} choose {m}",
    "{n} over {m}", "{n} out of {m}", "{n} divided by {m}", "{n} times {m}", "{n} plus {m}", "{n} minus {m}",
    "{n} multiplied by {m}", "half of {n}", "twice {n}", "half the number of {n}", "the cube root of {n}",
    "the square root of {n}", "a multiple of {n}", "{n} more than {m}", "{n} less than {m}", "{n} mod {m}",
    "{n} quarters", "{n}th root", "{n} per cent of {m}", "{n} pi", "sqrt({n})", "{m}sqrt({n})", "{n}*sqrt({m})",
    "max({n},{m})", "abs(-{n})", "log({n})", "f({n})", "{n}^{m} apples", "{n} * {m} apples", "{n}/{m}x apples",
]  # fmt: skip
STATEMENTS = [
    "at least {n}", "at most {n}", "more than {n}", "less than {n}", "greater than or equal to {n}", "up to {n}",
    "{n} or more", "{n} or even more", "{n} and up", "{n} to {m}", "from {n} to {m}", "between {n} and {m}",
    "not {n}", "no longer {n}", "never {n}", "far from {n}", "nowhere near {n}", "anything but {n}", "other than {n}",
    "{n} unless it is {m}", "{n} as well as {m}", "{n} apples and {m} oranges", "{n} or {m}", "{n} or maybe {m}",
    "{n}, no wait, {m}", "{n}. Actually, it is {m}.", "unknown. {n}", "{n}?", "over {n}", "a {n} digit number",
]  # fmt: skip


@MANY
@given(number, number, st.sampled_from(OPERATIONS + STATEMENTS), way, st.booleans())
def test_operations_bounds_and_denials_are_no_number(n, m, words, text, dollars):
    assume(n != m)
    plain = not any(sign in words for sign in "(^*/")
    shown = [f"${value}$" if dollars and plain else str(value) for value in (n, m)]
    said = text.format(words.format(n=shown[0], m=shown[1]))
    assert not right(said, str(n)) and not right(said, str(m))
    assert (
        math_answer(said, str(n), mode="flex") != 1.0 != math_answer(said, str(m), mode="flex")
    )


DOUBTS = [
    "I don't know if the answer is {}.",
    "Is the answer {}? No",
    "It is not true that the answer is {}",
    "I doubt that the answer is {}.",
    "Unless the answer is {} we are lost",
]


@FEW
@given(number, st.sampled_from(DOUBTS))
def test_a_doubted_answer_is_not_given(n, text):
    assert not right(text.format(n), str(n))
    assert right(f"The answer is {n}. Let me check whether the answer is {n}: yes", str(n))
    assert right(f"If the answer is {n + 1}, it fails. So the answer is {n}.", str(n))


KEPT = [
    "{n} clips, sold in 3 months.", "that she has {n} apples", "{n} more apples", "{n} dollars per hour", "therefore {n}",
    "{n} cm, I think", "{n}, since 3*4=12", "{n} since 48 plus 24 is 72", "{n}, not 1", "{n} - as we wanted", "exactly {n}",
    "${n}$", "${n}$ apples", "the number {n}", "found to be {n}", "{n} times", "{n} times as many", "{n} years old",
    "{n} and that is all", "{n} because it is half of 24", "{n} apples. She has 6 oranges too", "{n} less", "the {n}th floor",
    "{n} red apples", "about {n}",
]  # fmt: skip


@MANY
@given(number, st.sampled_from(KEPT), st.sampled_from(WAYS[:3]))
def test_remarks_change_nothing(n, words, text):
    said = text.format(words.format(n=n))
    assert right(said, str(n)) and not right(said, str(n + 1)) and not right(said, str(-n))


@FEW
@given(number, number)
def test_a_chain_in_a_box_must_be_true(n, m):
    assert right(rf"\boxed{{{n}+{m}={n + m}}}", str(n + m))
    assert not right(rf"\boxed{{{n}+{m}={n + m + 1}}}", str(n + m + 1))
    assert right(rf"\boxed{{\frac{{{n * m}}}{{{m}}}={n}}}", str(n))
    assert right(rf"\boxed{{{n}*1+1/3={n}.33}}", f"{n}.33")


BETWEEN = [
    " & ",
    r" \& ",
    " also ",
    " B: ",
    ". Option B: ",
    ". Answer 2: ",
    " + ",
    " vs ",
    "\n(2) ",
]


@FEW
@given(number, st.sampled_from(BETWEEN))
def test_boxes_beside_each_other_are_a_list(n, between):
    text = rf"\boxed{{{n}}}{between}\boxed{{{n + 1}}}"
    assert not right(text, str(n)) and not right(text, str(n + 1))
    assert right(text, f"{n + 1}, {n}")


@pytest.mark.parametrize(
    ("answer", "text", "value"),
    [
        ("0", "The answer is 0x10", 0.0),
        ("0", "The answer is 0b101", 0.0),
        ("0x10", "The answer is 0x10", 1.0),
        ("5", r"\boxed{5\ldots}", 0.0),
        ("1,2,3,\\ldots", r"\boxed{1,2,3,\ldots}", 1.0),
        ("(1,2)", r"\boxed{]1,2[}", 1.0),
        ("[1,2)", r"\boxed{[1,2[}", 1.0),
        ("(1,2]", r"\boxed{]1,2[}", 0.0),
        ("5", r"\boxed{5^{\text{th}}}", 1.0),
        ("101_2", "The answer is 101 in base 2", 1.0),
        ("101_2", "The answer is 101 in base 3", 0.0),
        ("5 feet 6 inches", r"\boxed{5\text{ ft }6\text{ in}}", 1.0),
        ("5 feet 6 inches", r"\boxed{5\text{ ft }7\text{ in}}", 0.0),
        ("5 ohm", r"\boxed{5\,\Omega}", 1.0),
        ("5 ohm", "5 kΩ", 0.0),
        ("3:4", "The answer is 3 to 4", 1.0),
        ("at least 3", "The answer is at least 3", 1.0),
        ("5", {"a": 5}, None),
        ("nan", float("nan"), None),
    ],
)
def test_single_spellings(answer, text, value):
    if value is None:
        assert math_answer(answer, text) is None
    else:
        assert math_answer(text, answer) == value


LONG = {
    "a sum": "+".join(["x"] * 1000),
    "digits": "5" * 2000,
    "a nest": "(" * 9000 + "1" + ")" * 9000,
    "braces": "{" * 9000 + "1" + "}" * 9000,
}


@pytest.mark.parametrize("name", LONG)
def test_the_same_text_is_right_at_any_length(name):
    text = LONG[name]
    for said in (rf"So \boxed{{{text}}}.", f"#### {text}", text):
        assert math_answer(said, text) == 1.0
        assert math_answer(said.replace(text, text + "+1"), text) != 1.0
    assert math_answer(r"\boxed{5}", text) == 0.0


@FEW
@given(
    number,
    number,
    st.sampled_from(["No, it is not: the", "I'm not sure, but the", "If x is 2, the"]),
)
def test_a_denial_before_a_comma_or_colon_is_over(n, m, opening):
    assert right(f"The answer is {n + m}. {opening} answer is {n}.", str(n))
