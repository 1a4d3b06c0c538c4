"""What vLLM is told about a model before it starts: its configuration, checked, and the size of its cache."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from rlcore.chat import end_ids
from rlcore.errors import EngineError, RlcoreError, first_line
from rlcore.pretrained import (
    head_size,
    kv_heads,
    layer_configs,
    load_config,
    load_generation_config,
)
from rlcore.rollout.process_state import launched
from rlcore.rollout.vllm_support import SpecialTokens
from rlcore.tokenizer import load_tokenizer

_LONGEST_REASON = 200
"""Characters of a reason that vLLM gives."""
_TARGETS = re.compile(r"expected target modules in (\{.*?\}) but received (\[.*?\])", re.DOTALL)
"""How vLLM refuses layers of an adapter: those that it knows, and those that came."""
CPU_CACHE_CAP = 4 << 30
GPU_CACHE_SHARE = 0.4
"""Most that the key-value cache takes where `memory_gb` is not set: bytes, and a fraction of a GPU's free memory."""
CPU_BLOCK = 32
"""Tokens of a block of the cache on a CPU, the fewest that its fast kernels take: requests share whole blocks of their prompts.
vLLM's default there, 128, shares nothing of shorter prompts."""
_OTHER_WINDOWS = {
    "cohere2": "makes windows one token wider",
    "cohere2_moe": "makes windows one token wider",
    "qwen2_moe": "has no windows",
}
"""Architectures whose windows vLLM does not read as transformers does, and how."""


def read_config(model_folder: str | Path, tensor_parallel: int, max_length: int) -> Any:
    """The model's text config. Raises where vLLM would serve it otherwise than transformers computes it."""
    config = load_config(model_folder).get_text_config()
    window = getattr(config, "sliding_window", None)
    is_used = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    if config.model_type in _OTHER_WINDOWS and is_used and window and max_length > window:
        raise EngineError(
            f"vLLM {_OTHER_WINDOWS[config.model_type]} in {config.model_type}, where transformers has windows "
            f"of {window} tokens, so longer completions would be scored otherwise than they were written: "
            f"set engine.max_length to {window} or less, or engine.use=hf"
        )
    if tensor_parallel < 1:
        raise EngineError(f"tensor_parallel is {tensor_parallel}: it is a whole number from 1")
    if tensor_parallel > 1 and launched():
        raise EngineError(
            f"tensor_parallel={tensor_parallel} inside a launched group is not supported: every process owns one "
            "engine; launch one process for each engine or use tensor_parallel=1"
        )
    for heads in sorted({kv_heads(layer) for layer in layer_configs(config)}):
        if heads % tensor_parallel:
            raise EngineError(
                f"tensor_parallel={tensor_parallel} does not divide the model's {heads} key-value heads; choose a divisor"
            )
    return config


def read_special_tokens(model_folder: str | Path, config: Any) -> SpecialTokens:
    """Tokens that vLLM must be told of: it knows the ends of config and generation config only, and no bans."""
    settings = load_generation_config(model_folder)
    return SpecialTokens(
        ends=end_ids(load_tokenizer(model_folder), settings, config),
        bans=list((settings and settings.suppress_tokens) or ()),
    )


@contextmanager
def in_our_words(
    problem: str, remedy: str = "set engine.use=hf, which serves every model that rlcore trains"
) -> Iterator[None]:
    """Whatever vLLM raises inside becomes an `EngineError`: "vLLM <problem>: <its reason>; <remedy>"."""
    try:
        yield
    except RlcoreError:
        raise
    except Exception as error:  # vLLM, pydantic and torch each have their own
        raise EngineError(f"vLLM {problem}: {_reason(error)}; {remedy}") from error


def _reason(error: Exception) -> str:
    """Why vLLM stopped: its own sentence, or what its code ran into."""
    # pydantic puts a headline before the reason
    _, _, stated = str(error).partition("Value error, ")
    if stated:
        return _first_sentences(stated.partition(" [type=")[0])
    unknown = _TARGETS.search(str(error))
    if unknown:
        adapted = {name.rpartition(".")[2] for name in re.findall(r"'([^']+)'", unknown[2])}
        known = set(re.findall(r"'([^']+)'", unknown[1]))
        return f"it has no adapters for {', '.join(sorted(adapted - known))} of this model"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    is_stated = isinstance(error, AssertionError) and str(error)
    if is_stated or "raise" in (frame.line or ""):
        return _first_sentences(str(error)) or type(error).__name__
    # Nobody meant to say this: an attribute that is not there, shapes that do not fit.
    said = f": {first_line(error)}" if str(error) else f" at `{frame.line}`"
    file = Path(frame.filename).name
    return (
        f"its code does not fit this model or machine ({type(error).__name__}{said}, in {file})"
    )


def _first_sentences(text: str) -> str:
    """The first line without advice to write to vLLM's authors, cut between sentences where it is long."""
    line = text.strip().split("\n")[0].partition(" Please ")[0]
    if len(line) > _LONGEST_REASON:
        line = line[:_LONGEST_REASON].rpartition(". ")[0] or line[:_LONGEST_REASON]
    return line.rstrip(".")


def token_bytes(config: Any, dtype: str) -> int:
    """Bytes of the keys and values of one token, over all layers."""
    numbers = sum(2 * kv_heads(layer) * head_size(layer) for layer in layer_configs(config))
    element = torch.empty(0, dtype=getattr(torch, dtype)).element_size()
    return numbers * element


def cache_bytes(
    config: Any,
    dtype: str,
    max_length: int,
    max_sequences: int,
    memory_gb: float | None,
    tensor_parallel: int,
    *,
    cap: int | None = None,
) -> int:
    """Bytes of key-value cache for each worker. cap: by default `CPU_CACHE_CAP`, or 40% of a GPU's free memory."""
    if memory_gb is not None:
        return int(memory_gb * 2**30)
    token = token_bytes(config, dtype) // tensor_parallel
    whole_blocks = -(-max_length // 128) * 128
    wanted = token * whole_blocks * (max_sequences + 1)
    if cap is None:
        cuda = torch.cuda.is_available()
        cap = int(GPU_CACHE_SHARE * torch.cuda.mem_get_info()[0]) if cuda else CPU_CACHE_CAP
    return max(min(wanted, cap), 2 * token * whole_blocks)


def share_at_start(cache: int) -> float:
    """Part of the GPU's whole memory that vLLM is told to use, where the size of its cache is given in bytes.

    It then reads this number for one check: that so much of the GPU is free when it starts. Its default of 0.9 refuses a GPU
    on which the learner's weights are already.
    """
    whole = torch.cuda.mem_get_info()[1]
    return min(0.9, max(0.01, round(cache / whole, 3)))
