"""The reward `code`: how a program is found, the two formats on real rows, and life inside a scoring worker."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rewards.code import code_tests, extract_program
from rewards.sandbox import report
from rlcore import RewardSpec, Task
from rlcore.errors import RecipeError
from rlcore.scoring.scorer import Scorer

FOLDER = Path(
    os.environ.get("RLCORE_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")
)
MBPP, HUMANEVAL = FOLDER / "mbpp.part_a.jsonl", FOLDER / "humaneval.first_half.jsonl"
STRIDE = 1 if os.environ.get("RLCORE_FULL") else 12
"""RLCORE_FULL=1 takes every row."""
here = pytest.mark.skipif(
    not (MBPP.exists() and HUMANEVAL.exists()),
    reason="MBPP and HumanEval are not here; set RLCORE_DATA",
)

HOLDS, WHAT = report()
pytestmark = pytest.mark.skipif(
    not HOLDS, reason=f"this machine cannot confine programs: {WHAT}"
)

STUB = 'from typing import List\n\n\ndef total(xs: List[int]) -> int:\n    """Sum. \n    >>> total([1])\n    1\n    """\n'
CHECK = (
    "def check(candidate):\n    assert candidate([1, 2]) == 3\n    assert candidate([]) == 0\n"
)
TESTS = ["assert add(1, 2) == 3", "assert add(0, 0) == 0"]
GOOD = "def add(a, b):\n    return a + b\n"


# Finding the program

FENCES = {
    "Windows line ends": f"Here:\n\n```python\n{GOOD}```\n".replace("\n", "\r\n"),
    "indented in a list": "- so\n\n    ```python\n    def add(a, b):\n        return a + b\n    ```",
    "tab in a list": "1. so\n\t```python\n\tdef add(a, b):\n\t\treturn a + b\n\t```",
    "tildes": f"~~~python\n{GOOD}~~~",
    "four backquotes": f"````python\n{GOOD}````",
    "a fence in a string": f'````python\nX = """\n```\n"""\n{GOOD}````',
    "attributes": f"```{{.python .numberLines}}\n{GOOD}```",
    "words behind the language": f"```python copy\n{GOOD}```",
    "a title": f'``` py title="a.py"\n{GOOD}```',
    "after a block of another language": f"```bash\nls\n```\n{{}}\n```python\n{GOOD}```",
    "prose between blocks of another language": f"```python\n{GOOD}```\n```text\nx\n```\nso\n```json\n1\n```",
}


@pytest.mark.parametrize("name", FENCES)
def test_fences_are_commonmarks(name):
    assert code_tests(FENCES[name], test_list=TESTS).value == 1.0


HELPER = "```python\ndef helper(a):\n    return a\n```\n"
WITH_HELPER = "```python\ndef add(a, b):\n    return helper(a) + b\n```\n"


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (HELPER + WITH_HELPER, 1.0),
        (WITH_HELPER + HELPER, 1.0),
        (
            "```python\nimport math\n```\n```python\ndef add(a, b):\n    return math.floor(a + b)\n```",
            1.0,
        ),
        (f"```python\nbase = 0\n{{}}\n```\n{HELPER}{WITH_HELPER}", 1.0),
        # only definitions are taken, a block's other statements are not run
        (HELPER.replace("def", "1 / 0\ndef", 1) + WITH_HELPER, 1.0),
        # a draft of the program is no helper
        (
            "```python\ndef add(a, b): return 3\ndef helper(a): return a\n```\n" + WITH_HELPER,
            0.0,
        ),
        (WITH_HELPER, 0.0),
    ],
)
def test_helpers_in_blocks_of_their_own(answer, value):
    assert code_tests(answer, test_list=TESTS).value == value


@pytest.mark.parametrize(
    "answer",
    [
        GOOD,
        f"```python\n{GOOD}```",
        f"```py\n{GOOD}```",
        f"```\n{GOOD}```",
        f"Sure!\n\n  ```Python\n{GOOD}```\nHope it helps: `add`.",
        f"```python\ndef add(a, b): pass\n```\nwait\n```python\n{GOOD}```",
        f"```python\n{GOOD}```\nUse it:\n```python\nprint(add(1, 2))\n```\n```bash\nls\n```",
        f"<think>```python\ndef add(a, b): pass\n```</think>```python\n{GOOD}```",
        f"```python\n{GOOD}",
        "add = lambda a, b: a + b",
        "```python\nadd = lambda a, b: a + b\n```",
    ],
)
def test_the_program_is_found(answer):
    assert code_tests(answer, test_list=TESTS).value == 1.0, extract_program(
        answer, wanted=["add"]
    )


@pytest.mark.parametrize(
    "answer", ["", "  \n", "I cannot do that.", "No", "```python\n```", "```json\n{}\n```"]
)
def test_an_answer_without_a_program_is_wrong_format(answer):
    verdict = code_tests(answer, test_list=TESTS)
    assert (verdict.value, verdict.status) == (0.0, "wrong-format")


@pytest.mark.parametrize(
    "answer",
    [
        "    return sum(xs)\n",
        "    return sum(xs)\n\n\nprint(total([1]))\n\nThat is all there is to it.",
        "    # add\n# them\n    return sum(xs)\ndef total(",
        f"```python\n{STUB}    return sum(xs)\n```",
        "```python\ndef total(xs):\n    return sum(xs)\n```",
        "```python\n    return sum(xs)\n```",
        "def total(xs: List[int]) -> int:\n    return sum(xs)",
    ],
)
@pytest.mark.parametrize(
    "prompt", [STUB, [{"role": "user", "content": f"Complete this.\n```python\n{STUB}```"}]]
)
def test_humaneval_answers_continue_the_prompt_or_stand_alone(answer, prompt):
    given = {"prompt": prompt, "test": CHECK, "entry_point": "total"}
    assert code_tests(answer, **given).value == 1.0
    assert code_tests(answer.replace("sum(xs)", "len(xs)"), **given).value == 0.0


# Verdicts


def test_partial_credit_and_feedback():
    off = "def add(a, b):\n    return a or b\n"
    assert code_tests(off, test_list=TESTS).value == 0.0
    verdict = code_tests(off, test_list=TESTS, partial=True)
    assert (verdict.value, verdict.reason) == (
        0.5,
        "test 1 of 2 failed: add(1, 2) == 3: the program gave 1",
    )
    assert (
        code_tests(
            STUB + "    return 3", prompt=STUB, test=CHECK, entry_point="total", partial=True
        ).value
        == 0.5
    )
    assert (
        "SyntaxError"
        in code_tests("def add(a, b): return a +", test_list=TESTS, partial=True).reason
    )
    assert (
        code_tests(f"{GOOD}\n1 / 0", test_list=TESTS, partial=True).reason
        == "ZeroDivisionError: division by zero (line 4)"
    )


def test_challenge_tests_and_setup():
    more = {
        "test_list": TESTS,
        "challenge_test_list": ["assert add(LIMIT, 1) == 0"],
        "test_setup_code": "LIMIT = 9",
    }
    assert (
        code_tests(GOOD, **more).value == 1.0
        and code_tests(GOOD, challenge=True, **more).value == 0.0
    )


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"test_list": []},
        {"test": CHECK},
        {"test_list": ["assert add(1, 2) =="]},
        {"test_list": ["add(1, 2)"]},
    ],
)
def test_tests_that_cannot_be_run_are_unscorable(columns):
    verdict = code_tests(GOOD, **columns)
    assert (verdict.value, verdict.status) == (None, "unscorable") and verdict.reason


REFUSES = "try:\n    f(-1)\n    assert False\nexcept ValueError:\n    pass"


REFUSES_ELSE = "try:\n    f(-1)\nexcept ValueError:\n    pass\nelse:\n    assert False"


@pytest.mark.parametrize("test", [REFUSES, REFUSES_ELSE])
def test_a_test_that_ends_well_without_an_assert_reached_has_passed(test):
    programs = {
        "raise ValueError('x')": 1.0,
        "return 1": 0.0,
        "raise KeyError('x')": 0.0,
        "import os; os._exit(0)": 0.0,
    }
    for bare in (test, test.replace("except ValueError", "except")):
        for body, right in programs.items():
            verdict = code_tests(f"def f(n): {body}", test_list=[bare])
            swallowed = bare != test and "KeyError" in body
            assert verdict.value == (1.0 if swallowed else right), (body, bare)
            assert verdict.value or verdict.reason


@pytest.mark.parametrize("given", ["lambda x: x", "Point()", "[Point()]"])
def test_a_value_that_cannot_travel_is_unscorable(given):
    tests = [f"class Point: pass\nassert f({given}) == 1"]
    verdict = code_tests("def f(x): return 1", test_list=tests)
    assert (
        verdict.status == "unscorable" and "cannot be handed to the program" in verdict.reason
    )


def test_a_string_is_one_test():
    assert code_tests(GOOD, test_list=TESTS[0]).value == 1.0
    assert code_tests(GOOD.replace("+", "-"), test_list=TESTS[0]).value == 0.0


def test_a_sandbox_from_a_file(plugin):
    path = plugin("""
        import subprocess, sys

        def run(program, stdin, limits):
            return subprocess.run([sys.executable, "-c", program], input=stdin, capture_output=True, text=True).stdout

        def broken(program, stdin, limits):
            return "1"
    """)
    assert code_tests(GOOD, test_list=TESTS, sandbox=f"{path}:run").value == 1.0
    assert code_tests(GOOD, test_list=TESTS, sandbox=f"{path}:broken").status == "unscorable"
    with pytest.raises(RecipeError, match="'rum'"):
        code_tests(GOOD, test_list=TESTS, sandbox=f"{path}:rum")


# Real rows


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()][
        ::STRIDE
    ]


def score(rollout, items: list[tuple[Task, list[str]]]) -> list[list[float | None]]:
    with Scorer(
        [RewardSpec("rewards.code:code_tests", params={"challenge": True})],
        workers=2,
        deadline_s=30,
    ) as scorer:
        groups = scorer.score(
            [(task, [rollout(text) for text in texts]) for task, texts in items]
        )
    wrong = {
        task.id: verdicts[0].reason
        for (task, _), verdicts in zip(items, groups, strict=True)
        if verdicts[0].value != 1.0
    }
    assert not wrong, wrong
    return [[verdict.value for verdict in verdicts] for verdicts in groups]


@here
def test_mbpp_solutions_pass_and_mutants_fail(rollout):
    items = []
    for row in rows(MBPP):
        mutant = re.sub(r"\breturn\b", "return 1,", row["code"])
        texts = [f"```python\n{row['code']}\n```", f"```python\n{mutant}\n```"]
        items.append((Task(id=str(row["task_id"]), prompt=row["text"], columns=row), texts))
    assert all(values == [1.0, 0.0] for values in score(rollout, items))


@here
def test_humaneval_solutions_pass_and_mutants_fail(rollout):
    items = []
    for row in rows(HUMANEVAL):
        body = row["canonical_solution"]
        mutant = re.sub(r"\breturn\b", "return 1,", body)
        texts = [
            body,
            f"```python\n{row['prompt']}{body}\n```",
            mutant,
            f"```python\n{row['prompt']}{mutant}\n```",
        ]
        items.append((Task(id=row["task_id"], prompt=row["prompt"], columns=row), texts))
    assert all(values == [1.0, 1.0, 0.0, 0.0] for values in score(rollout, items))


# In a scoring worker


def alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def descendants(pid: str) -> set[str]:
    children = set()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            if entry.read_text().rpartition(")")[2].split()[1] == pid:
                children.add(entry.parent.name)
        except OSError:
            pass
    return children.union(*(descendants(child) for child in children))


def soon(happened: Callable[[], bool], seconds: float = 3.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not happened():
        time.sleep(0.02)
    return happened()


def test_killing_the_worker_kills_the_program_and_the_next_one_scores(rollout):
    hang = "def add(a, b):\n    while True: pass"
    with Scorer([RewardSpec("rewards.code:code_tests")], workers=1, deadline_s=4.0) as scorer:
        task = Task(id="t", prompt="p", columns={"test_list": TESTS})
        assert scorer.score([(task, [rollout(GOOD)])])[0][0].value == 1.0
        scorer.submit("hangs", task, [rollout(hang)])
        worker = str(scorer._workers[0].pid)
        assert soon(lambda: len(descendants(worker)) == 3), "harness, judge and program"
        family = descendants(worker)
        verdicts = scorer.poll(20.0)[0][1]
        assert (
            verdicts[0].status == "timed-out"
        )  # the worker's deadline is shorter than the program's
        assert soon(lambda: not any(map(alive, family)))
        assert scorer.score([(task, [rollout(GOOD)])])[0][0].value == 1.0


def test_a_hanging_program_is_wrong_not_unscored(rollout):
    hang = "def add(a, b):\n    while True: pass"
    spec = RewardSpec("rewards.code:code_tests", params={"cpu_s": 1, "wall_s": 30.0})
    with Scorer([spec], workers=1, deadline_s=40) as scorer:
        task = Task(id="t", prompt="p", columns={"test_list": TESTS})
        verdicts = scorer.score([(task, [rollout(hang), rollout(GOOD)])])[0]
    assert [verdict.value for verdict in verdicts] == [0.0, 1.0]
    assert "over 1 s of CPU time" in verdicts[0].reason


DOCSTRING_FENCES = ["    ```", "        ```", "\t```", "    ```python", "    ~~~"]


@pytest.mark.parametrize("fence", DOCSTRING_FENCES)
@pytest.mark.parametrize("outer", ["", "    "])
def test_a_fence_in_a_docstring_ends_no_program(fence, outer):
    closing = re.sub("python", "", fence)
    lines = [
        "```python",
        "def f(x):",
        "    '''Squares.",
        fence,
        "    f(2)",
        closing,
        "    '''",
        "    return x * x",
        "```",
    ]
    answer = "\n".join(outer + line for line in lines) + "\nThat is all."
    assert code_tests(answer, test_list=["assert f(2) == 4"]).value == 1.0
    assert code_tests(answer, test_list=["assert f(2) == 5"]).value == 0.0


def test_a_fence_indented_too_far_closes_where_no_other_does():
    answer = "```python\ndef f(x):\n    return x * x\n    ```\nThat is all."
    assert code_tests(answer, test_list=["assert f(2) == 4"]).value == 1.0


def test_a_byte_order_mark_and_tests_as_json():
    answer = "\ufeff```python\ndef f(x):\n    return x * x\n```"
    assert code_tests(answer, test_list='["assert f(2) == 4", "assert f(3) == 9"]').value == 1.0
    assert (
        code_tests(
            answer, test_list='["assert f(2) == 4", "assert f(3) == 8"]', partial=True
        ).value
        == 0.5
    )


IN_PLACE = {
    "a = [2, 1]; f(a); assert a == [1, 2]": (
        "a.sort()",
        "a.sort(); return a",
        "a.sort(); return 7",
    ),
    "a = [2, 1]; r = f(a); assert r is None and a == [1, 2]": ("a.sort()",),
    "a = {2: [1]}; f(a); assert a == {2: [1, 3]}": ("a[2].append(3)",),
    "a = {2}; f(a); assert a == {1, 2}": ("a.add(1)", "a |= {1}"),
    "a = [2, 1]\ndef helper(g):\n    g(a=a)\nhelper(f); assert a == [1, 2]": ("a.sort()",),
}


@pytest.mark.parametrize(("test", "bodies"), IN_PLACE.items())
def test_a_test_sees_what_a_call_changed_in_place(test, bodies):
    for body in bodies:
        assert code_tests(f"```\ndef f(a): {body}\n```", test_list=[test]).value == 1.0
    for wrong in (
        "pass",
        "return [1, 2]",
        "a = [1, 2]",
        "a.clear()",
        "a.append(a)" if "[2" in test else "a.clear()",
    ):
        assert code_tests(f"```\ndef f(a): {wrong}\n```", test_list=[test]).value == 0.0


def test_a_program_cannot_change_what_its_value_is_compared_with():
    for body in ("a.clear(); return 0", "a[:] = [5]; return 5"):
        verdict = code_tests(
            f"```\ndef f(a): {body}\n```", test_list=["a = [2, 1]\nassert f(a) == sum(a)"]
        )
        assert verdict.value == 0.0
    equal = "class E(int):\n    def __eq__(self, other): return True\ndef f(a): a[:] = [E()]"
    verdict = code_tests(f"```\n{equal}\n```", test_list=["a = [2]; f(a); assert a == [1]"])
    assert verdict.value == 0.0


def test_a_sandbox_that_fails_says_what_came_back(plugin):
    path = plugin(
        "def run(program, stdin, limits): return 'Cannot connect to the Docker daemon'"
    )
    verdict = code_tests(
        "```\nf = abs\n```", test_list=["assert f(1) == 1"], sandbox=f"{path}:run"
    )
    assert (
        verdict.status == "unscorable"
        and "Cannot connect to the Docker daemon" in verdict.reason
    )
