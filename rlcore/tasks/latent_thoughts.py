"""Latent thoughts by EM: Reasoning to Learn from Latent Thoughts (BoLT, arXiv 2503.18866).

A text x is taken as the result of a thought z. One model writes both ways, told apart by control tokens:

    prior form        <|prior|> z <|text|> x         p(z) p(x | z)
    posterior form    <|posterior|> x <|thought|> z  q(z | x)

E-step, for each text: K thoughts from q, log w_k = log p(z_k, x) - log q(z_k | x), and one of them drawn with probability
softmax(log w). M-step: next-token prediction on text and thought, in one of the two forms. log mean_k w_k is a lower bound of
log p(x) that rises with K in expectation (importance weighted autoencoders, arXiv 1509.00519).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field

from rlcore.errors import TaskError
from rlcore.tasks.made import scored
from rlcore.types import Group, Rollout, Task

MARKS = ("<|prior|>", "<|text|>", "<|posterior|>", "<|thought|>")
"""Control tokens: of the prior form before thought and text, of the posterior form before text and thought."""


def importance_weights(log_weights: Sequence[float]) -> list[float]:
    """[K] probability of each thought in the resampling: softmax of log w, [K] in nats. K is at least 1.

    >>> [round(weight, 3) for weight in importance_weights([-10.0, -11.0, -12.0, -15.0])]
    [0.662, 0.244, 0.09, 0.004]
    """
    largest = max(log_weights)
    powers = [math.exp(value - largest) for value in log_weights]
    return [power / sum(powers) for power in powers]


def log_mean_weight(log_weights: Sequence[float]) -> float:
    """log mean_k w_k in nats, from log w, [K]: the bound of log p(x).

    >>> round(log_mean_weight([-10.0, -11.0, -12.0, -15.0]), 2)
    -10.97
    """
    largest = max(log_weights)
    total = sum(math.exp(value - largest) for value in log_weights)
    return largest + math.log(total / len(log_weights))


@dataclass(frozen=True, kw_only=True, slots=True)
class Forms:
    """The two forms of a text and a thought, in tokens."""

    prior: int
    text: int
    posterior: int
    thought: int
    end: int
    """The token that ends a text."""

    @classmethod
    def of(cls, marks: Sequence[str], encode: Callable[[str], list[int]], end: int) -> Forms:
        """marks: as `MARKS`. Raises `TaskError` where one of them is not one token."""
        if len(marks) != len(MARKS) or len(set(marks)) != len(MARKS):
            raise TaskError(
                f"latent thoughts need four different marks, as {', '.join(MARKS)}, not {list(marks)}"
            )
        ids = []
        for mark in marks:
            tokens = encode(mark)
            if len(tokens) != 1:
                raise TaskError(
                    f"latent thoughts: {mark!r} is {len(tokens)} tokens of this tokenizer, and a mark is one: add it to "
                    "model.control_tokens"
                )
            ids += tokens
        return cls(prior=ids[0], text=ids[1], posterior=ids[2], thought=ids[3], end=end)

    def text_ids(self, rollout: Rollout) -> list[int]:
        """x, as the prompt of the thought has it. Raises `TaskError` where its prompt is no posterior form."""
        rollout.require_single_turn("learning latent thoughts")
        prompt = rollout.prompt_ids
        is_form = self.posterior in prompt and prompt[-1] == self.thought
        if not is_form:
            raise TaskError(
                f"task {rollout.task_id!r}: the prompt of a latent thought must be the posterior form, with the text between its two "
                f"marks and nothing behind the second; write it as '{MARKS[2]}{{text}}{MARKS[3]}'"
            )
        return prompt[prompt.index(self.posterior) + 1 : -1]

    def prior_form(self, rollout: Rollout) -> list[int]:
        """What follows the mark `prior`: the thought, the mark `text`, the text and its end."""
        return [*rollout.completion_ids, self.text, *self.text_ids(rollout), self.end]

    def posterior_form(self, rollout: Rollout) -> list[int]:
        """What follows the mark `posterior`: the text, the mark `thought` and the thought."""
        return [*self.text_ids(rollout), self.thought, *rollout.completion_ids]


def latent_thoughts(
    group: Group,
    *,
    draw: random.Random,
    encode: Callable[[str], list[int]],
    end: int,
    marks: Sequence[str] = MARKS,
    prior: Annotated[float, Field(ge=0, le=1)] = 0.5,
) -> Iterator[Task]:
    """BoLT (arXiv 2503.18866): the text with one of its thoughts, drawn with probability softmax(reward), to be imitated in the
    prior or the posterior form. The reward is log w of the stage that sampled: `latent_weight`.

    marks: the four control tokens. prior: probability of the prior form. The mark between the two parts is trained as well.
    The columns `form` and `thought` say what was drawn.
    """
    thoughts = scored(group)
    if not thoughts:
        return
    forms = Forms.of(marks, encode, end)
    log_weights = [verdict.value for _, verdict in thoughts]
    [(chosen, _)] = draw.choices(thoughts, weights=importance_weights(log_weights))
    is_prior = draw.random() < prior
    yield replace(
        group.task,
        prompt=marks[0] if is_prior else marks[2],
        demonstration=forms.prior_form(chosen) if is_prior else forms.posterior_form(chosen),
        columns={
            **group.task.columns,
            "form": "prior" if is_prior else "posterior",
            "thought": chosen.text,
        },
    )


latent_thoughts.columns = ("form", "thought")  # type: ignore[attr-defined]
latent_thoughts.restarts = True  # type: ignore[attr-defined]
