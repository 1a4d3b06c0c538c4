"""Prompts with fields to fill, and the default prompts of corpus tasks."""

from __future__ import annotations

import re

from rlcore.errors import TaskError

_PLACE = re.compile(r"\{(\w+)\}")

ASR = """Below is the beginning of a text. Reason step by step about how it goes on, then write the one sentence that most \
probably comes next between <next> and </next>.

{context}"""
MSR = """Below is a text in which one sentence is missing at [MISSING]. Reason step by step about what it says, then write that \
sentence between <next> and </next>.

{context}[MISSING]
{next}"""
THINK = "{context}<think>"
MASK = """Below is a text. Think about what in it can be inferred from the rest but is not obvious. Then choose one short span, \
exact words that stand in the text without a gap, such as a name, a number or a term, and write it between <mask> and </mask>.

{text}"""
PREDICT = """Below is a text in which a span is hidden at [MASK]. Reason step by step about what it says, then write the hidden \
words between <span> and </span>.

{text}"""


def fill(template: str, **values: str) -> str:
    """The template with each {place} replaced; places that no value is given for stay, and braces
    in a value mean nothing.

    >>> fill("{context}[?]{next} {budget}", context="{next}", next="b")
    '{next}[?]b {budget}'
    """
    return _PLACE.sub(lambda match: values.get(match[1], match[0]), template)


def check_template(template: str, *places: str) -> str:
    """The template. Raises `TaskError` if a place is missing."""
    for place in places:
        if f"{{{place}}}" not in template:
            raise TaskError(
                f"the prompt {template[:60]!r} has no {{{place}}}: say where it goes"
            )
    return template
