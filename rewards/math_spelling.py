"""One spelling for answers that look the same: `tidy` is a table of spellings applied in order,
with a step of its own for each kind that a table cannot hold. And the number in a tidy answer.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from rewards.math_letters import tex_spelling
from rewards.math_prose import in_symbols
from rewards.math_relations import as_interval

_STYLES = (
    "boldsymbol|bm|pmb|mathbf|mathit|mathsf|mathtt|mathnormal|mathbin|mathop|mathord|mathrel"
    "|ensuremath|underline|boxed|fbox|color|bf|it|rm|sf|tt|em"
)
"""Commands that change how their argument looks, not what it is."""
_SPELLINGS: tuple[tuple[str, str], ...] = (
    # fractions
    (r"\\(?:[dtc]frac|nicefrac|sfrac)(?![a-z])", r"\\frac"),
    # words
    (
        r"\\(?:mbox|hbox|mathrm|textbf|textit|textrm|textsf|texttt|textsc|textnormal|emph"
        r"|operatorname)\*?\s*\{",
        r"\\text{",
    ),
    (r"\\text\{\s*([ie])\s*\}|\\([ij])math(?![a-z])", r"\1\2"),
    # sizes, spaces and what shows nothing
    (r"\\(?:left|right|middle|[bB]igg?)(?![a-z])[lr]?|\\[bB]igg?[lrm](?![a-z])", ""),
    (
        r"\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|nonumber|checkmark|strut"
        r"|normalsize|small|large|Large|LARGE|huge)(?![a-z])",
        "",
    ),
    (r"(?<!\\)\\[hv]space\*?\{[^{}]*\}", " "),
    (r"\\\\\s*\[-?[\d.]+\s*\w+\]", r"\\\\"),
    # digits in groups
    (r",\s*\\[!,;: ]\s*(?=\d{3}(?!\d))|\{,\}", ","),
    (r"(?<=\d)(?:\\[,;: ]|~)(?=\d{3}(?!\d))", ","),
    (r"(?<![\d.,])(\d{1,3})\.(\d{3})\.(\d{3})(?![\d.])", r"\1,\2,\3"),
    (r"(?<![\d'])(\d{1,3})'(\d{3})(?=['\s}]|$)", r"\1,\2"),
    (r"(?<!\\)\\[!,;: ]|(?<!\\)~|\\text\{\s*\}", " "),
    (r"(?<=\d)\.(?=\s*(?:$|[,;)\]}]))", ""),
    # brackets
    (r"\\lbrace(?![a-z])", r"\\{"),
    (r"\\rbrace(?![a-z])", r"\\}"),
    (r"\\[lr]vert(?![a-z])|\\mid\s*(?=[-\d.]+\s*\\mid)", "|"),
    (r"\\[lr]?Vert(?![a-z])", r"\\|"),
    (r"\\langle(?![a-z])\s*", "("),
    (r"\s*\\rangle(?![a-z])", ")"),
    (r"^<([^<>=]*,[^<>=]*)>$", r"(\1)"),
    (r"^\]([^][]*,[^][]*)\[$", r"(\1)"),
    (r"^\]([^][]*,[^][]*)\]$", r"(\1]"),
    (r"^\[([^][]*,[^][]*)\[$", r"[\1)"),
    # relations
    (r"\\l[et]q?slant(?![a-z])|\\leq?(?![a-z])|\\leqq|<=|=<", r"\\le "),
    (r"\\g[et]q?slant(?![a-z])|\\geq?(?![a-z])|\\geqq|>=|=>(?=\s*-?\d)", r"\\ge "),
    (r"\\lt(?![a-z])", "<"),
    (r"\\gt(?![a-z])", ">"),
    (r"\\neq?(?![a-z])|!=(?!=)|\\not\s*=", r"\\ne "),
    (r"\\equiv(?=.*\\[pb]?mod)", "="),
    # matrices
    (r"[\[(]?\s*\\begin\{array\}\s*\{[^{}]*\}", r"\\begin{pmatrix}"),
    (r"\\end\{array\}\s*[\])]?", r"\\end{pmatrix}"),
    (r"\[\s*\\begin\{(b|p|small)?matrix\}", r"\\begin{pmatrix}"),
    (r"\\end\{(b|p|small)?matrix\}\s*\]", r"\\end{pmatrix}"),
    # names of values and functions
    (r"(?:\\text\{\s*)?\ball real numbers\b\.?(?:\s*\})?", r"\\mathbb{R}"),
    (r"(?<![A-Za-z\\])i\s*(?=\()", r"i \\cdot "),
    (r"\\varnothing(?![a-z])|\\O(?![a-z])", r"\\emptyset"),
    (r"(?:\\text\{\s*)?(?<![\\A-Za-z])(\+?-?)\s*infinity\b(?:\s*\})?", r"\1\\infty"),
    (r"\\log_\{?\s*e\s*\}?(?![a-z])", r"\\ln "),
    (r"\\lg(?![a-z])", r"\\log_{10}"),
    (r"(?<![\\A-Za-z])(sin|cos|tan|cot|sec|csc|ln|log|sqrt)(?=\s*[({\d\\^])", r"\\\1"),
    (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
    (r"\(?\s*\\?(?:[pb]?mod)(?![a-z])\s*\{?\s*(\w+)\s*\}?\s*\)?", r" \\text{ modulo \1}"),
    # powers of ten
    (r"(?<=\d)\s*(?:\\times|\\cdot(?![a-z])|[xX*])\s*10\s*(?:\^|\*\*)\s*", r"\\times10^"),
    (r"\\times10\^\(([-+]?\d+)\)", r"\\times10^{\1}"),
    # units and remarks
    (r"\\frac\s*\{\\text\{([^{}]*)\}\}\s*\{\\text\{([^{}]*)\}\}", r"\\text{ \1/\2}"),
    (
        r"\\?%|\\text\{\s*(?:per ?cent|pct|percentage)\s*\}|\b(?:per ?cent|pct|percentage)\b",
        "%",
    ),
    (r"(?<=\d)\s*(?:\\text\{\s*)?([AaPp])\.?\s?[Mm]\b\.?(?:\s*\})?$", r"\\text{ \1m}"),
    (r"°", r"^\\circ"),
    (r"(?<=\d)\s*(?:\\text\{\s*)?([kM]?)(?:\s*\})?\s*\\Omega(?![a-z])", r"\\text{ \1ohm}"),
    # numbers in bases
    (r"^\((\w+)\)_(?=\{?\(?\w+\)?\}?$)", r"\1_"),
    (r"(?<=\d)_\s*\{?\(?(\d+)\)?\}?$", r"_{\1}"),
    # ratios and clock times
    (r"^(\d+)\s*(?:\\text\{\s*)?to(?:\s*\})?\s*(\d+)$", r"\1:\2"),
    (r"\\colon(?![a-z])", ":"),
)
"""Pattern and replacement, by kind; the order counts."""
_COMPILED = tuple((re.compile(pattern), replacement) for pattern, replacement in _SPELLINGS)

_INTEGER = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+)"
_PLAIN = re.compile(rf"[-+]?(?:{_INTEGER}(?:\.\d*)?|\.\d+)")
_FRACTION = re.compile(
    r"([-+]?)(?:(\d+)(?: (?=\d)|(?=\\))| ?)(?:\\frac\{([-+]?\d+)\}\{(\d+)\}|(\d+)/(\d+))"
)
_SCIENTIFIC = re.compile(r"([-+]?\d+(?:\.\d*)?)(?:[eE]|\\times10\^)\{?([-+]?\d{1,3})\}?")
_REPEATING = re.compile(r"([-+]?)(\d*)\.(\d*)\\overline\{(\d+)\}")
SCALES = {
    "dozen": 12,
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
"""Words that multiply the number before them."""
_SCALED = re.compile(
    rf"^([-+]?\d[\d,]*(?:\.\d+)?)\s*(?:\\text\{{\s*)?({'|'.join(SCALES)})\b(?:\s*\}})?",
    re.IGNORECASE,
)
_CURRENCIES = {
    r"\\?\$": "dollar",
    "US\\s?\\\\?\\$|USD": "dollar",
    "€|EUR": "euro",
    r"£|GBP|\\pounds": "sterling",
    "¥|JPY": "yen",
    "₹|Rs\\.?|INR": "rupee",
    "₩|KRW": "won",
    "₽|RUB": "ruble",
    "CNY|RMB": "yuan",
    "[₫₱₪₺₴₦฿₿₡₲₵₸]": "money",
}
_MONEY = tuple(
    re.compile(rf"^([-+]?)\s*(?:(?:\\text\{{\s*)?({sign})\s*(?:\}})?)\s*(?=[-+\d.\\({{])()")
    for sign in _CURRENCIES
)
_LABEL = re.compile(
    r"^(?:\\text\{\s*)?(?:(?:so|thus|hence|therefore),?\s+)?"
    r"(?:(?:the|my|our)\s+)?(?:(?:final|correct|total|exact)\s+)?"
    r"(?:answer|result|value|solution|sum|total|number|ans)s?\s*(?:(?:is|are)\b\s*:?|:|=)\s*(?:\})?\s*",
    re.IGNORECASE,
)
_SEPARATOR = re.compile(
    r"[\s,;]*(?:(?:\\text\{\s*[,;]?\s*(?:and|or)\s*,?\s*\}"
    r"|(?<![A-Za-z\\])(?:and|or)(?![a-z]|[^{}]*(?<!\\)\})|\\lor(?![a-z])|\\vee(?![a-z])"
    r"|\\q?quad(?![a-z])|\\\\|;|\n\s*(?:[*•]\s+)?)[\s,;]*)+"
)


@lru_cache(maxsize=65536)
def tidy(text: str) -> str:
    """The answer in one spelling: Unicode, styles, brackets, relations, digits, money, lists."""
    text = tex_spelling(text).strip().strip("*").strip()
    if len(re.findall(r"(?<!\\)\$", text)) % 2 == 0:
        # in pairs they are TeX's, alone a currency
        text = re.sub(r"(?<!\\)\$", " ", text).strip()
    text = _plain_words(in_symbols(respelled(text)))
    text = _degrees(_money(_LABEL.sub("", text, count=1)))
    text = text.replace("\\$", "$").replace("$", "")
    text = _repeating(_matrix(text))
    if "\\begin" not in text:
        text = as_interval(text) or _SEPARATOR.sub(", ", _grouped(text))
    text = _SCALED.sub(_scaled, text)
    text = re.sub(r"\s*\\times\s*", r"\\times", re.sub(r"\s+", " ", text)).strip(" ,;")
    if re.fullmatch(r"-?[\d.]+(?: -?[\d.]+)+", text) and not _PLAIN.fullmatch(text):
        text = text.replace(" ", ", ")
    return _braced(text).rstrip(" .").strip()


def respelled(text: str) -> str:
    """Without styles, and with the spellings of the table, anywhere in a text."""
    if "\\begin" not in text and not re.search(r"(?<!\\)(?:\\\\)*\\[A-Za-z]", text):
        # all backslashes were escaped once too often
        text = re.sub(r"\\\\(?=[A-Za-z])", r"\\", text)
    text = re.sub(r"\\(?:text)?color(?:box)?\s*\{\w+\}", r"\\color ", text)
    text = _without_command(text, _STYLES)
    for pattern, replacement in _COMPILED:
        text = pattern.sub(replacement, text)
    return _braced(text)


def plain_number(text: str) -> Fraction | None:
    """The value of one number: `1,234.5`, `$5`, `12%` (12), `3/4`, `\\frac{3}{4}`, `3\\frac{1}{2}`,
    `1.5e3`, `0.\\overline{3}`; else None.
    """
    text = tidy(text).rstrip("%").removesuffix("\\text{ dollar}").strip()
    if len(text) > 100:
        return None
    if _PLAIN.fullmatch(text):
        return Fraction(re.sub("[, ]", "", text).rstrip("."))
    if match := _FRACTION.fullmatch(text):
        sign, integer, *pairs = match.groups()
        above, below = next(
            (int(a), int(b)) for a, b in (pairs[:2], pairs[2:]) if a is not None
        )
        value = Fraction(above, below) + int(integer or 0) if below else None
        return value if value is None or sign != "-" else -value
    if match := _REPEATING.fullmatch(text):
        sign, integer, once, again = match.groups()
        value = Fraction(
            int(f"{integer or 0}{once}{again}") - int(f"{integer or 0}{once}"),
            10 ** len(once) * (10 ** len(again) - 1),
        )
        return -value if sign == "-" else value
    if match := _SCIENTIFIC.fullmatch(text):
        return Fraction(match[1].rstrip(".")) * Fraction(10) ** int(match[2])
    return None


def unwrapped(text: str) -> str:
    """A tidy answer without `\\text{}`."""
    return " ".join(re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text).split())


def _without_command(text: str, names: str) -> str:
    """The text without these commands and the braces around their arguments."""
    command = re.compile(rf"\\(?:{names})(?![A-Za-z])\s*")
    while match := command.search(text):
        end = _closing(text, match.end())
        argument = text[match.end() + 1 : end] if end else ""
        text = text[: match.start()] + argument + text[end + 1 if end else match.end() :]
    while text.startswith("{") and _closing(text, 0) == len(text) - 1:
        text = text[1:-1].strip()
    return text


def _closing(text: str, start: int) -> int:
    """Where the brace at `start` closes; 0 if there is none or it does not."""
    depth = 0
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return position if position > start else 0
    return 0


def _plain_words(text: str) -> str:
    """`\\text{7.5}` and `\\text{\\frac12}` hold no words, `\\text{5 cm}` a number and its unit."""
    start = text.find("\\text{")
    while start >= 0:
        end = _closing(text, start + 5)
        content = text[start + 6 : end] if end else ""
        if "\\" in content:
            text = text[:start] + content + text[end + 1 :]
        start = text.find("\\text{", start + 1)
    text = re.sub(r"\\text\{([^{}A-Za-z]*)\}", r" \1 ", text).strip()
    return re.sub(r"^\\text\{(\s*[-+]?\d[^{}]*)\}$", r"\1", text).strip()


def _money(text: str) -> str:
    """The sign of a currency as a unit: `€5` is `5\\text{ euro}`."""
    if behind := re.fullmatch(r"([-+]?\d[\d,.]*)\s*([€£¥₹₩₽])", text):
        text = behind[2] + behind[1]
    for pattern, name in zip(_MONEY, _CURRENCIES.values(), strict=True):
        if match := pattern.match(text):
            amount = match[1] + text[match.end() :]
            number = re.match(
                rf"[-+]?\d[\d,]*(?:\.\d+)?(?:\s*(?:{'|'.join(SCALES)})\b)?", amount
            )
            end = number.end() if number and "/" not in amount[: number.end() + 1] else None
            end = len(amount) if end is None or "\\frac" in amount[end:] else end
            return f"{amount[:end]}\\text{{ {name}}}{amount[end:]}"
    return text


def _degrees(text: str) -> str:
    """Degrees as a unit; inside a trigonometric function as the number they stand for."""
    sign = r"\s*\^?\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-z]))\s*|\s*\\degree(?:s|Celsius)?\s*"
    if re.search(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])", text):
        text = re.sub(
            rf"(\d+(?:\.\d+)?|\\?[a-z]+)(?:{sign})",
            lambda match: rf"{{\frac{{{match[1]}\pi}}{{180}}}}",
            text,
        )
    return re.sub(sign, r"\\text{ degrees}", text)


def _repeating(text: str) -> str:
    """Decimals that repeat, in one notation: `0.\\bar3`, `0.\\dot{3}`, `0.(3)`, `0.33...`."""
    digits = r"(?<![\d.])(\d*\.\d*)"
    text = re.sub(rf"{digits}\\(?:bar|overline|dot)\s*\{{?(\d+)\}}?", r"\1\\overline{\2}", text)
    text = re.sub(r"\\overline\{(\d)\}(\d*)\\dot\s*\{?(\d)\}?", r"\\overline{\1\2\3}", text)
    text = re.sub(rf"^([-+]?){digits}\((\d+)\)$", r"\1\2\\overline{\3}", text)
    dots = re.fullmatch(
        r"([-+]?\d*\.\d*?)(\d{2,}?|\d)\2+(?:\.{3}|\\l?c?dots[a-z]?|\\ldots)(?:\s*)", text
    )
    return rf"{dots[1]}\overline{{{dots[2]}}}" if dots else text


def _grouped(text: str) -> str:
    """`x=1, y=2; x=3, y=4` is a list of two pairs."""
    parts = text.split(";")
    pairs = len(parts) > 1 and all("," in part and "(" not in part for part in parts)
    return ", ".join(f"({part.strip()})" for part in parts) if pairs else text


def _matrix(text: str) -> str:
    """A matrix as programs write it, `[[1,2],[3,4]]`, as LaTeX."""
    if not re.fullmatch(r"\[\s*\[[^\[\]]+\](?:\s*,\s*\[[^\[\]]+\])*\s*\]", text):
        return text
    rows = [row.replace(",", "&") for row in re.findall(r"\[([^\[\]]+)\]", text)]
    return r"\begin{pmatrix}" + r"\\".join(rows) + r"\end{pmatrix}"


def _scaled(match: re.Match[str]) -> str:
    value = Fraction(match[1].replace(",", "")) * SCALES[match[2].lower()]
    return str(value.numerator) if value.denominator == 1 else match[0]


def _braced(text: str) -> str:
    """Braces where TeX lets them be left out: `\\frac12`, `\\frac \\pi 4`, `\\sqrt 2`; `\\sqrt10`
    is read as people mean it.
    """
    token = r"\s*(\\[A-Za-z]+|\d|[A-Za-z])"
    text = re.sub(r"\\sqrt\s*(\d+|[A-Za-z])", r"\\sqrt{\1}", text)
    text = re.sub(rf"\\frac{token}{token}", r"\\frac{\1}{\2}", text)
    text = re.sub(rf"\\frac{token}(?=\s*\{{)", r"\\frac{\1}", text)
    return re.sub(rf"(\\frac\s*\{{[^{{}}]*\}}){token}", r"\1{\2}", text)
