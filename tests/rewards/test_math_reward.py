from __future__ import annotations

import gc
import re
import time
import weakref

import pytest
from math_verify.errors import TimeoutException

from rewards.math import math_answer
from rewards.math_final import final_answer
from rewards.math_parse import cpu_limit
from rewards.math_spelling import plain_number
from rewards.math_units import read_unit, split_unit
from rewards.math_words import choice

GOLD = "Natalia sold 48/2 = <<48/2=24>>24 clips.\n48+24 = <<48+24=72>>72 clips altogether.\n#### 72"


def value(text: str, answer: object, **columns: object) -> float | None:
    """The value of one answer; one without a value fails the comparison with 0 or 1."""
    verdict = math_answer(text, answer, **columns)
    return verdict if verdict is None or isinstance(verdict, float) else verdict.value


def pairs(table: str) -> list[tuple[str, str]]:
    """Rows of `answer == completion`; the text alone where there is no `==` stands for itself."""
    rows = [line.strip() for line in table.strip().splitlines()]
    return [
        (answer.strip(), text.strip())
        for answer, _, text in (row.partition(" == ") for row in rows if row)
    ]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("72", "so \\boxed{72} it is, not 73"),
        ("72", "12 is wrong.\n#### 72\n"),
        ("72", "The answer is 72 clips, sold in 3 months."),
        ("72", "we add 48 and 24 and get 72."),
        ("72", "so \\(48+24=72\\)."),
        ("72", "The answer is **72**. I hope this answer is correct."),
        ("72", "The answer to your question is 72."),
        ("5", "Out of 10, 5 are red"),
        ("\\frac{14}{3}", "so $x=\\frac{14}{3}$."),
        ("\\frac{14}{3}", "we get \\frac{14}{3}."),
        ("7", "It costs $5 and then $7."),
        ("1,2", "the roots are \\boxed{1} and \\boxed{2}"),
        (
            "\\begin{pmatrix}0&3\\\\0&-1\\end{pmatrix}",
            "The answer is $$\n\\begin{pmatrix} 0 & 3 \\\\ 0 & -1 \\end{pmatrix}\n$$",
        ),
        (GOLD, "#### 72"),
        (GOLD, GOLD),
        ("72", GOLD),
        (72, "72"),
        (51.0, "51"),
        (["24", "72"], "#### 72"),
        (("x=1", "1"), "\\boxed{1}"),
        ("17", "The final answer is $\\boxed{17}$. I hope it is correct."),
        ("B", "The correct answer is (B) 12."),
        ("B", "Answer: B) 7"),
        ("\\text{Saturday}", "The answer is Saturday."),
    ],
)
def test_right_answers_are_found(answer, text):
    assert value(text, answer) == 1.0


EQUAL = r"""
    1234 == 1,234
    1,234 == 1234.00
    10000 == 10 000
    10000 == 10\,000
    10,\!000,\!000 == 10{,}000{,}000
    1500 == 1.5 \times 10^3
    1500 == 1.5e3
    -5 == x = -5
    0.5 == \frac{1}{2}
    \frac{3}{4} == 3/4
    7/2 == 3\frac{1}{2}
    1\frac12 == 1 1/2
    \frac{1}{2} == \frac12
    \frac \pi4 + 2 - \sqrt2 == 2-\sqrt{2}+\frac{\pi}{4}
    \sqrt{10} == \sqrt10
    2\sqrt{3} == \sqrt{12}
    1/3 == 0.333333
    1/2^{98} == 2^{-98}
    10^{-7} == 0.0000001
    2^{100} == 1267650600228229401496703205376
    50 == 50\%
    50\% == 50
    0.5 == 50\%
    \frac14 == 25 percent
    \$5.00 == 5
    -\$0.50 == -0.5
    5 == 5\text{ cm}
    440\text{ cm}^2 == 440
    440\text{ cm}^2 == 440 cm^2
    440\text{ cm}^2 == 440\,\mathrm{cm}^2
    5\text{ centimeters} == 5 cm
    45 \text{ units}^2 == 45 square units
    30^\circ == 30
    30 == 30 degrees
    1, 2 == 2, 1
    1, 2 == 1 \text{ or } 2
    1, 2 == x=1 \text{ or } x=2
    \{1, 2\} == 2, 1
    8 \text{ and } 9 == 8, 9
    \pm 2 == 2, -2
    3+\sqrt{2}, 3-\sqrt{2} == 3 \pm \sqrt{2}
    (1, 2) == \left(1,2\right)
    [1,2) == [1, 2)
    [1,2) == x\in[1,2)
    [1,2) == 1\le x<2
    x>3 == (3,\infty)
    (-\infty,1)\cup(2,\infty) == (2, \infty) \cup (-\infty, 1)
    B == (B)
    (B) == \textbf{(B)} 12
    \text{(B)} == B
    xy == yx
    3qr + 6q - 15r - 30 == 6q+3qr-15r-30
    x^2-1 == (x-1)(x+1)
    y=2x+1 == 2x+1
    f(x)=2x+1 == 1+2x
    1+2i == 2i+1
    \begin{pmatrix}1\\2\end{pmatrix} == \begin{bmatrix}1\\2\end{bmatrix}
    Evelyn == \text{evelyn}
    even == \text{Even}
    3:5 == 3 : 5
    101_2 == 101_{2}
    \emptyset == \varnothing
    11\text{ a.m.} == 11 \text{ AM}
    1/3 == 0.\overline{3}
    \frac32 == 1½
    2\sqrt{3} == 2√3
    x\le 5 == x ≤ 5
    x<5 == (-\infty,5)
    2x+3y=7 == 3y+2x=7
    -1\le x\le 1 == [-1,1]
    \sin^2 x == 1-\cos^2 x
    10! == 3628800
    \sqrt[3]{8} == 2
    12 == 12 \text{ red apples}
    8\text{ m/s} == 8 m/s
    2\pi == 2\pi \text{ units}
    (2,3),(4,5) == (4,5), (2,3)
    (1/2,3) == \left(0.5, 3\right)
    x=\frac{1}{2}, y=3 == y=3, x=1/2
    5:30 \text{ p.m.} == 5:30 \text{ PM}
    \text{June 20} == June 20
    \text{no solution} == \text{No solution}
    \mathbb{R} == (-\infty,\infty)
    5 == \boxed{5}
    3.5 == 3,5
    5 == 5 €
    5\text{ euros} == 5€
    50\text{ km/h} == 50\,\frac{\text{km}}{\text{h}}
    \mathbb{R} == \text{all real numbers}
    10:30 == 10:30 \text{ AM}
    \text{no solution} == \text{No real solutions.}
    (5,2),(7,2) == p=5,q=2; p=7,q=2
    \begin{pmatrix}1 & 2 \\3 & 4\end{pmatrix} == \left[\begin{array}{cc}1 & 2 \\3 & 4\end{array}\right]
    (1,2) == \\left( 1, 2 \\right)
    1+i, 1-i == 1 \pm i
    3-2i == \overline{3+2i} = 3-2i
    [2,3] == x\ge 2 \land x \le 3
    x<a == a>x
    |AB| = 5 == AB = 5
"""
DIFFERENT = r"""
    72 == 73
    72 == -72
    72 == 720
    72 == 7.2
    10,000 == 10,001
    12 == 1\text{ }2
    1/2 == \frac{1}{3}
    1/3 == 0.33
    \pi == 3.14
    3.14 == \pi
    1/2^{98} == 1/2^{99}
    10^{-7} == 2 \times 10^{-7}
    10^{-20} == 0
    \frac \pi4 + 2 - \sqrt2 == \frac \pi4 + 2 - \sqrt10
    50\% == 0.5
    50 == 0.5
    50\% == 5\%
    0.5 == 0.5\%
    440\text{ cm}^2 == 440\text{ cm}^3
    440\text{ cm}^2 == 440 cm^3
    5\text{ km} == 5\text{ m}
    5 \text{ dollars} == 5 \text{ cents}
    45 \text{ units}^2 == 45 \text{ units}^3
    11\text{ a.m.} == 11 \text{ p.m.}
    3:30\text{ a.m.} == 3:30\text{ p.m.}
    3:5 == 3:4
    101_2 == 101_3
    2 == \pm 2
    2, -2 == 2
    1, 2 == 1
    1, 2 == 1, 2, 3
    \{1, 2\} == \{1, 3\}
    1,234 == 1, 2, 3, 4
    (1, 2) == (2, 1)
    (1, 2) == 2, 1
    [1,2) == [1,2]
    [1,2) == (1,2]
    5 == [0, 10]
    5 == x > 0
    5 == \geq 5
    5 == 5\text{ or more}
    5 == 5 \ne 6
    5 == 5 = 6
    8 == 7 = 8
    8 == 7 \Rightarrow 8
    5 == x
    5 == 0/0
    5 == ?
    4 == 4!
    x=5 == y=5
    x+1 == x+2
    x^2+1 == x^2-1
    1+i == 1-i
    even == neve
    even == odd
    B == A
    B == b2
    2 == x^2
    5 == 5/6
    5 == 5 \pm 1
    5 == 5 \lor 6
    5 == \{5\}\cup\{6\}
    5 == \begin{cases}5\\6\end{cases}
    5 == 5\text{ (or 6)}
    56 == 5\,6
    20 == \text{June 20}
    \text{June 20} == \text{June 21}
    \text{no solution} == \text{one solution}
    \text{yes} == \text{yes or no}
    1 == 1 1/2
    31 == 3\frac{1}{1}
    1000 == 1,00
    10_2 == 10
    x<5 == x \le 5
    x<5 == 5
    \{0,1\} == [0,1]
    (2,3),(4,5) == (3,2),(5,4)
    0 == \emptyset
    \infty == -\infty
    \pi == 3.14159
    5 == 5 \approx 6
    5 == 5 \text{ or } 5.1
    50\% == 50\text{ students}
    5\text{ euros} == \$5
    60\text{ km/h} == 60\text{ km}
    11\text{ a.m.} == 11\text{ p.m.}
    2\pmod 5 == 2\pmod 7
    e == E
    n == N
    3 == [3,3]
    x<5 == y<5
    x<a == x<b
    2<x<5 == x<2 \text{ or } x>5
    60^\circ == 60\text{ radians}
"""


@pytest.mark.parametrize(("answer", "text"), pairs(EQUAL))
def test_equal_values(answer, text):
    assert value(f"so \\boxed{{{text}}}", answer) == 1.0


@pytest.mark.parametrize(("answer", "text"), pairs(DIFFERENT))
def test_different_values(answer, text):
    assert value(f"so \\boxed{{{text}}}", answer) == 0.0


UNITS = r"""
    5 cm == 5 m
    5 cm == \boxed{5 m}
    5 cm == 5 km
    5 kg == 5 g
    10 km == 10 m
    5 m == 5 cm
    5\text{ cm} == \boxed{5 m}
    5 cm == The answer is 5 km, I think.
    $5 == \boxed{5 \text{ euros}}
    17 == The answer is 17 thousand
    7 == <think>\boxed{7}</think> 8
    5m == 5x
"""
KEPT = r"""
    5 == 5 cm
    5 cm == 5
    5m == 5m
    5m == \boxed{5m}
    5 m == 5 m
    5 cm == The answer is 5 cm, I think.
    $5 == \boxed{5 \text{ dollars}}
    17000 == The answer is 17 thousand
    8 == <think>\boxed{7}</think> 8
    B == B) 12 cm
"""


@pytest.mark.parametrize(
    ("answer", "text", "right"),
    [(*p, 0.0) for p in pairs(UNITS)] + [(*p, 1.0) for p in pairs(KEPT)],
)
def test_units_scales_and_thoughts_of_whole_answers(answer, text, right):
    assert value(text, answer) == right


HEDGES = [
    ("2", "\\boxed{1} or \\boxed{2}"),
    ("2", "$\\boxed{1}$ or $\\boxed{2}$"),
    ("2", "\\boxed{1}\n\\boxed{2}"),
    ("2", "\\boxed{1}, or maybe it is \\boxed{2}"),
    ("3", "\\boxed{3 \\text{ or } 4}"),
    ("4", "\\boxed{3 or 4}"),
    ("3", "\\boxed{3, 4}"),
    ("7", "\\boxed{7; 8}"),
    ("7", "\\boxed{7 \\quad 8}"),
    ("15", "\\boxed{7 \\quad 8}"),
    ("7", "\\boxed{7\\\\8}"),
    ("7", "\\boxed{7|8}"),
    ("7", "\\boxed{\\{7,8,9\\}}"),
    ("8", "\\boxed{x=7, y=8}"),
    ("3", "the answer is 3 or 4"),
    ("4", "the answer is 3 or 4"),
    ("3", "The answer is either 3 or 4."),
    ("3", "The answer is 3, maybe 4"),
    ("3", "The answer is 3. Or it may be 4."),
    ("3", "The answer is $3$ or $4$."),
    ("4", "#### 3 or 4"),
    ("4", "it is 3 or 4"),
    ("4", "3 or 4"),
    ("4", "1, 2, 3, 4"),
    ("4", "1 2 3 4"),
    ("4", "it could be 1, 2, 3, 4"),
    ("B", "A, B, C, D"),
    ("B", "\\boxed{A, B, C, D}"),
    ("B", "\\boxed{ABCD}"),
    ("B", "The answer is A or B."),
    ("B", "(A) or (B)"),
    ("B", "\\boxed{(B) or (C)}"),
    ("5", "The answer is not 5."),
    ("5", "It is definitely not 5"),
]


@pytest.mark.parametrize("mode", ["first", "strict", "flex"])
@pytest.mark.parametrize(("answer", "text"), HEDGES)
def test_several_answers_are_no_single_one(answer, text, mode):
    assert value(text, answer, mode=mode) == 0.0


@pytest.mark.parametrize(
    "text",
    [text for answer, text in HEDGES if answer == "4"][2:4]
    + ["\\boxed{4} or \\boxed{3}", "#### 3 or 4"],
)
def test_several_answers_are_a_list(text):
    assert value(text, "3, 4") == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "\\boxed{}",
        "\\boxed{} 72",
        "\\boxed{ }72",
        "\\boxed{\\text{}}",
        "\\boxed{.}",
        "####",
        "the answer is",
        "$$",
        "\\(\\)",
    ],
)
@pytest.mark.parametrize("answer", ["72", "", ".", "\\text{}", "?"])
def test_an_empty_answer_is_never_right(text, answer):
    assert value(text, answer) in (0.0, None)


def test_the_rules_come_in_the_stated_order():
    text = "The answer is 3.\n#### 2\nor \\boxed{1}, maybe 4"
    assert final_answer(text) == "1"
    assert final_answer(text.replace("\\boxed", "")) == "2"
    assert final_answer("The answer is 3, but not 4") == "3"
    assert final_answer("not 3, for it is 4") == "4"
    assert final_answer("half \\boxed{\\frac{1}{2}") == "", (
        "a box that never closes is no answer, and 2 is not half of it"
    )
    assert final_answer("\\boxed{72} no: \\boxed{71}") == "71"
    assert final_answer("\\boxed 5") == final_answer("\\boxed{5}. I used \\boxed{}.") == "5"


def test_modes():
    for mode, values in {
        "first": (1.0, 1.0, 0.0),
        "strict": (0.0, 1.0, 0.0),
        "flex": (1.0, 1.0, 1.0),
    }.items():
        texts = ("we get 72", "#### 72", "The answer is 72, no, \\boxed{71}")
        assert tuple(value(text, "72", mode=mode) for text in texts) == values, mode
    verdict = math_answer("we get 72", "72", mode="strict")
    assert verdict.status == "wrong-format" and "no final answer" in verdict.reason
    with pytest.raises(ValueError, match="choose first, strict or flex"):
        value("72", "72", mode="lenient")


def test_tulu_3_verifier_cases():
    assert value("She has 1,234 apples", "1234") == 1.0
    assert value("First 3, then 5, in the end 8.", "8") == 1.0
    assert value("\\boxed{\\dfrac{2}{4}}", "\\frac{1}{2}", mode="flex") == 1.0
    assert (
        value(
            "\\boxed{\\{x : x^{2} = 4\\}} so the answer is $\\frac{1}{2}$", "0.5", mode="flex"
        )
        == 1.0
    )  # any candidate
    assert value("", "8", mode="flex") == 0.0


def test_within_a_tag():
    text = "<think>the answer is 3</think><answer>it is 4</answer> or 5"
    assert value(text, "4", within="answer") == 1.0 and value(text, "5", within="answer") == 0.0
    assert value(text, "4", within="answer", finished=False) == 1.0
    assert math_answer("<answer>4", "4", within="answer").status == "wrong-format"


def test_only_a_closed_box_counts_in_an_unfinished_answer():
    assert value("#### 72", "72", finished=False) == 0.0  # it may have been on the way to 720
    assert value("\\boxed{72} because", "72", finished=False) == 1.0


def test_no_reference_answer_is_unscorable():
    assert (
        value("72", None) is None
        and value("72", "") is None
        and value("72", []) is None
        and value("72", ["", None]) is None
    )


def test_the_parts_of_a_value():
    assert (
        plain_number("3\\frac{1}{2}") == plain_number("7/2") == plain_number("3.5")
        and plain_number("1/0") is None
    )
    assert plain_number("-1\\frac{1}{2}") == plain_number("-1.5")
    assert (
        split_unit("5\\text{ square cm}")
        == ("5", read_unit("cm^2"))
        == split_unit("5\\text{ cm}^2")
        == split_unit("5 cm^2")
    )
    assert split_unit("2x") == ("2x", None), "x is no unit"
    assert (choice("(B) 12 cm"), choice("option c"), choice("A or B"), choice("Bob")) == (
        "B",
        "C",
        "",
        "",
    )


HOSTILE = {
    "deep fractions": "\\boxed{" + "\\frac{1}{1+" * 60 + "1" + "}" * 61,
    "fractions without end": "\\frac{" * 200_000,
    "unclosed boxes": "\\boxed{" * 140_000,
    "many boxes": "\\boxed{1} " * 100_000,
    "brackets": "\\boxed{" + "(" * 480 + ")" * 480 + "}",
    "tower": "\\boxed{9^{9^{9^{9^{9}}}}}",
    "Python tower": "\\boxed{9**9**9**9}",
    "huge factorial": "\\boxed{((9!)!)!}",
    "huge power": "\\boxed{2^{99999999999}}",
    "expansion": "\\boxed{(x+y+z)^{999}}",
    "digits": "\\boxed{" + "5" * 2_000 + "}",
    "1 MB of digits": "1" * 1_000_000,
    "1 MB of words": "a 1 " * 262_144,
    "1 MB of dollars": "$" * 1_000_000,
    "1 MB of marks": "answer is " * 100_000,
    "1 MB of spaces": "answer is" + " " * 1_000_000,
    "1 MB box": "\\boxed{" + "1+" * 500_000 + "1}",
    "endless sum": "\\boxed{\\sum_{n=1}^{10000000} \\frac{1}{n^2}}",
    "large matrix": "\\boxed{\\begin{pmatrix}" + "1&" * 200 + "1\\end{pmatrix}}",
    "signs": "\\boxed{" + "-" * 900 + "1}",
    "odd letters": "\\boxed{\u202e5\u0000\ud800}",
    "an import": "\\boxed{__import__('os').abort()}",
}


@pytest.mark.parametrize("answer", ["5", "x^2+1"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answers_are_bounded_and_never_right(name, answer):
    started = time.process_time()
    verdict = math_answer(HOSTILE[name], answer)
    assert time.process_time() - started < 5, "three seconds, and the reading of the text"
    assert verdict == 0.0 or verdict.status in ("timed-out", "wrong-format")


def test_an_endless_computation_is_timed_out_not_zero():
    verdict = math_answer(HOSTILE["expansion"], "x^2+1")
    assert verdict.status == "timed-out" and re.search(
        r"over 3 s of CPU time for '\(x\+y\+z\)", verdict.reason
    )


def compute_for(seconds):
    """Computes for so much CPU time of this process, hardly any of it in the kernel."""
    until = time.process_time() + seconds
    while time.process_time() < until:
        sum(range(100_000))


class SlowFinalizer:
    def __del__(self):
        compute_for(0.3)


class Plain:
    pass


def in_a_finalizer():
    SlowFinalizer()


def in_a_weak_reference():
    target = Plain()
    reference = weakref.ref(target, lambda _: compute_for(0.3))
    del target
    assert reference() is None


def in_the_garbage_collector():
    def callback(phase, info):
        if phase == "start":
            compute_for(0.3)

    gc.callbacks.append(callback)
    try:
        gc.collect()
    finally:
        gc.callbacks.remove(callback)


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "swallow", [in_a_finalizer, in_a_weak_reference, in_the_garbage_collector]
)
def test_a_limit_whose_exception_python_swallows_interrupts_again(swallow):
    with pytest.raises(TimeoutException), cpu_limit(0.1):
        swallow()
        compute_for(5.0)


@pytest.mark.parametrize(
    ("prompt", "answer", "text", "value"),
    [
        ("Evaluate $(1+2i)6-3i$.", "6+9i", r"\boxed{(1 + 2i)6 - 3i}", 0.0),
        ("Evaluate $2^{10} - 1$.", "1023", "The answer is $2^{10}-1$.", 0.0),
        ("Evaluate $2^{10} - 1$.", "1023", r"\boxed{1023}", 1.0),
        ("Is it (A) $x+1$ or (B) $x-1$?", "x+1", r"\boxed{x + 1}", 1.0),
        (
            r"With probability $\frac{1}{2}$ each, what is the chance of heads?",
            "0.5",
            r"\boxed{\frac{1}{2}}",
            1.0,
        ),
        ("Solve $x + 2 = 5$.", "x=3", r"\boxed{x=3}", 1.0),
        (
            [{"role": "user", "content": "What is $3 \\cdot 7$?"}],
            "21",
            r"\boxed{3 \cdot 7}",
            0.0,
        ),
    ],
)
def test_a_formula_copied_from_the_prompt_is_no_answer(prompt, answer, text, value):
    assert math_answer(text, answer, prompt=prompt) == value
