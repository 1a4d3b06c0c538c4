"""Sums that are too long to do in one's head: the policy has to call the calculator. Difficulty is the number of steps.

    prompt "a=483*92;b=a-512;b?"
    completion "?483*92"      reply "44436."
    completion "?44436-512"   reply "43924."
    completion "=43924"       reward 1

So in the form `short`, with the environment `calculator`, for byte models. In the form `tools` the task is in English and the
recipe offers the tool, `env: {tools: [calculator]}`; a reward such as `exact` judges the last message.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal, NamedTuple

from rlcore.env.base import Observation
from rlcore.env.toolbox.calculator import calculator as work_out
from rlcore.environments.play import Policy, demonstrated
from rlcore.environments.task_set import Split, check_share, task_set
from rlcore.errors import TaskError
from rlcore.types import Message, Task

Form = Literal["short", "tools"]
MOST_STEPS = 26
"""As many as there are letters to name results by."""
_FIRST = {"*": "Multiply {0} by {1}.", "+": "Add {1} to {0}.", "-": "Subtract {1} from {0}."}
_NEXT = {
    "*": "Multiply the result by {0}.",
    "+": "Add {0} to the result.",
    "-": "Subtract {0} from the result.",
}
_QUESTION = "What is the result? Use the calculator for each step, then write only the number."


class Calculator:
    """The environment. A completion is a call, "?expression", or the answer, "=number"; reward 1 for the right one, else 0.

    The reply to a call is the result, or "!" where there is none. Anything else is told "!" too. All use up one of `budget`
    completions.
    """

    def reset(self, answer: str, budget: int) -> Observation:
        self._answer = answer
        self._left = budget
        self._results: list[str] = []
        return Observation(state=self._state)

    def step(self, message: Message) -> Observation:
        text = message["content"].strip()
        self._left -= 1
        if text.startswith("="):
            return Observation(reward=float(text[1:].strip() == self._answer), done=True)
        if not self._left:
            return Observation(done=True)
        result = None
        if text.startswith("?"):
            try:
                result = work_out(text[1:])
            except (ValueError, ArithmeticError):
                pass
        if result is None:
            return Observation("!.", state=self._state, metrics={"malformed_calls": 1.0})
        self._results.append(result)
        return Observation(f"{result}.", state=self._state, metrics={"tool_calls": 1.0})

    @property
    def _state(self) -> str:
        return f"{' '.join(self._results)}, {self._left} left"


class _Sum(NamedTuple):
    first: int
    steps: tuple[tuple[str, int], ...]
    """(operator, number), each applied to the result of the one before."""

    @property
    def expressions(self) -> list[str]:
        """What to give to the calculator, one after the other."""
        result, calls = str(self.first), []
        for operator, number in self.steps:
            calls.append(f"{result}{operator}{number}")
            result = work_out(calls[-1])
        return calls

    @property
    def answer(self) -> str:
        return work_out(self.expressions[-1])

    @property
    def key(self) -> str:
        return f"{self.first}{self.steps}"

    @property
    def category(self) -> str:
        return f"{len(self.steps)}-steps"

    @property
    def level(self) -> int:
        return len(self.steps)

    @property
    def short(self) -> str:
        left, parts = str(self.first), []
        name = ""
        for (operator, number), name in zip(self.steps, _LETTERS, strict=False):
            parts.append(f"{name}={left}{operator}{number};")
            left = name
        return f"{''.join(parts)}{name}?"

    @property
    def words(self) -> str:
        (operator, number), *others = self.steps
        sentences = [_FIRST[operator].format(self.first, number)]
        sentences += [_NEXT[operator].format(number) for operator, number in others]
        return " ".join([*sentences, _QUESTION])


_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def calculator(
    *,
    split: Split = "train",
    size: int = 10_000,
    seed: int = 0,
    steps: Sequence[int] = (1, 2),
    digits: int = 3,
    extra_turns: int = 1,
    mistakes: float = 0.0,
    form: Form = "short",
) -> Sequence[Task]:
    """Products of two numbers of so many digits, to which further such numbers are added or subtracted: `steps` in all.

    Task i is a function of (seed, split, i) and the settings. An answer takes one completion more than there are steps;
    `extra_turns` come on top. Demonstrations call the calculator for each step, but with probability `mistakes`, before each
    completion, they give up and answer with any number of the right length. Raises `TaskError` for settings that give no
    such task.
    """
    check_share("calculator", "mistakes", mistakes)
    if not steps or not 1 <= min(steps) <= max(steps) <= MOST_STEPS or not 1 <= digits <= 100:
        raise TaskError(
            f"calculator needs steps from 1 to {MOST_STEPS} and digits from 1 to 100, "
            f"got steps={tuple(steps)}, digits={digits}"
        )
    if extra_turns < 0 or form not in ("short", "tools"):
        raise TaskError(
            "calculator needs extra_turns >= 0 and the form 'short' or 'tools', "
            f"got {extra_turns} and {form!r}"
        )

    def number(rng: random.Random) -> int:
        return rng.randint(10 ** (digits - 1), 10**digits - 1)

    def draw(rng: random.Random) -> _Sum:
        count = rng.choice(steps)
        operators = ["*", *rng.choices("+-", k=count - 1)]
        return _Sum(number(rng), tuple((one, number(rng)) for one in operators))

    def make(id: str, problem: _Sum, rng: random.Random) -> Task:
        task = Task(
            id=id,
            prompt=problem.short if form == "short" else problem.words,
            answer=problem.answer,
            demonstration=None if form == "short" else _calls(problem, mistakes, rng),
            columns={
                "expressions": problem.expressions,
                "budget": len(problem.steps) + 1 + extra_turns,
            },
        )
        if form == "tools":
            return task
        return demonstrated(Calculator(), task, hasty(mistakes), rng)

    return task_set("calculator", draw, make, split=split, size=size, seed=seed)


def _calls(problem: _Sum, mistakes: float, rng: random.Random) -> list[Message]:
    """The demonstration in the form `tools`."""
    messages: list[Message] = []
    for expression in problem.expressions:
        if rng.random() < mistakes:
            return [
                *messages,
                {"role": "assistant", "content": _any_number(problem.answer, rng)},
            ]
        function = {"name": "calculator", "arguments": {"expression": expression}}
        call = {"type": "function", "function": function}
        messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
        reply = {"role": "tool", "name": "calculator", "content": work_out(expression)}
        messages.append(reply)
    return [*messages, {"role": "assistant", "content": problem.answer}]


def optimal(task: Task, messages: Sequence[Message], rng: random.Random) -> str:
    """Call the calculator for each step, then say its last result."""
    done = sum(message["role"] == "assistant" for message in messages)
    expressions = task.columns["expressions"]
    if done < len(expressions):
        return f"?{expressions[done]}"
    return f"={messages[-1]['content'].rstrip('.')}"


def guess(task: Task, messages: Sequence[Message], rng: random.Random) -> str:
    """Answer at once with any number that is as long as the right one."""
    return f"={_any_number(task.answer, rng)}"


def _any_number(like: str, rng: random.Random) -> str:
    digits = len(like.lstrip("-"))
    return str(rng.randint(10 ** (digits - 1), 10**digits - 1))


def hasty(mistakes: float) -> Policy:
    """The optimal policy, but before each call it gives up with probability `mistakes` and guesses."""

    def act(task: Task, messages: Sequence[Message], rng: random.Random) -> str:
        has_result = len(messages) == 2 * len(task.columns["expressions"])
        policy = guess if not has_result and rng.random() < mistakes else optimal
        return policy(task, messages, rng)

    return act


POLICIES: dict[str, Policy] = {"random": guess, "optimal": optimal}
