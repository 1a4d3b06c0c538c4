"""Why a model computes something else in packed form than on its own: one clause, for the refusal.

Most of it is measured on the model, whose config may say little: a BERT is a language model that
reads in both directions unless its config says `is_decoder`.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    PretrainedConfig,
    PreTrainedModel,
)

from rlcore.learner.attention import packed_mask

NEAR = 1e-3
"""Difference between logits, as a part of the largest, that is taken for rounding of float32."""
_PROBE = "rlcore_probe"
_STATEFUL = {"conv", "hybrid", "linear_attention", "mamba"}
"""Types of layers that carry a state from token to token."""


def reason(model: PreTrainedModel, ids: Tensor) -> str:
    """The likely reason for a difference. ids [T]: a text, of which the model's own forward is read."""
    if state := _state(model):
        return state
    is_own = is_own_attention(model, ids)
    model.set_attn_implementation("eager")
    if _reads_backwards(model, ids):
        return "it reads in both directions, so what follows a token changes that token's probability"
    if is_own:
        return "its attention is code of its own, outside of the attention interface of transformers"
    if not _is_one_matrix(model, ids):
        return "its output head is more than one matrix on top of a decoder"
    if "position_ids" not in inspect.signature(model.get_decoder().forward).parameters:
        return "it numbers the tokens of a row itself, and a packed row holds several texts"
    return "its attention does something rlcore does not know"


def known_limit(config: PretrainedConfig) -> str:
    """What the config says and the packed layout does not have; "" if nothing.

    It is read before any forward, which takes some of these models minutes and gigabytes where
    their kernels are not installed.
    """
    if getattr(config, "attention_chunk_size", None):
        return "it attends in chunks, which the packed layout does not have"
    if getattr(config, "index_topk", None) or any("sparse" in t for t in _layer_types(config)):
        return "an indexer chooses the tokens that its attention reads, which the packed layout does not have"
    state = sorted(_STATEFUL & _layer_types(config))
    return _mixed(state) if state else ""


@torch.no_grad()
def is_own_attention(model: PreTrainedModel, ids: Tensor) -> bool:
    """Whether the model's forward calls no attention function that is set from outside."""
    model.set_attn_implementation(_PROBE)
    try:
        model(input_ids=ids[None], use_cache=False)
    except _ReachedError:
        return False
    except Exception:  # it runs with its own attention, and knows no other
        return True
    return True


class _ReachedError(Exception):
    """The attention function that was set has been called."""


def _probe(*_: Any, **__: Any) -> None:
    raise _ReachedError


AttentionInterface.register(_PROBE, _probe)
AttentionMaskInterface.register(_PROBE, packed_mask)


def _layer_types(config: PretrainedConfig) -> set[str]:
    return {str(kind) for kind in getattr(config, "layer_types", None) or ()}


def _state(model: PreTrainedModel) -> str:
    types = _layer_types(model.config.get_text_config())
    state = sorted(kind for kind in types if "attention" not in kind or kind in _STATEFUL)
    has_convolutions = any(isinstance(module, torch.nn.Conv1d) for module in model.modules())
    return _mixed(state) if state or has_convolutions else ""


def _mixed(kinds: list[str]) -> str:
    listed = f" ({', '.join(kinds)})" if kinds else ""
    return f"it has layers that carry a state from token to token{listed}, which a packed row would mix"


@torch.no_grad()
def _reads_backwards(model: PreTrainedModel, ids: Tensor) -> bool:
    changed = ids.clone()
    changed[-1] = (changed[-1] + 1) % len(model.get_output_embeddings().weight)
    first, second = (
        model(input_ids=text[None], use_cache=False).logits[0, :-1] for text in (ids, changed)
    )
    return not _near(first.float(), second.float())


@torch.no_grad()
def _is_one_matrix(model: PreTrainedModel, ids: Tensor) -> bool:
    """Whether the logits are the head's product with the last hidden state, up to a factor or a soft cap."""
    hidden = model.get_decoder()(input_ids=ids[None], use_cache=False).last_hidden_state
    raw = model.get_output_embeddings()(hidden).float()
    own = model(input_ids=ids[None], use_cache=False).logits.float()
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    if raw.shape != own.shape:
        return False
    if cap:
        raw = cap * (raw / cap).tanh()
    factor = (own * raw).sum() / (raw * raw).sum()
    return _near(own, factor * raw, coarse=model.dtype != torch.float32)


def _near(first: Tensor, second: Tensor, *, coarse: bool = False) -> bool:
    limit = (50 if coarse else 1) * NEAR * first.abs().max()
    return bool((first - second).abs().max() <= limit)
