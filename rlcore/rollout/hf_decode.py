"""Batched decoding with a key-value cache, one token a row a step.

Shapes: [B] slots of a wave, [S] their common length with left padding, [V] vocabulary, [H] key-value heads, [D] head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache, DynamicLayer

from rlcore.rollout.hf_draw import Settings, draw
from rlcore.rollout.partial import Draft
from rlcore.types import Finish

if TYPE_CHECKING:
    from rlcore.rollout.hf_mixture import JointCache, Mixture

_GROWTH = 128  # columns of cache allocated at a time


class GrowingLayer(DynamicLayer):
    """A cache layer that writes into spare room instead of concatenating: linear, not quadratic, cost over a completion."""

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        *args: object,
        **kwargs: object,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append `[B, H, new, D]` keys and values; returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._used, self._room = 0, (key_states[:, :, :0], value_states[:, :, :0])
        start, self._used = self._used, self._used + key_states.shape[2]
        if self._used > self._room[0].shape[2]:
            self._room = tuple(
                _widen(old[:, :, :start], self._used + _GROWTH) for old in self._room
            )
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, start : self._used] = new
        self.keys, self.values = (room[:, :, : self._used] for room in self._room)
        return self.keys, self.values

    def select(self, slots: torch.Tensor) -> None:
        """Keep these slots, in this order; one may come several times."""
        self._room = tuple(room.index_select(0, slots) for room in self._room)
        self.keys, self.values = (room[:, :, : self._used] for room in self._room)


def _widen(old: torch.Tensor, columns: int) -> torch.Tensor:
    new = old.new_zeros(*old.shape[:2], columns, old.shape[3])
    new[:, :, : old.shape[2]] = old
    return new


class Wave:
    """Drafts decoded together. A finished row leaves its slot idle; when a quarter is idle, the batch is made smaller."""

    def __init__(
        self,
        model: PreTrainedModel | Mixture,
        drafts: Sequence[Draft],
        eos: set[int],
        tokenizer: PreTrainedTokenizerBase,
        banned: Sequence[int] = (),
    ) -> None:
        """model: what gives the next token's logits; it may bring a cache of its own, `new_cache`.
        banned: tokens that are never drawn; log-probabilities are those among the others."""
        self._banned = list(banned)
        self._new_cache = getattr(model, "new_cache", _one_cache)
        self._model, self._eos, self._tokenizer = model, eos, tokenizer
        self._slots: list[Draft | None] = list(drafts)
        self._uniforms = {draft.request.id: _uniforms(draft) for draft in drafts}
        self._cache: Cache | JointCache | None = None

    @property
    def empty(self) -> bool:
        """Whether every row has finished."""
        return not any(self._slots)

    @torch.inference_mode()
    def step(self, version: int) -> list[tuple[Draft, Finish]]:
        """Write one token on every row; returns the rows that this finished, taken out."""
        logits = (
            self._read()
            if self._cache is None
            else self._forward(self._last[:, None], self._position[:, None])
        )
        uniforms = [
            self._uniforms[d.request.id][len(d.token_ids)] if d else 0.0 for d in self._slots
        ]
        if self._banned:
            logits[:, self._banned] = -torch.inf
        drawn = draw(logits, self._settings, torch.tensor(uniforms, device=logits.device))
        self._last, self._position = drawn.tokens, self._position + 1
        finished = []
        tokens, logprobs = drawn.tokens.tolist(), drawn.logprobs.tolist()
        for slot, draft in enumerate(self._slots):
            if draft is not None:
                support = None
                if draft.support is not None:
                    support = [drawn.kept[slot].nonzero()[:, 0].tolist()]
                draft.extend((tokens[slot],), (logprobs[slot],), version, support)
                finish = self._finish_of(draft)
                if finish is not None:
                    finished.append((draft, finish))
        self.remove({draft.request.id for draft, _ in finished})
        return finished

    @torch.inference_mode()
    def remove(self, ids: set[str]) -> list[Draft]:
        """Take rows out of the batch and give them back."""
        gone = [draft for draft in self._slots if draft and draft.request.id in ids]
        self._slots = [
            None if draft and draft.request.id in ids else draft for draft in self._slots
        ]
        keep = [slot for slot, draft in enumerate(self._slots) if draft]
        if keep and self._cache is not None and len(keep) <= 0.75 * len(self._slots):
            self._slots = [self._slots[slot] for slot in keep]
            self._select(torch.tensor(keep, device=self._mask.device))
            self._last = self._last[keep]
        return gone

    def forget_cache(self) -> None:
        """The weights changed: read all rows again before the next token."""
        self._cache = None

    def _read(self) -> torch.Tensor:
        """Fill the cache with what the rows hold and return the next token's logits [B, V]; equal rows (completions of one
        prompt) are read once."""
        self._slots = [draft for draft in self._slots if draft]
        texts = [
            tuple(d.request.prompt_ids + d.request.prefix_ids + d.token_ids)
            for d in self._slots
        ]
        slot_of = {text: slot for slot, text in enumerate(dict.fromkeys(texts))}
        width, device = max(map(len, texts)), self._model.device
        ids = torch.tensor(
            [[0] * (width - len(text)) + list(text) for text in slot_of], device=device
        )
        self._position = torch.tensor([len(text) for text in slot_of], device=device)
        self._mask = torch.arange(width, device=device) >= (width - self._position)[:, None]
        self._cache = self._new_cache()
        logits = self._forward(ids, (self._mask.cumsum(-1) - 1).clamp(min=0))
        slots = torch.tensor([slot_of[text] for text in texts], device=device)
        self._select(slots)
        self._position -= 1
        return logits[slots]

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Logits [B, V] after `ids` [B, new]; the mask is left out where nothing is padded, which is faster."""
        if self._cache.layers:
            self._mask = torch.nn.functional.pad(self._mask, (0, ids.shape[1]), value=True)
        output = self._model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=self._mask if self._padded else None,
            past_key_values=self._cache,
            logits_to_keep=1,
        )
        return output.logits[:, -1]

    def _select(self, slots: torch.Tensor) -> None:
        for layer in self._cache.layers:
            layer.select(slots)
        self._mask, self._position = self._mask[slots], self._position[slots]
        self._settings = Settings.of(
            [draft.request.sampling for draft in self._slots], slots.device
        )

    @property
    def _padded(self) -> bool:
        return not bool(self._mask[:, 0].all())

    def _finish_of(self, draft: Draft) -> Finish | None:
        sampling = draft.request.sampling
        if draft.token_ids[-1] in self._eos and not sampling.ignore_eos:
            return "stop"
        if sampling.stop and self._hits_stop(draft.token_ids, sampling.stop):
            return "stop"
        return "length" if len(draft.token_ids) >= sampling.max_tokens else None

    def _hits_stop(self, token_ids: list[int], stop: tuple[str, ...]) -> bool:
        """Whether the text ends inside or after a stop string; a character may take four tokens, so the tail suffices."""
        tail = token_ids[-(4 * max(map(len, stop)) + 8) :]
        text = self._tokenizer.decode(tail, skip_special_tokens=False)
        return any(string in text for string in stop)


def _one_cache() -> Cache:
    return Cache(layer_class_to_replicate=GrowingLayer)


def _uniforms(draft: Draft) -> list[float]:
    """One uniform number a token, all that this request's randomness is."""
    generator = torch.Generator().manual_seed(draft.request.seed)
    return torch.rand(
        draft.request.sampling.max_tokens, generator=generator, dtype=torch.float64
    ).tolist()
