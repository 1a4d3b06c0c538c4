"""A model read from a folder or the hub, with every weight that its architecture has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rlcore.errors import ModelError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SHOWN = 3
"""Names of weights that an error lists."""


def load_causal_lm(path: str | Path, dtype: str, *, attention: str) -> PreTrainedModel:
    """The model at a hub name or folder, in one data type.

    attention: an implementation of transformers, "eager" or "sdpa".
    Raises `ModelError` where the files cannot be read, lack a weight of the architecture
    (transformers would draw it at random), or have one of another shape.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with _quiet():
            model, info = AutoModelForCausalLM.from_pretrained(
                path,
                dtype=getattr(torch, dtype),
                attn_implementation=attention,
                # told below, for all weights at once
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except Exception as error:  # files of any content, and code that reads them
        raise ModelError(
            f"cannot load a model from {str(path)!r}: {first_line(error)}"
        ) from error
    problem = _problem(info)
    if problem:
        raise ModelError(
            f"the files at {str(path)!r} do not hold the whole {type(model).__name__}: {problem}; "
            "copy the folder again, or name the model's own architecture in its config.json"
        )
    return model


def _problem(info: dict) -> str:
    """What is wrong with the weights; "" if nothing is."""
    for name, stored, expected in sorted(info["mismatched_keys"]):
        shapes = f"{tuple(stored)} in the files and {tuple(expected)} in the model"
        return f"{name} has the shape {shapes}"
    missing = sorted(info["missing_keys"])
    if missing:
        names = ", ".join(missing[:_SHOWN])
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        return f"they lack {names}{more}"
    return ""


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers without progress bars and tables: what matters is raised as one sentence."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    has_bar = logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if has_bar:
            logging.enable_progress_bar()
