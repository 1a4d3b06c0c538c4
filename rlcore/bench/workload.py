"""What is measured: shapes of batches, a model of 2.4 million parameters, and samples of random tokens."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlcore.errors import RecipeError
from rlcore.plugin import did_you_mean
from rlcore.types import Sample


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A batch: so many prompts of so many tokens, so many completions of each, and their shortest and longest length."""

    prompts: int = 8
    group_size: int = 8
    prompt_tokens: int
    answer_min: int
    answer_max: int

    def changed(self, **values: int | None) -> Shape:
        """With the values that are given. Raises `RecipeError` if no batch is so."""
        shape = replace(
            self, **{key: value for key, value in values.items() if value is not None}
        )
        if (
            shape.prompts < 1
            or shape.group_size < 2
            or shape.prompt_tokens < 1
            or not 0 < shape.answer_min <= shape.answer_max
        ):
            raise RecipeError(
                f"there is no batch like {shape}: give positive numbers, two completions or more, and min <= max"
            )
        return shape

    def answer_lengths(self, seed: int = 0) -> list[int]:
        """Tokens of each completion, prompt after prompt."""
        rng = random.Random(seed)
        return [
            rng.randint(self.answer_min, self.answer_max)
            for _ in range(self.prompts * self.group_size)
        ]


SHAPES = {
    "ragged": Shape(prompt_tokens=16, answer_min=16, answer_max=512),
    "shared": Shape(prompt_tokens=1024, answer_min=64, answer_max=64),
}

_TINY = {
    "model_type": "qwen2",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
MODELS = {
    "tiny": _TINY,
    "qwen3-0.6b": _TINY
    | {
        "model_type": "qwen3",
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 32_768,
        "vocab_size": 151_936,
    },
    "qwen2.5-1.5b": _TINY
    | {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32_768,
        "vocab_size": 151_936,
    },
    "qwen2.5-7b": _TINY
    | {
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32_768,
        "vocab_size": 152_064,
        "tie_word_embeddings": False,
    },
}
"""Shapes of models; their weights are random."""


def make_model(
    folder: Path,
    model: str = "tiny",
    *,
    hidden_size: int | None = None,
    layers: int | None = None,
) -> str:
    """The folder of a model: a pretrained one, or one of `MODELS` written to `folder`.

    model: a name of `MODELS`, which gets random weights and the byte tokenizer; a name that `rlcore models get` knows;
    or a model folder. The sizes change "tiny". Raises `RecipeError` or `ModelError`.
    """
    from rlcore.get_model import KNOWN_MODELS, get_model
    from rlcore.learner.policy import load_policy

    if model != "tiny" and (hidden_size or layers):
        raise RecipeError("hidden size and layers change the model tiny only")
    if model in KNOWN_MODELS:
        return str(get_model(model))
    if Path(model).is_dir():
        return model
    if model not in MODELS:
        known = [*MODELS, *KNOWN_MODELS]
        raise RecipeError(
            f"{model} is no model folder and no known model{did_you_mean(model, known)}: {', '.join(known)}"
        )
    config = dict(MODELS[model])
    if layers:
        config["num_hidden_layers"] = layers
    if hidden_size:
        heads = max(2, hidden_size // 64)
        config |= {
            "hidden_size": hidden_size,
            "intermediate_size": 2 * hidden_size,
            "num_attention_heads": heads,
        }
        config["num_key_value_heads"] = max(1, heads // 2)
    load_policy(config=config, tokenizer="bytes").save(folder)
    return str(folder)


def model_flops(config: Any, shape: Shape, *, frozen: bool = False) -> float:
    """Floating-point operations of forward and backward, as if a prompt were read again for each of its completions.

    6 a parameter and token, the head's for completion tokens only, and causal attention. frozen: under an adapter the
    weights have no gradient, which leaves 4; the adapter's own operations are not counted.
    """
    per_parameter = 4 if frozen else 6
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    projections = config.hidden_size * width * (2 * heads + 2 * config.num_key_value_heads)
    layer = projections + 3 * config.hidden_size * config.intermediate_size
    answers = shape.answer_lengths()
    lengths = [shape.prompt_tokens + answer for answer in answers]
    attention = sum(6 * n * n * heads * width for n in lengths)
    return config.num_hidden_layers * (
        per_parameter * layer * sum(lengths) + attention
    ) + per_parameter * config.hidden_size * config.vocab_size * sum(answers)


def make_samples(shape: Shape, seed: int = 0) -> list[Sample]:
    """On-policy samples of random tokens below 256 with a random advantage each, group after group."""
    rng = random.Random(seed)
    lengths = iter(shape.answer_lengths(seed))
    samples = []
    for prompt_number in range(shape.prompts):
        prompt = [rng.randrange(256) for _ in range(shape.prompt_tokens)]
        for answer_number in range(shape.group_size):
            answer = [rng.randrange(256) for _ in range(next(lengths))]
            mask = [False] * len(prompt) + [True] * len(answer)
            advantages = [rng.gauss(0, 1)] * len(mask)
            id = f"{prompt_number}.{answer_number}"
            samples.append(
                Sample(id=id, token_ids=prompt + answer, mask=mask, advantages=advantages)
            )
    return samples
