"""The tools that come with rlcore, and masked text with its search."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from rlcore.env.forms import EnvironmentSpec, load_environment
from rlcore.env.pool import EnvironmentPool
from rlcore.env.toolbox.calculator import calculator, evaluate, shown
from rlcore.env.toolbox.python import MOST_OUTPUT, Python
from rlcore.environments.masked_text import fill_from, maskable, masked_text
from rlcore.environments.search import Search
from rlcore.errors import RecipeError, TaskError
from rlcore.types import Task

VALUES = {
    "2 ** 10 - 0.5": "1023.5",
    "0.1 + 0.2": "0.3",
    "1 / 3": "0.333333333333",
    "-(3 + 4) * 2": "-14",
    "7 // 2 + 7 % 3": "4",
    "2 ^ 8 × 3 ÷ 2 − 1": "383",
    "-1 / 8": "-0.125",
    "123456789 * 987654321": "121932631112635269",
    "1e3 * 2": "2000",
}
REFUSED = [
    "__import__('os').getcwd()",
    "(1).real",
    "x + 1",
    "True + 1",
    "'a' * 3",
    "[1][0]",
    "1 if 2 else 3",
    "1,000",
    "1 +",
    "",
    "9 ** 9 ** 9",
    "2 ** 0.5",
    "1e99999999",
    "10 ** 9000 * 10",
    "(" * 300 + "1" + ")" * 300,
    "1" * 501,
]


@pytest.mark.parametrize(("text", "value"), VALUES.items())
def test_the_calculator_is_exact(text: str, value: str) -> None:
    assert calculator(text) == value


@pytest.mark.parametrize("text", REFUSED)
def test_the_calculator_runs_nothing_and_comes_back(text: str) -> None:
    started = time.perf_counter()
    with pytest.raises(ValueError):
        calculator(text)
    assert time.perf_counter() - started < 1.0


def test_numbers_are_shown_exactly_where_they_end() -> None:
    assert shown(Fraction(1, 2**20)) == "0.00000095367431640625"
    assert shown(Fraction(-5, 4)) == "-1.25"
    assert evaluate("1/3*3") == 1
    with pytest.raises(ZeroDivisionError):
        evaluate("1 // (2 - 2)")


@pytest.fixture
def python():
    tool = Python(cpu_s=4, wall_s=2.0)
    yield tool
    tool.close()


def test_the_interpreter_keeps_its_state(python: Python) -> None:
    assert python("x = 3") == "(no output)"
    assert python("print('hi')\nx + 1") == "hi\n4"
    assert python("def f(a):\n    return a * x\nf(5)") == "15"
    assert python("open('notes.txt', 'w').write('kept')\nopen('notes.txt').read()") == "'kept'"
    assert python("y") == "NameError: name 'y' is not defined (line 1)"
    assert python("def g(:").startswith("SyntaxError")
    assert python("import sys; sys.exit()").startswith("SystemExit") and python("x") == "3"
    other = Python()
    assert other("x").startswith("NameError")
    other.close()


def test_the_interpreter_is_confined(python: Python, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("s3cret")
    assert "PermissionError" in python(f"open({str(secret)!r}).read()")
    assert "PermissionError" in python("import socket; socket.socket()")
    assert "PermissionError" in python("import os; os.fork()")
    assert python("import os; dict(os.environ)") == "{'LC_ALL': 'C.UTF-8'}"
    assert "MemoryError" in python("a = [0] * 10**9")
    output = python("print('a' * 10**6)")
    assert len(output) < MOST_OUTPUT + 100 and "characters cut" in output


@pytest.mark.parametrize("code", ["while True: pass", "import time; time.sleep(60)", "import os; os._exit(3)"])
def test_an_interpreter_that_ends_is_replaced(python: Python, code: str) -> None:
    python("x = 1")
    started = time.perf_counter()
    with pytest.raises(RuntimeError, match="new interpreter"):
        python(code)
    assert time.perf_counter() - started < 8.0
    assert python("x").startswith("NameError")


def test_interpreters_end_with_their_episodes() -> None:
    def call(code: str) -> dict[str, Any]:
        function = {"name": "python", "arguments": {"code": code}}
        return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}

    spec = EnvironmentSpec(tools=[{"use": "python", "cpu_s": 3}, "finish"])
    with EnvironmentPool(spec, workers=1) as pool:
        assert [tool["function"]["name"] for tool in pool.tools] == ["python", "finish"]
        pool.reset("a", Task(id="1", prompt="x"), 0)
        pool.poll(60.0)
        pool.step("a", call("import os; os.getpid()"))
        ((_, observation),) = pool.poll(60.0)
        pid = int(observation.reply[0]["content"])
        assert Path(f"/proc/{pid}").exists()
        pool.forget("a")
        until = time.monotonic() + 10
        while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
            time.sleep(0.05)
        assert not Path(f"/proc/{pid}").exists()


def test_finish_ends_the_episode_with_its_answer() -> None:
    with EnvironmentPool(EnvironmentSpec(tools=["calculator", "finish"]), workers=1) as pool:
        pool.reset("a", Task(id="1", prompt="x"), 0)
        pool.poll(60.0)
        calls = [
            {"type": "function", "function": {"name": "calculator", "arguments": {"expression": "6*7"}}},
            {"type": "function", "function": {"name": "finish", "arguments": {"answer": "42"}}},
        ]
        pool.step("a", {"role": "assistant", "content": "", "tool_calls": calls})
        ((_, observation),) = pool.poll(60.0)
    assert observation.done and observation.text == "42"


WRONG = [
    ({"use": "calculator", "digits": 3}, "takes no parameter"),
    ({"use": "python", "cpu": 3}, "did you mean 'cpu_s'"),
    ("search", "needs a value for corpus"),
    ("calculater", "no tool 'calculater'"),
]


@pytest.mark.parametrize(("tool", "sentence"), WRONG)
def test_wrong_tools_are_named(tool: Any, sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        load_environment(EnvironmentSpec(tools=[tool]))


CHARS = 200
"""No text is longer."""
TEXTS = [
    f"In the year {1500 + i} the painter {name} came to {city} and stayed for {20 + i} weeks. "
    f"It rained a good deal there. Later he wrote to {friend} about what he had met with."
    for i, (name, city, friend) in enumerate(
        zip(
            "Aldo Bruno Carlo Dino Enzo Fabio Guido Italo Jacopo Luca Marco Nino Oreste Piero Rocco Silvio".split(),
            "Bologna Cremona Ferrara Genoa Lucca Mantua Modena Naples Padua Parma Pisa Ravenna Rimini Siena Trento Urbino".split(),
            "Zenobia Yolanda Xaverio Wanda Vittorio Umberto Tommaso Stefano Renata Quirino Paola Ottavio Norma Mirella Livia Katia".split(),
            strict=True,
        )
    )
]


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return str(path)


def test_the_search_finds_passages(corpus: str) -> None:
    search = Search(corpus, k=2)
    assert search("Ravenna Ottavio").split("\n\n")[0] == TEXTS[11]
    assert search("zzz") == search("") == search("the of") == "No passage has these words."
    with pytest.raises(TaskError, match="there is no corpus"):
        Search(f"{os.path.dirname(corpus)}/none.jsonl")
    with pytest.raises(RecipeError, match="k >= 1"):
        Search(corpus, k=0)


def test_masked_answers_are_not_in_the_prompt(corpus: str) -> None:
    for masks in ([1], [2], [3], [4], [1, 2, 3, 4]):
        tasks = masked_text(corpus, size=60, masks=masks, chars=CHARS)
        for task in tasks:
            answers = task.answer.split("; ")
            assert len(answers) == task.columns["level"] and len(answers) in masks
            assert not any(answer in task.prompt for answer in answers)
            assert not task.columns["masked"].startswith("[mask")
    levels = {task.columns["level"] for task in tasks}
    assert levels == {1, 2, 3, 4}  # the stated mix


def test_passages_are_held_out(corpus: str) -> None:
    def filled(split: str) -> set[str]:
        texts = set()
        for task in masked_text(corpus, split=split, size=100, chars=CHARS):
            text = task.columns["masked"]
            for number, answer in enumerate(task.answer.split("; "), start=1):
                text = text.replace(f"[mask {number}]", answer)
            texts.add(text)
        return texts

    train, held_out = filled("train"), filled("heldout")
    assert train | held_out <= set(TEXTS) and train and held_out
    assert not train & held_out


def test_a_search_for_the_masked_text_solves_it(corpus: str) -> None:
    """The scripted optimal policy, which does not look at the answer."""
    search = Search(corpus, k=1, chars=CHARS)
    for task in masked_text(corpus, size=60, demonstrations=True, chars=CHARS):
        masked = task.columns["masked"]
        assert "; ".join(fill_from(masked, search(masked))) == task.answer
        called, result, answer = task.demonstration
        assert result["content"] == search(called["tool_calls"][0]["function"]["arguments"]["query"])
        assert answer["content"] == task.answer


def test_what_is_masked() -> None:
    passage = "Ann met Bo Li in 1626, but Rome. Ann left 3 days later. If she did, Then not for 17,000 men of Pisa."
    masked = [passage[start:end] for start, end in maskable(passage, {"if", "then", "not"})]
    # Not Ann, who begins and recurs; not 3, a single digit; not If and Then, which are common words.
    assert masked == ["Bo Li", "1626", "Rome", "17,000", "Pisa"]


def test_without_maskable_text_there_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "plain.jsonl"
    path.write_text(json.dumps({"text": "nothing here has a name. " * 20}) + "\n")
    with pytest.raises(TaskError, match="no passage"):
        masked_text(str(path), size=1)
    with pytest.raises(TaskError, match="masks"):
        masked_text(str(path), masks=[5])


TENSORS = """
import sys
from rlcore.env.tools import schema_of

def count(times: int, who: str = "all") -> int:
    '''Count.

    Args:
        times: How often.
        who: For whom.
    '''

known = schema_of(count)
assert "torch" not in sys.modules, "a worker that has tools imports torch"
import torch

def hear(sound: torch.Tensor) -> str:
    '''Hear.

    Args:
        sound: What is heard.
    '''

from transformers.utils import get_json_schema
assert known == schema_of(count) == get_json_schema(count)
heard = schema_of(hear)
assert heard == get_json_schema(hear)
assert heard["function"]["parameters"]["properties"]["sound"]["type"] == "audio"
"""


def test_schemas_are_transformers_and_need_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", TENSORS], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
