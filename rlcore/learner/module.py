"""The model as a function from flat tokens to log-probabilities."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlcore.bfloat16 import speed_up_bfloat16
from rlcore.learner.attention import layout_of_this_forward
from rlcore.learner.logprobs import Loss, chunked_logprobs, one_pass, top_logprobs
from rlcore.learner.noise import in_float32
from rlcore.learner.support import Support


class PackedModule(nn.Module):
    """A causal language model over segments in one row (see `rlcore.learner.pack` for what the vectors mean).

    Everything that uses parameters happens in `forward`, so that DDP and FSDP can wrap this module.
    """

    def __init__(self, model: PreTrainedModel, *, logit_scale: float = 1.0) -> None:
        """logit_scale: by which the model multiplies its logits (Granite, Cohere)."""
        super().__init__()
        self.model = model
        self.logit_scale = logit_scale
        # accelerate asks for it: FSDP2 then gathers one layer at a time, not the whole model
        self._no_split_modules = layer_classes(model)

    def forward(
        self,
        token_ids: Tensor,
        positions: Tensor,
        lengths: tuple[int, ...],
        source: Tensor,
        target: Tensor,
        temperature: float = 1.0,
        parents: tuple[int, ...] | None = None,
        support: Support | None = None,
        loss: Loss | None = None,
        top_k: int = 0,
    ) -> tuple[Tensor, ...]:
        """token_ids and positions [T], lengths and parents of the segments, source and target [N]
        -> logp [N], entropy [N]; of several targets a token, [N, M], logp is [N, M].

        `support` lists the tokens that truncated sampling kept, and log-probabilities are those among
        them. With `loss`, a function of pieces of these vectors, the logits are computed once only
        and a third value is returned: the sum of the function's values. Only that one is
        differentiable then. With `top_k`, two more are returned, not differentiable: ids and
        log-probabilities [N, top_k] of the most probable tokens.
        """
        hidden = self.hidden(token_ids, positions, lengths, source, parents)
        head = self.model.get_output_embeddings()
        bias = getattr(head, "bias", None)
        config = self.model.config.get_text_config()
        settings = {
            "temperature": temperature / self.logit_scale,
            "softcap": getattr(config, "final_logit_softcapping", None),
            "support": support,
        }
        if top_k:
            of_target = chunked_logprobs(hidden, head.weight, bias, target, **settings)
            settings.pop("support")
            return *of_target, *top_logprobs(hidden, head.weight, bias, top_k, **settings)
        if loss is None:
            return chunked_logprobs(hidden, head.weight, bias, target, **settings)
        return one_pass(hidden, head.weight, bias, target, loss, **settings)

    def hidden(
        self,
        token_ids: Tensor,
        positions: Tensor,
        lengths: tuple[int, ...],
        source: Tensor,
        parents: tuple[int, ...] | None,
    ) -> Tensor:
        """The last hidden states at `source`, [N, H]."""
        decoder = self.model.get_decoder()
        layout = {"packed_lengths": lengths, "packed_parents": parents}
        with layout_of_this_forward(lengths, parents):
            output = decoder(
                input_ids=token_ids[None],
                position_ids=positions[None],
                attention_mask=None,
                use_cache=False,
                **(layout if takes_keywords(type(decoder)) else {}),
            )
        return output.last_hidden_state[0].index_select(0, source)

    def in_float32(self) -> AbstractContextManager[None]:
        """Context in which the model computes in float32, whatever precision its weights have: see `noise.in_float32`."""
        return in_float32()


def layer_classes(model: PreTrainedModel) -> list[str]:
    """Names of the classes of the layers that repeat, of those that this model has."""
    declared = set(getattr(model, "_no_split_modules", None) or ())
    return sorted(declared & {type(module).__name__ for module in model.modules()})


@cache
def takes_keywords(decoder: type[nn.Module]) -> bool:
    """Whether the decoder's forward takes keywords of any name, to pass them on."""
    parameters = inspect.signature(decoder.forward).parameters.values()
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


class MixedModule(PackedModule):
    """float32 master weights computed with in bfloat16: an update of 1e-6 is kept, though bfloat16 alone would round it away."""

    _is_in_float32 = False

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        """Arguments of the class that it is mixed with: `PackedModule`, or a critic's."""
        super().__init__(*arguments, **settings)
        speed_up_bfloat16()

    def forward(self, *inputs: Any, **keywords: Any) -> tuple[Tensor, ...]:
        device = self.model.device.type
        with torch.autocast(device, torch.bfloat16, enabled=not self._is_in_float32):
            return super().forward(*inputs, **keywords)

    @contextmanager
    def in_float32(self) -> Iterator[None]:
        """Context in which the model computes in float32 with its weights rounded to bfloat16.

        These are the weights that it computes with otherwise and that engines serve. The master weights differ from them
        by updates that are too small for bfloat16; these add up to a change of the model that is no noise.
        """
        self._is_in_float32 = True
        try:
            with in_float32(rounded_to=torch.bfloat16):
                yield
        finally:
            self._is_in_float32 = False
