"""The keys of an environment: what the policy talks to, and how it is run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rlcore.env.forms import EnvironmentSpec
from rlcore.recipe.credit_sections import CreditSection
from rlcore.recipe.section import Count, PartSection, Seconds


class EnvSection(PartSection):
    """Other keys are parameters of the environment."""

    use: str = Field(
        "",
        description="a built-in environment, package.module:object, or file.py:object; not needed with tools alone",
    )
    tools: list[str | dict[str, Any]] = Field(
        default_factory=list,
        description="functions that the policy may call: calculator, python, finish, {use: search, corpus: texts.jsonl}, "
        "or file.py:function",
    )
    max_turns: Count = Field(8, description="completions of a rollout; then the episode is cut")
    deadline_s: Seconds = Field(30.0, description="longest time for one reply")
    workers: Annotated[int, Field(gt=0, le=1024)] = Field(
        4, description="processes that run environments, for each process of the run"
    )
    memory_gb: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        4.0, description="limit on each worker's data; null: none"
    )
    max_reply: Count = Field(
        20_000, description="characters of one reply; the rest is cut, and the policy is told"
    )
    python: str | None = Field(
        None, description="another interpreter for the workers, with packages of its own"
    )
    tool_format: Literal["hermes", "xml", "llama", "mistral"] | None = Field(
        None, description="how the policy writes calls; null: as its chat template does"
    )
    history: Literal["append", "template"] = Field(
        "append",
        description="append: earlier turns stay as they were written; template: the chat template may rewrite them, "
        "and a rewritten turn begins a further training sequence",
    )

    @model_validator(mode="after")
    def _names_something(self) -> EnvSection:
        if not self.use and not self.tools:
            raise ValueError("name an environment with `use`, or functions with `tools`")
        return self

    @property
    def spec(self) -> EnvironmentSpec:
        """What the workers load."""
        return EnvironmentSpec(self.use, tuple(self.tools), self.parameters)


def conflicts(env: EnvSection | None, credit: CreditSection) -> Iterator[str]:
    """What an rl stage's environment and its credit ask of each other, as sentences that begin with a key."""
    steps, turns = credit.steps, credit.turns
    by_turn = steps is not None and steps.split == "turn"
    if env is None:
        if turns is not None:
            yield "credit.turns has no effect without env"
        if by_turn:
            yield "credit.steps.split is turn, which needs env"
        return
    if steps is not None and not (by_turn and steps.use == "monte_carlo"):
        yield "credit.steps with env values turns: set split: turn and use: monte_carlo, or leave out one of them"
    if steps is not None and steps.keep != "none":
        yield "credit.steps.keep learns from continuations of single completions: leave it out with env"
    if turns is not None and steps is not None:
        yield "credit.turns and credit.steps both say what a turn is worth: leave out one of them"
    if turns is not None and credit.demonstrations == "mixed":
        yield "credit.turns: a mixed-in demonstration has no turns that were rewarded: leave out one of them"
