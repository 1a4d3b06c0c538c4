"""Tokens that a prompt may hold and that nothing samples, such as <|good|> and <|bad|> (arXiv 2302.08582)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from rlcore.chat import end_ids
from rlcore.errors import ModelError
from rlcore.tokenizer import add_tokens


def add_control_tokens(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    may_add: bool = True,
) -> None:
    """Make each text one token of tokenizer and model, and forbid that it is sampled.

    New rows of the embedding, and of an untied head, are the mean of the others: before training all
    new tokens mean the same, nothing. Rows that a model has to spare are used first. The ban is
    `suppress_tokens` of the generation config, which is saved with the model; transformers and all engines of
    rlcore obey it. A text that is a token already keeps its row.

    may_add: False where the embedding is not trained. Raises `ModelError`.
    """
    known = tokenizer.get_vocab()
    new = [text for text in texts if text not in known]
    if new and not may_add:
        raise ModelError(
            f"model.control_tokens adds {', '.join(new)} to the embedding, which an adapter does not train: leave out model.peft, "
            "or train them first and name that run in model.path"
        )
    ends = {text for text in texts if known.get(text) in end_ids(tokenizer, model.config)}
    if ends:
        raise ModelError(
            f"model.control_tokens has {min(ends)}, at which completions end: they would never end"
        )
    used_rows = len(tokenizer)
    add_tokens(tokenizer, texts)
    ids = [tokenizer.convert_tokens_to_ids(text) for text in texts]
    if new:
        _add_rows(model, tokenizer.convert_tokens_to_ids(new), used_rows)
    settings = model.generation_config or GenerationConfig()
    settings.suppress_tokens = sorted({*(settings.suppress_tokens or ()), *ids})
    model.generation_config = settings


@torch.no_grad()
def _add_rows(model: PreTrainedModel, ids: list[int], used_rows: int) -> None:
    """Rows of new tokens, as the mean of the first `used_rows`."""
    rows = model.get_input_embeddings().weight.shape[0]
    if max(ids) >= rows:
        with torch.random.fork_rng(devices=[]):
            model.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
    of_others = slice(0, min(used_rows, rows))
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        for values in (layer.weight, getattr(layer, "bias", None)):
            if values is not None:
                values[ids] = values[of_others].float().mean(0).to(values.dtype)
