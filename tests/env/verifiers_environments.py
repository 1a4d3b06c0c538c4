"""Environments of verifiers 0.3 as its users write them; they know nothing of the trainer."""

from __future__ import annotations

import verifiers as vf
from datasets import Dataset


def double(x: int) -> int:
    """Twice a number.

    Args:
        x: the number
    """
    if x < 0:
        raise ValueError("only positive numbers")
    return 2 * x


def exact(completion, answer) -> float:
    return float(completion[-1].content == answer)


def parts(completion) -> float:
    return len(completion) / 10


def tools(max_turns: int = 4) -> vf.Environment:
    data = Dataset.from_list(
        [{"question": f"What is 2 * {n}?", "answer": str(2 * n), "info": {"n": n}} for n in range(3, 8)]
    )
    rubric = vf.Rubric(funcs=[exact, parts], weights=[1.0, 0.1])
    return vf.ToolEnv(
        dataset=data, tools=[double], rubric=rubric, max_turns=max_turns, system_prompt="Use the tool."
    )


class Hunt(vf.MultiTurnEnv):
    """The policy says a number until it is the right one."""

    async def setup_state(self, state):
        state["left"] = state["info"]["tries"]
        return state

    async def env_response(self, messages, state, **kwargs):
        state["left"] -= 1
        if messages[-1].content == state["answer"]:
            state["final_env_response"] = [vf.UserMessage(content="right")]
            return []
        return [vf.UserMessage(content=f"no, {state['left']} left")]

    @vf.stop
    async def out_of_tries(self, state) -> bool:
        return state["left"] <= 0


async def tries_left(state) -> float:
    return float(state["left"])


def broken(completion) -> float:
    raise KeyError("no score")


def hunt(with_broken: bool = False) -> vf.Environment:
    data = Dataset.from_list(
        [{"question": "Number?", "answer": str(n), "info": {"tries": 3}} for n in range(5)]
    )
    funcs = [tries_left, broken] if with_broken else [tries_left]
    return Hunt(dataset=data, rubric=vf.Rubric(funcs=funcs), max_turns=6)


def single() -> vf.Environment:
    data = Dataset.from_list([{"question": "2+2?", "answer": "4"}, {"question": "1+1?", "answer": "2"}])
    return vf.SingleTurnEnv(dataset=data, eval_dataset=data.select([1]), rubric=vf.Rubric(funcs=[exact]))


def together(completions) -> list[float]:
    return [0.0 for _ in completions]


def grouped() -> vf.Environment:
    data = Dataset.from_list([{"question": "2+2?", "answer": "4"}])
    return vf.SingleTurnEnv(dataset=data, rubric=vf.Rubric(funcs=[exact, together]))


def another() -> object:
    return object()
