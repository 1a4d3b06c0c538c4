"""Mathematics written in Unicode, in the ASCII and TeX spelling that the readers of answers know.

`⅛` becomes `\\frac{1}{8}`, `10⁻³` becomes `10^{-3}`, a full-width, dashed or Arabic-Indic number
its plain digits. Text that is ASCII already, which is most, comes back as it is.
"""

from __future__ import annotations

import re
import unicodedata

_SYMBOLS = {
    "×": r"\times ",
    "·": r"\cdot ",
    "⋅": r"\cdot ",
    "∗": "*",
    "÷": "/",
    "∕": "/",
    "⁄": "/",
    "±": r"\pm ",
    "∓": r"\mp ",
    "√": r"\sqrt ",
    "∛": r"\sqrt[3] ",
    "∞": r"\infty ",
    "≤": r"\le ",
    "⩽": r"\le ",
    "≦": r"\le ",
    "≥": r"\ge ",
    "⩾": r"\ge ",
    "≧": r"\ge ",
    "≠": r"\ne ",
    "≈": r"\approx ",
    "≡": r"\equiv ",
    "∈": r"\in ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∖": r"\setminus ",
    "∅": r"\emptyset ",
    "∨": r"\lor ",
    "∧": r"\land ",
    "→": r"\to ",
    "⇒": r"\Rightarrow ",
    "∠": r"\angle ",
    "△": r"\triangle ",
    "∑": r"\sum ",
    "∫": r"\int ",
    "°": r"^\circ ",
    "º": r"^\circ ",
    "˚": r"^\circ ",
    "∘": r"\circ ",
    "′": "'",
    "″": "''",
    "⟨": r"\langle ",
    "⟩": r"\rangle ",
    "〈": r"\langle ",
    "〉": r"\rangle ",
    "｛": r"\{",
    "｝": r"\}",
    "ℝ": r"\mathbb{R}",
    "ℤ": r"\mathbb{Z}",
    "ℕ": r"\mathbb{N}",
    "ℚ": r"\mathbb{Q}",
    "ℂ": r"\mathbb{C}",
    "✓": r"\checkmark ",
    "✔": r"\checkmark ",
    "，": ", ",
    "、": ", ",
    "；": "; ",
    "：": ": ",
    "。": ". ",
    "．": ".",
    **dict.fromkeys("‐‑‒–—―−﹣－", "-"),
    # characters without width
    **dict.fromkeys("\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff", ""),
}
"""Characters that stand for TeX or ASCII; those with a compatibility form of their own come first."""
_TRANSLATION = str.maketrans(_SYMBOLS)
_SUPER = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ", "0123456789+-()ni", strict=True))
_SUB = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙᵢ", "0123456789+-()ni", strict=True))
_SUPERS = "".join(_SUPER)
_SUBS = "".join(_SUB)
_SCRIPT_FRACTION = re.compile(rf"([{_SUPERS}]+)[⁄/]([{_SUBS}]+)")
_GROUPED = re.compile(r"(?<=\d)[\u00a0\u2007\u2009\u202f](?=\d{3}(?!\d))")
"""A space that groups digits and cannot break a line."""
_GREEK = re.compile(r"(?<![\u0370-\u03ff])[Α-Ωα-ω](?![\u0370-\u03ff])")
"""A Greek letter by itself; words in Greek stay."""


def tex_spelling(text: str) -> str:
    """The text with its mathematics in ASCII and TeX, and otherwise in Unicode's compatibility
    form (NFKC).

    >>> tex_spelling("½ × 10⁻³ m²")
    '\\\\frac{1}{2} \\\\times10^{-3} m^{2}'
    """
    if text.isascii():
        return text
    text = _SCRIPT_FRACTION.sub(
        lambda match: rf"\frac{{{_plain(match[1])}}}{{{_plain(match[2])}}}", text
    )
    text = re.sub(f"[{_SUPERS}]+", lambda match: f"^{{{_plain(match[0])}}}", text)
    text = re.sub(f"[{_SUBS}]+", lambda match: f"_{{{_plain(match[0])}}}", text)
    text = _GROUPED.sub(",", text)
    text = "".join(letter if letter.isascii() else _spelled(letter) for letter in text)
    text = _GREEK.sub(lambda match: _greek(match[0]), text.translate(_TRANSLATION))
    text = unicodedata.normalize("NFKC", text).translate(_TRANSLATION)
    return re.sub(r"(?<=\\times) +(?=\d)|\s+(?=\^\\circ)", "", text)


def _plain(scripts: str) -> str:
    """The characters of a superscript or subscript at their usual height."""
    return "".join(_SUPER.get(letter) or _SUB[letter] for letter in scripts)


def _spelled(letter: str) -> str:
    """A fraction in one character as TeX, a digit of any script as a digit."""
    if letter in _SYMBOLS:
        return letter
    kind, *points = unicodedata.decomposition(letter).split() or [""]
    if kind == "<fraction>":
        above, _, below = "".join(chr(int(point, 16)) for point in points).partition("⁄")
        return rf"\frac{{{above}}}{{{below}}}" if below else letter
    return str(unicodedata.decimal(letter, letter))


def _greek(letter: str) -> str:
    """`π` as `\\pi`."""
    words = unicodedata.name(letter, "").split()
    if len(words) != 4 or words[:1] != ["GREEK"] or words[2] != "LETTER":
        return letter
    name = words[3].replace("LAMDA", "LAMBDA").lower()
    return rf"\{name if words[1] == 'SMALL' else name.title()} "
