"""What a saved policy will hold, found out while it is loaded: hours later is too late."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from torch import Size, Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from rlcore.errors import ModelError, first_line

if TYPE_CHECKING:
    from rlcore.learner.policy_adapter import Adapter

_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p")
"""Settings of a generation config that say that its author sampled."""


def check_writable(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write everything but the weights once. Raises `ModelError` where a checkpoint could not be written.

    A generation config with sampling settings but without `do_sample`, which transformers reads
    and refuses to write, gets `do_sample`.
    """
    if model.generation_config is not None:
        _complete(model.generation_config)
    with tempfile.TemporaryDirectory() as folder:
        for part, what in (
            (model.config, "config.json"),
            (model.generation_config, "generation_config.json"),
            (tokenizer, "the tokenizer's files"),
        ):
            try:
                if part is not None:
                    part.save_pretrained(folder)
            except (
                Exception
            ) as error:  # what users wrote into these files, and code that reads it
                raise ModelError(
                    f"a checkpoint of this {type(model).__name__} could not be written: {what} "
                    f"cannot be saved ({first_line(error)}); correct that file of the model"
                ) from error


def _complete(settings: GenerationConfig) -> None:
    try:
        settings.validate(strict=True)
    except ValueError:
        if any(getattr(settings, name, None) is not None for name in _SAMPLING):
            settings.do_sample = True


def names_and_shapes(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Size]:
    """Name and shape of each tensor."""
    return {name: tensor.shape for name, tensor in tensors}


def check_same_names(before: Mapping[str, Size], adapter: Adapter) -> None:
    """Raise `ModelError` unless what is saved with the adapter is what the base has.

    before: `names_and_shapes` of the model without adapter. A wrapper of peft that rlcore does not
    know would be written under names that nothing reads.
    """
    after = names_and_shapes(adapter.state())
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) == after.get(name):
            continue
        if name in before:
            problem = f"would lack {name}, or hold it with another shape"
        else:
            problem = f"would hold {name}, which the model does not have"
        raise ModelError(
            f"a checkpoint with these settings of model.peft {problem}: rlcore does not know the "
            "wrapper that peft puts there; leave out what wraps other layers than target_modules "
            "(trainable_token_indices, for example)"
        )
