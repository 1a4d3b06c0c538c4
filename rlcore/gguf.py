"""Models in a GGUF file: what transformers reads from one, made into a plain model that can be trained and saved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlcore.errors import ModelError, not_loaded

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_SPECIAL = {"bos": "bos_token_id", "eos": "eos_token_id", "pad": "padding_token_id"}
"""Role of a special token -> its key below `tokenizer.ggml` in the file."""


def is_gguf(path: str | Path) -> bool:
    """Whether a model is named by a GGUF file."""
    return str(path).lower().endswith(".gguf")


def model_from_gguf(file: str | Path, dtype: str, *, attention: str) -> PreTrainedModel:
    """The model in a GGUF file, its weights widened to `dtype`. Raises `ModelError`.

    Its tensors are moved into a new model of the same class: one that transformers has read from GGUF refuses to be saved.
    """
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    source = source_of(file)
    try:
        read = AutoModelForCausalLM.from_pretrained(**source, dtype=getattr(torch, dtype))
    except Exception as error:  # files of any content, and code that reads them
        raise not_loaded("a model", file, error) from error
    config = read.config
    del config.quantization_config
    ids = _special_ids(file)
    for role, id in ids.items():
        setattr(config, f"{role}_token_id", id)
    config._attn_implementation = attention
    model = type(read)(config).to(read.dtype)
    model.load_state_dict(read.state_dict())
    model.name_or_path = str(file)
    model.generation_config = GenerationConfig(
        **{f"{role}_token_id": id for role, id in ids.items()}
    )
    return model


def tokenizer_from_gguf(file: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a GGUF file, with the special tokens that the file names (transformers' reader confuses them)."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(**source_of(file))
    except Exception as error:
        raise not_loaded("a tokenizer", file, error) from error
    for role, id in _special_ids(file).items():
        setattr(tokenizer, f"{role}_token", tokenizer.convert_ids_to_tokens(id))
    return tokenizer


def source_of(file: str | Path) -> dict[str, Any]:
    """How transformers is told of the file. Raises `ModelError` where it is not there or cannot be read."""
    path = Path(file).expanduser()
    if not path.is_file():
        raise ModelError(f"there is no file {str(path)!r}")
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise ModelError(
            f"{str(path)!r} is a GGUF file, and reading it needs the package gguf; run `pip install 'rlcore[gguf]'`"
        ) from None
    return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}


def _special_ids(file: str | Path) -> dict[str, int]:
    from gguf import GGUFReader

    try:
        fields = GGUFReader(Path(file).expanduser()).fields
    except Exception as error:  # the reader meets the end of the file, or no GGUF at all
        raise not_loaded("the tokens of a GGUF file", file, error) from error
    ids = {}
    for role, key in _SPECIAL.items():
        field = fields.get(f"tokenizer.ggml.{key}")
        if field is not None:
            ids[role] = int(field.contents())
    return ids
