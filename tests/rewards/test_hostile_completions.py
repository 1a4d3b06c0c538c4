"""Completions made to cost time: no reward that is built in may take more than a moment for one."""

from __future__ import annotations

import time

import pytest

from rewards.code import extract_program

FENCE = "```"
TEXTS = {
    "spaces after a fence": FENCE + " " * 200_000,
    "spaces and a word": FENCE + " " * 200_000 + "x\n",
    "many long fences": (FENCE + " " * 2_000 + "\n") * 500,
    "many open fences": (FENCE + "js\n") * 50_000,
    "fences without lines": FENCE * 100_000,
    "indented fences": ("    " + FENCE + "\n") * 50_000,
    "one long line": "x" * 1_000_000,
    "names": "def f" * 100_000,
    "parentheses": "(" * 100_000,
    "minus": "-" * 100_000 + "1",
    "dots": "f" + ".a" * 50_000,
    "think": "</think>" * 100_000,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_program_is_looked_for_in_linear_time(text: str) -> None:
    began = time.process_time()
    for wanted, stub in (((), ""), (("f",), ""), (("f",), "def f(x):\n")):
        extract_program(text, wanted=wanted, stub=stub)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("a\n```python\nx = 1\n```\nb", "x = 1\n"),
        ("```py  \nx = 1\n  ```", "x = 1\n"),
        ("```\nx = 1\n", "x = 1\n"),
        ("```PYTHON3\nx = 1\n```\n```js\ny\n```\n", "x = 1\n"),
        ("    ```\nx = 1\n```\ny = 2\n```\n", "x = 1\n"),
        ("x = 1\n", "x = 1\n"),
        ("```python x\nx = 1\n", "x = 1\n"),
        ("```", None),
    ],
)
def test_where_a_program_begins_and_ends(text: str, program: str | None) -> None:
    assert extract_program(text) == program
