"""What a model folder or hub name brings along, looked at before a long run.

Its end tokens, chat template, generation config, weights, limits of its positions, and memory.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rlcore import chat
from rlcore.errors import ModelError, first_line
from rlcore.pretrained import load_config, load_generation_config
from rlcore.rope import depends_on_length, pretrained_length

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from rlcore.learner.policy import Policy

_TRAINED_BYTES = 16
"""A trained parameter in memory: float32 weight, gradient and two moments of Adam."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    what: str
    text: str
    verdict: Literal["ok", "note", "problem"] = "ok"
    """A problem stops a run; a note should be known before one."""


def check_model(path: str, *, weights: bool = True) -> list[Finding]:
    """Everything that is known of the model at a hub name or folder without training it.

    weights: also read the weights, and compare the packed forward with the model's own.
    Raises `ModelError` where there is no config, tokenizer or generation config that can be read.
    """
    from rlcore.tokenizer import load_tokenizer

    config = load_config(path)
    tokenizer = load_tokenizer(path)
    generation = load_generation_config(path)
    findings = [
        *_end(tokenizer, generation, config),
        *_template(tokenizer),
        *_special(tokenizer),
        *_generation(generation),
        *_positions(config, tokenizer),
    ]
    return [*findings, *_weights(path)] if weights else findings


def _end(tokenizer: PreTrainedTokenizerBase, *settings: Any) -> Iterator[Finding]:
    ids = chat.end_ids(tokenizer, *settings)
    if not ids:
        yield Finding("end of a completion", "no token ends one: set eos_token", "problem")
        return
    yield Finding("end of a completion", chat.in_words(tokenizer, ids))
    turn = chat.turn_end(tokenizer)
    declared = chat.end_ids_declared(*settings)
    if turn is not None and turn not in declared:
        name = tokenizer.convert_ids_to_tokens(turn)
        yield Finding(
            "end of a turn",
            f"the template closes a turn with {name}, at which the model's own files do not stop: "
            "rlcore stops there and writes it into its checkpoints; other programs that serve the "
            "base model will not",
            "note",
        )


def _template(tokenizer: PreTrainedTokenizerBase) -> Iterator[Finding]:
    if not tokenizer.chat_template:
        yield Finding("chat template", "none: prompts must have the format plain", "note")
        return
    problem = chat.template_problem(tokenizer)
    if problem:
        yield Finding(
            "chat template",
            f"it cannot be used ({problem}): correct it, or set prompt.format to plain",
            "problem",
        )
        return
    if chat.turn_end(tokenizer) is None:
        yield Finding(
            "chat template",
            "no special token closes a turn: completions end with end-of-sequence",
            "note",
        )
    system = chat.takes_system(tokenizer)
    yield Finding(
        "system message",
        "supported"
        if system
        else "refused or left out by the template: leave prompt.system out",
        "ok" if system else "note",
    )
    opening = chat.opening(tokenizer)
    arguments = chat.template_variables(tokenizer)
    if opening:
        yield Finding(
            "thinking",
            f"the template itself opens {opening.strip()}: rewards see it at the start of the text",
        )
    if arguments:
        yield Finding(
            "template arguments", f"{', '.join(arguments)} (prompt.template_arguments)"
        )
    keeps = chat.keeps_prefix(tokenizer)
    yield Finding(
        "earlier turns",
        "kept as they were" if keeps else "changed by later ones (thinking is dropped)",
        "ok" if keeps else "note",
    )


def _special(tokenizer: PreTrainedTokenizerBase) -> Iterator[Finding]:
    words = sorted(chat.special_ids(tokenizer) - chat.frame_ids(tokenizer))
    if words:
        names = ", ".join(tokenizer.convert_ids_to_tokens(words[:8]))
        more = f" and {len(words) - 8} more" if len(words) > 8 else ""
        yield Finding("special tokens rewards see", f"{names}{more}")
    if tokenizer.pad_token_id is None:
        yield Finding("padding token", "none, and none is needed: sequences are packed")


def _generation(generation: Any) -> Iterator[Finding]:
    if generation is None:
        yield Finding("generation config", "none")
        return
    try:
        generation.validate(strict=True)
        yield Finding("generation config", "valid")
    except ValueError as error:
        yield Finding(
            "generation config", f"completed when loaded: {first_line(error)}", "note"
        )


def _positions(
    config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> Iterator[Finding]:
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    yield Finding("longest sequence", f"{positions or tokenizer.model_max_length} tokens")
    limit = pretrained_length(text)
    if limit is not None:
        yield Finding(
            "rope",
            f"{depends_on_length(text)}: its frequencies change beyond {limit} tokens, so a run takes one set "
            "for all of its sequences, by engine.max_length",
            "note",
        )
    window = getattr(text, "sliding_window", None)
    if window:
        yield Finding("attention window", f"{window} tokens, on some or all layers")


def _weights(path: str) -> Iterator[Finding]:
    from rlcore.learner.policy import load_policy

    try:
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
            with warnings.catch_warnings(record=True) as notes:
                policy = load_policy(path=path)
    except ModelError as error:
        yield Finding("weights and packed forward", str(error), "problem")
        return
    for note in notes:
        if issubclass(note.category, UserWarning):
            yield Finding("weights and packed forward", first_line(note.message), "note")
    yield Finding("weights and packed forward", "complete; equal to the model's own forward")
    yield from _memory(policy)


def _memory(policy: Policy) -> Iterator[Finding]:
    count = policy.num_parameters
    learner = count * _TRAINED_BYTES / 2**30
    served = count * 4 / 2**30
    yield Finding(
        "memory",
        f"{count / 1e6:.1f}M parameters: learner {learner:.2f} GiB with AdamW and without activations, "
        f"engine {served:.2f} GiB in float32 ({served / 2:.2f} in bfloat16) without its cache",
    )
