"""Python programs against tests, in the formats of MBPP (`test_list`) and HumanEval (`test`, `entry_point`).

The program is taken from the answer, after its last `</think>` if there is one, like this:

    1. the last fenced block (```python, ```py or no language) that defines what the tests call
    2. else the last fenced block
    3. else what follows the fence of an unfinished block, or the whole answer, if it defines what the tests call

Fences are CommonMark's: backquotes or tildes, indented in a list, with more words behind the language. Functions, classes and
imports that the program lacks are taken from the answer's other blocks, since people read such an answer as one program; a
block that defines what the tests call is a draft, and stays out.

For HumanEval a program without the entry point continues the prompt: it is put behind it, and where the whole is no Python, cut
at the first line that is neither indented nor a comment. `rewards.sandbox` runs it; nothing it prints or exits with counts.
"""

from __future__ import annotations

import builtins
import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from rewards.code_blocks import parsed, python_blocks, with_helpers
from rewards.sandbox import Limits, Sandbox, SandboxError, check_program
from rewards.thoughts import after_thoughts
from rlcore import Verdict, find, reward


@reward
def code_tests(
    completion: str,
    *,
    prompt: Any = "",
    test_list: Sequence[str] | str | None = None,
    test_setup_code: str | None = None,
    challenge_test_list: Sequence[str] | str | None = None,
    test: str | None = None,
    entry_point: str | None = None,
    partial: bool = False,
    challenge: bool = False,
    cpu_s: int = 5,
    wall_s: float = 8.0,
    memory_mb: int = 512,
    sandbox: str | None = None,
    **columns: Any,
) -> Verdict:
    """1 if the program in the answer passes all tests, else 0; with `partial` the share of the asserts that hold, 0 to 1.

    The tests are MBPP's columns `test_list`, `test_setup_code` and, with `challenge`, `challenge_test_list`, or HumanEval's
    `test`, `entry_point` and `prompt`. An answer without a program is `wrong-format` and 0. A program that fails, hangs or
    takes too much is 0, and `reason` holds the first failed test or the error. Tests that cannot be run are `unscorable`.
    `cpu_s`, `wall_s` and `memory_mb` bound the program (keep `wall_s` some seconds under the deadline of rewards). `sandbox`
    names a sandbox of your own, `file.py:run` or `package.module:run`, see docs/sandbox.md. Standard library only.

    Source: MBPP (arXiv:2108.07732), HumanEval (arXiv:2107.03374).

    >>> verdict = code_tests("def add(a, b): return a - b", test_list=["assert add(2, 0) == 2", "assert add(2, 2) == 4"])
    >>> verdict.value, verdict.reason
    (0.0, 'test 2 of 2 failed: add(2, 2) == 4: the program gave 0')
    """
    test_list, challenge_test_list = _listed(test_list), _listed(challenge_test_list)
    if test_list:
        stub, setup, names = "", test_setup_code or "", []
        tests = [*test_list, *(challenge_test_list if challenge else [])]
    elif test and entry_point:
        stub, names = _stub(prompt), [entry_point]
        setup, tests = stub, [f"{test}\ncheck({entry_point})\n"]
    else:
        return Verdict(
            value=None,
            status="unscorable",
            reason="no tests: needs test_list, or test and entry_point",
        )
    program = extract_program(completion, wanted=names or _called(tests), stub=stub)
    if program is None:
        return Verdict(
            value=0.0, status="wrong-format", reason="there is no Python program in the answer"
        )
    limits = Limits(cpu_s=cpu_s, wall_s=wall_s, memory_mb=memory_mb)
    try:
        outcome = check_program(
            program, tests, setup=setup, names=names, limits=limits, sandbox=_named(sandbox)
        )
    except SandboxError as error:
        return Verdict(value=None, status="unscorable", reason=str(error))
    return Verdict(
        value=outcome.share if partial else float(outcome.passed), reason=outcome.feedback
    )


def _listed(tests: Sequence[str] | str | None) -> list[str]:
    """The tests of a column; a string is one test, or a list of them in JSON."""
    if not isinstance(tests, str):
        return list(tests if tests is not None else [])
    if tests.lstrip().startswith("["):
        try:
            return [str(test) for test in json.loads(tests)]
        except ValueError:
            pass
    return [tests] if tests else []


def extract_program(
    completion: str, *, wanted: Sequence[str] = (), stub: str = ""
) -> str | None:
    """The Python program in an answer, None if there is none.

    wanted: names a program should define. stub: the start of a program that the answer may continue (HumanEval's prompt).
    """
    completion = after_thoughts(completion).replace("\r\n", "\n").lstrip("\ufeff")
    fenced = python_blocks(completion)
    blocks = [block.code for block in fenced if block.closed]
    if blocks:
        program = next(
            (block for block in reversed(blocks) if _defines(block, wanted)), blocks[-1]
        )
        others = [block for block in reversed(blocks) if block is not program]
        program = with_helpers(program, others, wanted)
    else:
        program = fenced[-1].code if fenced else completion
    if stub:
        return _continued(stub, program, wanted)
    is_program = bool(blocks) or (_defines(program, wanted) if wanted else _parses(program))
    return program if program.strip() and is_program else None


def _continued(stub: str, program: str, wanted: Sequence[str]) -> str | None:
    """The stub with what defines its function or continues it."""
    if _defines(program, wanted) and _parses(program):
        return f"{stub}\n{program}"
    for body in (program, _indented_start(program)):
        if body.strip() and _parses(stub + body):
            return stub + body
    return f"{stub}\n{program}" if _defines(program, wanted) else None


def _indented_start(text: str) -> str:
    """The lines up to the first that stands at the margin and is no comment."""
    lines = text.splitlines(keepends=True)
    ends = [number for number, line in enumerate(lines) if number and re.match(r"[^\s#]", line)]
    return "".join(lines[: ends[0]] if ends else lines)


def _defines(program: str, names: Sequence[str]) -> bool:
    return any(
        re.search(
            rf"^(?:async\s+)?(?:def|class)\s+{re.escape(name)}\b|^{re.escape(name)}\s*=",
            program,
            re.MULTILINE,
        )
        for name in names
    )


def _parses(program: str) -> bool:
    return parsed(program) is not None


def _called(tests: Sequence[str]) -> list[str]:
    """Functions the tests call that Python does not have."""
    return [
        name
        for name in re.findall(r"\b([A-Za-z_]\w*)\s*\(", " ".join(tests))
        if not hasattr(builtins, name)
    ]


def _stub(prompt: Any) -> str:
    """HumanEval's prompt where it is Python, alone or as a fenced block of a message; else ""."""
    text = prompt if isinstance(prompt, str) else str(prompt[-1]["content"]) if prompt else ""
    blocks = [block.code for block in reversed(python_blocks(text)) if block.closed]
    return next((part for part in (text, *blocks) if _parses(part)), "")


@lru_cache
def _named(use: str | None) -> Sandbox | None:
    """The sandbox a recipe names. Raises RecipeError if there is none."""
    return None if use is None else find(use, {}, what="sandbox")
