"""Answers of one kind in many spellings: all agree with the reference, and none with a changed one."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.math import math_answer
from rewards.math_letters import tex_spelling
from rewards.math_spelling import plain_number

FEW = settings(max_examples=60, deadline=None, derandomize=True)
MANY = settings(max_examples=150, deadline=None, derandomize=True)

small = st.integers(-40, 40)
number = st.one_of(small, st.fractions(-9, 9, max_denominator=9)).map(Fraction)


def right(text: str, answer: str) -> bool:
    return math_answer(text, answer) == 1.0


def tex(value: Fraction) -> str:
    sign = "-" if value < 0 else ""
    return (
        str(value)
        if value.denominator == 1
        else rf"{sign}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"
    )


def spelled(value: Fraction) -> st.SearchStrategy[str]:
    """One number as people write it."""
    sign, size = ("-" if value < 0 else ""), abs(value)
    ways = [tex(value), rf"\left({tex(value)}\right)" if value >= 0 else tex(value)]
    if value.denominator == 1:
        ways += [f"{value}.0", f"{value}.", f"+{value}" if value > 0 else f"- {size}"]
    else:
        ways += [
            f"{value}",
            rf"{sign}\dfrac{{{size.numerator}}}{{{size.denominator}}}",
            rf"{sign}\tfrac {{{size.numerator}}} {{{size.denominator}}}",
            rf"{sign}\nicefrac{{{size.numerator}}}{{{size.denominator}}}",
        ]
        if size.numerator < 10:
            ways.append(rf"{sign}\frac{size.numerator}{size.denominator}")
    return st.sampled_from(ways)


SEPARATORS = [
    ", ", ",", "; ", " and ", ", and ", " or ", r",\ ", r",\,", r",\quad ", r"\quad ", r"; \quad ",
    r" \text{ and } ", r", \text{ and } ", r",\text{ or }", r"\text{ or }", r" \lor ", r" \vee ", r"\\",
    r"\quad \text{and} \quad ", r", \qquad ", "，", "、", "\n",
]  # fmt: skip
WRAPPERS = [
    "{}",
    r"\{{{}\}}",
    r"\left\{{{}\right\}}",
    r"\lbrace {} \rbrace",
    "｛{}｝",
    "x = {}",
]


@MANY
@given(st.data(), st.lists(number, min_size=2, max_size=4, unique=True))
def test_lists(data, values):
    separator = data.draw(st.sampled_from(SEPARATORS))
    wrapper = data.draw(st.sampled_from(WRAPPERS))
    order = data.draw(st.permutations(values))
    texts = [data.draw(spelled(value)) for value in order]
    answer = ", ".join(map(tex, values))
    list_text = wrapper.format(separator.join(texts))
    assert right(rf"So \boxed{{{list_text}}}.", answer)
    changed = ", ".join(map(tex, [values[0] + 41, *values[1:]]))
    assert not right(rf"So \boxed{{{list_text}}}.", changed)
    assert not any(right(rf"So \boxed{{{list_text}}}.", tex(value)) for value in values)


BETWEEN_BOXES = [
    " and ", ", ", " or ", "$ or $", "; ", "\n", " / ", r" \lor ", r" \quad ", r" \quad \text{and} \quad ",
    r"$, \qquad $", ". It could also be ", ", or maybe ", "\n- ", "\n2. ", "\n(b) ", "; if not: ", "; case 2: $x = ",
    ", possibly ", " or perhaps ", " papers and ",
]  # fmt: skip


@FEW
@given(st.lists(small, min_size=2, max_size=2, unique=True), st.sampled_from(BETWEEN_BOXES))
def test_boxes_that_answer_together(values, between):
    first, second = values
    text = rf"We get \boxed{{{first}}}{between}\boxed{{{second}}}"
    assert right(text, f"{second}, {first}")
    assert not right(text, str(first)) and not right(text, str(second))


CORRECTIONS = [
    ". No, that is wrong: ",
    " no: ",
    "\nThen we double it and find the total, ",
    ". So x is ",
]


@FEW
@given(small, small, st.sampled_from(CORRECTIONS))
def test_a_later_box_corrects_an_earlier_one(first, second, between):
    assert right(rf"\boxed{{{first}}}{between}\boxed{{{second}}}", str(second))


LESS = {"<": ["<", r"\lt "], "\\le": [r"\le ", r"\leq ", r"\leqslant ", "<=", "≤ ", "⩽"]}
MORE = {"<": [">", r"\gt "], "\\le": [r"\ge ", r"\geq ", r"\geqslant ", ">=", "≥ "]}
JOINED = [" and ", r"\text{ and }", r" \land ", r", \text{ and } "]


@MANY
@given(st.data(), st.lists(number, min_size=2, max_size=2, unique=True).map(sorted))
def test_intervals(data, bounds):
    signs = data.draw(st.tuples(st.sampled_from(["<", "\\le"]), st.sampled_from(["<", "\\le"])))
    opening, closing = ("[" if signs[0] != "<" else "("), ("]" if signs[1] != "<" else ")")
    low, high = (data.draw(spelled(bound)) for bound in bounds)
    first, second = (data.draw(st.sampled_from(LESS[sign])) for sign in signs)
    turned = data.draw(st.sampled_from(MORE[signs[0]]))
    inside = f"{opening}{low}, {high}{closing}"
    spellings = [
        inside,
        rf"\left{inside[:-1]}\right{closing}",
        rf"x \in {inside}",
        f"{low} {first} x {second} {high}",
        f"x {turned} {low}{data.draw(st.sampled_from(JOINED))}x {second} {high}",
    ]
    text = data.draw(st.sampled_from(spellings))
    written = f"{opening}{tex(bounds[0])},{tex(bounds[1])}{closing}"
    relation = f"{tex(bounds[0])} {signs[0]} x {signs[1]} {tex(bounds[1])}"
    assert right(rf"\boxed{{{text}}}", written) and right(rf"\boxed{{{text}}}", relation)
    other = f"{'(' if opening == '[' else '['}{written[1:]}"
    assert not right(rf"\boxed{{{text}}}", other)
    assert not right(
        rf"\boxed{{{text}}}", f"{opening}{tex(bounds[0] - 1)},{tex(bounds[1])}{closing}"
    )


@settings(FEW, max_examples=20)
@given(st.data(), st.lists(small, min_size=2, max_size=2, unique=True).map(sorted))
def test_unions_of_inequalities(data, bounds):
    low, high = bounds
    joint = data.draw(st.sampled_from([" or ", r"\text{ or }", r" \lor ", r" \cup ", ", or "]))
    text = rf"x<{low}{joint}x {data.draw(st.sampled_from(MORE['<']))}{high}"
    answer = rf"(-\infty,{low})\cup({high},\infty)"
    assert right(rf"\boxed{{{text}}}", answer) and right(
        rf"\boxed{{{text}}}", f"x<{low} or x>{high}"
    )
    assert not right(rf"\boxed{{{text}}}", rf"(-\infty,{low}]\cup({high},\infty)")
    assert not right(rf"\boxed{{{text}}}", f"{low}<x<{high}")


COMPLEX = [
    "{a}{b:+}i", "{a} {b:+} i", r"{a}{b:+}\,i", r"{a}{b:+}\cdot i", "{b}i{a:+}", r"{a}+({b})i", r"{a}{b:+}\mathrm{{i}}",
    r"{a}{b:+}\text{{i}}", r"{a}+i({b})", r"{a}{b:+}\sqrt{{-1}}", r"\frac{{{a2}{b2:+}i}}{{2}}", r"{a}{b:+}\imath",
    "({a}{b:+}i)", "z = {a}{b:+}i", r"\boldsymbol{{{a}{b:+}i}}",
]  # fmt: skip
nonzero = small.filter(bool)


@FEW
@given(nonzero, nonzero, st.sampled_from(COMPLEX))
def test_complex_numbers(a, b, way):
    text = way.format(a=a, b=b, a2=2 * a, b2=2 * b)
    assert right(rf"\boxed{{{text}}}", f"{a}{b:+}i")
    assert not right(rf"\boxed{{{text}}}", f"{a}{-b:+}i")
    assert not right(rf"\boxed{{{text}}}", f"{a}{b + 1:+}i" if b != -1 else f"{a}")


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (r"e^{2i\pi/3}", r"-\frac12+\frac{\sqrt3}{2}i"),
        ("-i", r"e^{-i\pi/2}"),
        ("-1", "i^2"),
        ("5", "|3-4i|"),
    ],
)
def test_values_of_complex_formulas(answer, text):
    assert right(rf"\boxed{{{text}}}", answer)


UNITS = {
    "cm": ["cm", "centimeters", "centimetres", "cm."],
    "km": ["km", "kilometers", "kilometre"],
    "kg": ["kg", "kilograms"],
    "hour": ["h", "hours", "hrs"],
    "mile": ["miles", "mi"],
    "dollar": ["dollars", "dollar", "USD"],
    "kJ": ["kJ", "kilojoules"],
    "J": ["J", "joules"],
    "quart": ["quarts", "qt"],
    "gallon": ["gallons", "gal"],
    "mV": ["mV", "millivolts"],
    "boy": ["boys"],
    "girl": ["girls"],
    "cm^2": [
        "cm^2",
        "cm^{2}",
        "square cm",
        "sq. cm",
        "square centimeters",
        "cm²",
        "centimeters squared",
    ],
    "km/h": ["km/h", "kilometers per hour", "km per hour", "kph", "km h^{-1}", "km/hr"],
}
IN_TEXT = [r"{}\text{{ {}}}", r"{}\,\text{{{}}}", r"{}~\mathrm{{{}}}", r"{}\ \textbf{{ {}}}"]


def with_unit(data: st.DataObject, value: str, unit: str) -> str:
    name = data.draw(st.sampled_from(UNITS[unit]))
    if any(letter in name for letter in "^²"):
        base, _, power = tex_spelling(name).partition("^")
        return data.draw(st.sampled_from(IN_TEXT)).format(value, base) + f"^{power}"
    return data.draw(st.sampled_from(IN_TEXT)).format(value, name)


@MANY
@given(st.data(), number, st.sampled_from(sorted(UNITS)), st.sampled_from(sorted(UNITS)))
def test_units(data, value, unit, other):
    text = rf"\boxed{{{with_unit(data, data.draw(spelled(value)), unit)}}}"
    answer = with_unit(data, tex(value), unit)
    assert (
        right(text, answer)
        and right(text, tex(value))
        and right(rf"\boxed{{{tex(value)}}}", answer)
    )
    assert not right(text, with_unit(data, tex(value + 1), unit))
    if other != unit:
        assert not right(text, with_unit(data, tex(value), other)), "nothing is converted"


CURRENCIES = [
    r"\${}",
    "US${}",
    "€{}",
    "£{}",
    "¥{}",
    "₹{}",
    r"\text{{Rs. }}{}",
    "₩ {}",
    "{} USD",
    "EUR {}",
]


@FEW
@given(st.integers(1, 9_999_999), st.sampled_from(CURRENCIES), st.sampled_from(["{}", "{:,}"]))
def test_currencies(value, sign, digits):
    text = sign.format(digits.format(value))
    assert right(rf"\boxed{{{text}}}", str(value)) and right(
        f"The answer is {text}.", str(value)
    )
    assert not right(rf"\boxed{{{text}}}", str(value + 1))


DIGITS = {
    "full-width": str.maketrans("0123456789-+,", "０１２３４５６７８９－＋,"),
    "bold": str.maketrans("0123456789", "𝟎𝟏𝟐𝟑𝟒𝟓𝟔𝟕𝟖𝟗"),
    "Arabic-Indic": str.maketrans("0123456789-", "٠١٢٣٤٥٦٧٨٩−"),
    "Devanagari": str.maketrans("0123456789-", "०१२३४५६७८९–"),
}
PROSE = [
    "所以一共有{}个苹果。",
    "答案是{}。",
    "答えは{}です。",
    "정답은 {}입니다.",
    "Ответ: {}.",
    "Итого {} рублей.",
]


@FEW
@given(st.integers(-999_999, 999_999), st.sampled_from(sorted(DIGITS)), st.sampled_from(PROSE))
def test_digits_and_sentences_of_other_scripts(value, script, prose):
    text = str(value).translate(DIGITS[script])
    assert right(rf"\boxed{{{text}}}", str(value)) and right(prose.format(text), str(value))
    assert right(prose.format(value), str(value))
    assert not right(prose.format(text), str(value + 1))


STYLES = [
    r"\boldsymbol{{{}}}", r"\bm{{{}}}", r"\mathbf{{{}}}", r"\textbf{{{}}}", r"\textcolor{{blue}}{{{}}}", r"\color{{red}}{}",
    r"{{\bf {}}}", r"\bf{{{}}}", r"\displaystyle {}", r"\underline{{{}}}", r"\mathtt{{{}}}", r"\emph{{{}}}", r"\Large {}",
    r"\fbox{{{}}}", r"\ensuremath{{{}}}", r"$ {} $", r"\text{{The answer is }}{}", r"\textbf{{Answer: }} {}",
    r"\text{{The value is }} {}", "Answer: {}", "{};", r"{} \checkmark", r"\bigl({}\bigr)", r"\{{{}\}}",
]  # fmt: skip


@MANY
@given(st.data(), number, st.sampled_from(STYLES))
def test_styles_and_labels(data, value, style):
    text = style.format(data.draw(spelled(value)))
    assert right(rf"\boxed{{{text}}}", tex(value))
    assert not right(rf"\boxed{{{text}}}", tex(value + 1))


NAMES = ["x", "AM", "PM", "OR", "NOT", r"\angle ABC", "|AB|", r"\overline{AB}", "f(2)", "P(A|B)", r"\|\vec v\|", "a_{10}",
         r"\lim_{x\to 0} f(x)", r"\frac{AM}{MB}", "m∠ABC"]  # fmt: skip


@FEW
@given(number, st.sampled_from(NAMES))
def test_a_value_may_have_a_name(value, name):
    named = f"{name} = {tex(value)}"
    assert right(rf"\boxed{{{named}}}", tex(value)) and right(rf"\boxed{{{tex(value)}}}", named)
    assert right(rf"\boxed{{{named}}}", named)
    assert not right(rf"\boxed{{{named}}}", tex(value + 1))


@MANY
@given(st.integers(0, 99), st.text("0123456789", max_size=2), st.text("0123456789", min_size=1, max_size=3),
       st.sampled_from([r"\overline{{{}}}", r"\bar{{{}}}", "({})", "{0}{0}{0}...", r"{0}{0}{0}\ldots", r"{0}{0}{0}\dots"]))  # fmt: skip
def test_repeating_decimals(integer, once, again, way):
    value = Fraction(int(f"{integer}{once}{again}") - int(f"{integer}{once}"), 1) / (
        10 ** len(once) * (10 ** len(again) - 1)
    )
    text = f"{integer}.{once}{way.format(again)}"
    assert plain_number(text) == value, text
    assert right(rf"\boxed{{{text}}}", tex(value))
    assert not right(rf"\boxed{{{text}}}", tex(value + 1))


POWERS = [r"{}\times10^{{{}}}", r"{} \times 10^{{{}}}", r"{}\cdot 10^{{{}}}", "{}x10^{}", "{} × 10^{}", "{}e{}", "{}E{}",
          "{}*10^{{{}}}", "{}*10**{}", r"{}\times10^({})"]  # fmt: skip
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@FEW
@given(
    st.integers(11, 99).filter(lambda n: n % 10), st.integers(-30, 30).filter(bool), st.data()
)
def test_powers_of_ten(mantissa, exponent, data):
    decimal = f"{mantissa / 10:.1f}"
    answer = rf"{decimal}\times10^{{{exponent}}}"
    unicode = f"{decimal} × 10{str(exponent).translate(SUPERSCRIPTS)}"
    text = data.draw(
        st.sampled_from([*(way.format(decimal, exponent) for way in POWERS), unicode])
    )
    assert right(rf"\boxed{{{text}}}", answer)
    assert right(f"The answer is {unicode}.", answer)
    assert not right(rf"\boxed{{{text}}}", rf"{decimal}\times10^{{{exponent + 1}}}")


@FEW
@given(
    st.lists(small, min_size=2, max_size=4),
    small,
    st.sampled_from(["({}){}", "({}) {}", "{1} ({0})", "[{}]{}"]),
)
def test_a_tuple_beside_a_number_is_neither(values, beside, way):
    text = way.format(",".join(map(str, values)), beside)
    assert not any(right(rf"\boxed{{{text}}}", str(value)) for value in {*values, beside})


@FEW
@given(small, st.integers(2, 3), st.sampled_from([" ", ", ", r"\quad ", " and "]))
def test_a_value_given_twice_is_a_list(value, times, gap):
    assert not right(rf"\boxed{{{gap.join([str(value)] * times)}}}", str(value))


@FEW
@given(st.dates(), st.dates())
def test_dates_are_no_subtractions(day, other):
    text = rf"\boxed{{{day.year:04}-{day.month}-{day.day:02}}}"
    assert right(text, f"{day:%Y-%m-%d}".zfill(10))
    assert right(text, f"{other:%Y-%m-%d}".zfill(10)) == (day == other)


RATIOS = ["{}:{}", "{} : {}", r"{}\colon {}", r"{}\text{{ to }}{}", "{} to {}", "0{}:{}"]


@FEW
@given(st.integers(1, 30), st.integers(1, 30), st.sampled_from(RATIOS))
def test_ratios(a, b, way):
    text = way.format(a, b)
    assert right(rf"\boxed{{{text}}}", f"{a}:{b}") and right(
        f"The ratio is {a}:{b}.", f"{a}:{b}"
    )
    assert not right(rf"\boxed{{{text}}}", f"{a}:{b + 1}")


LETTERS = [
    "{}",
    "({})",
    "{}.",
    "{}) 12",
    r"\textbf{{({})}}",
    r"\text{{{}}}",
    "Option {}",
    "{} because it fits",
    "({}) 12 cm",
]


@FEW
@given(st.sampled_from("ABCDE"), st.sampled_from("ABCDE"), st.sampled_from(LETTERS))
def test_choices(letter, other, way):
    text = way.format(letter)
    assert right(rf"\boxed{{{text}}}", other) == (letter == other)
    assert right(f"The answer is {text}.", letter)
    assert right(rf"\boxed{{({letter}) 12}}", "12") and right(
        rf"\boxed{{({letter})}}", f"({letter}) Bern"
    )


WORDS = [
    "red",
    "odd",
    "Sue",
    "yes",
    "no",
    "True",
    "NASA",
    "rhombus",
    "May 12",
    "World War 2",
    "Type II",
]


@FEW
@given(
    st.sampled_from(WORDS),
    st.sampled_from(WORDS),
    st.sampled_from(["{}", r"\text{{{}}}", r"\mathrm{{{}}}", "${}$", " {} ", "{}."]),
)
def test_words_equal_themselves(word, other, way):
    assert right(rf"\boxed{{{way.format(word)}}}", other) == (word == other)
    assert right(word, word) and right(f"The answer is {word}.", word)


@FEW
@given(
    st.integers(1, 179),
    st.sampled_from(
        [r"\sin {}^\circ", r"\sin({}^\circ)", r"\sin\left({}^{{\circ}}\right)", r"\sin {}°"]
    ),
)
def test_degrees_inside_functions(angle, way):
    text = rf"\boxed{{{way.format(angle)}}}"
    assert right(text, rf"\sin {angle}^\circ") and right(
        text, rf"\sin\frac{{{angle}\pi}}{{180}}"
    )
    assert not right(text, rf"\sin {angle + 180}^\circ")


@FEW
@given(st.text(max_size=40))
def test_identical_text_is_right_and_nothing_crashes(text):
    verdict = math_answer(rf"\boxed{{{text}}}", text)
    assert verdict is None or isinstance(verdict, float) or verdict.status != "ok"
