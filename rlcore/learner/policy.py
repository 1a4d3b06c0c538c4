"""The model that learns: loading it, running it on packed tokens, and reading its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.core_model_loading import revert_weight_conversion

from rlcore.chat import end_ids
from rlcore.errors import ModelError
from rlcore.learner.base_model import model_from_config
from rlcore.learner.control_tokens import add_control_tokens
from rlcore.learner.module import MixedModule, PackedModule
from rlcore.learner.pack import Layout, in_step, pack
from rlcore.learner.packed_check import check_packed
from rlcore.learner.policy_adapter import Adapter, attach
from rlcore.learner.policy_files import (
    ADAPTER,
    check_same_base,
    check_writable,
    further_names_of_tied_weights,
    streamed,
    write_policy,
)
from rlcore.learner.quantised import Kind, num_parameters, quantise, quantised_layers
from rlcore.learner.reference import ShardedReference, frozen_copy
from rlcore.learner.sharding import full, gathered, is_sharded, reshard, rounds
from rlcore.learner.speed import checkpoint_layers, compile_layers
from rlcore.pretrained import is_converted, load_causal_lm, require_model
from rlcore.rope import fix_rope
from rlcore.tokenizer import load_tokenizer
from rlcore.types import Sample


@dataclass(frozen=True)
class Policy:
    """A model in packed form with its tokenizer.

    Dropout is off: scoring and learning must see the same function.
    """

    module: PackedModule
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    """Longest sequence the model has positions for."""
    adapter: Adapter | None = None
    """What is trained, where that is not the model itself."""

    @property
    def model(self) -> PreTrainedModel:
        """The transformers model.

        Its attention is packed: to call it directly, or to generate with it, switch that to "sdpa".
        """
        return self.module.model

    @property
    def num_parameters(self) -> int:
        """Number of parameters, tied ones counted once."""
        return num_parameters(self.module)

    @property
    def end_ids(self) -> list[int]:
        """Tokens at which a completion ends, for encoder, engines and checkpoints alike."""
        return end_ids(self.tokenizer, self.model.generation_config, self.model.config)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of log-probabilities and losses: float64 for a float64 model, else float32."""
        return torch.float64 if self.model.dtype == torch.float64 else torch.float32

    @property
    def arithmetic(self) -> torch.dtype:
        """Precision of the model's matrix products."""
        return torch.bfloat16 if isinstance(self.module, MixedModule) else self.model.dtype

    def weights(self, *, apart: bool = False) -> Iterator[tuple[str, Tensor]]:
        """Names and full tensors as in the checkpoint that `save` writes; tied weights once.

        Collective where the model is sharded. An adapter is merged into one layer at a time as the
        tensors are read; the live module does not change. With `apart` the base's tensors come
        unmerged, and the adapter's after them (`Adapter.apart`).
        """
        if apart and self.adapter is not None:
            for name, tensor in self.adapter.apart():
                yield name, full(tensor)
            return
        # Architectures that are fused or renamed in memory can only be converted all at once.
        if is_converted(self.model):
            yield from revert_weight_conversion(self.model, dict(self._live_weights())).items()
        else:
            yield from self._live_weights()

    def _live_weights(self) -> Iterator[tuple[str, Tensor]]:
        if self.adapter is None:
            for name, parameter in self.model.named_parameters():
                yield name, full(parameter.detach())
            return
        further_names = further_names_of_tied_weights(self.model)
        for name, tensor in self.adapter.state():
            if isinstance(tensor, nn.Parameter) and name not in further_names:
                yield name, full(tensor.detach())

    def frozen(
        self,
        device: torch.device,
        start: Policy | None = None,
    ) -> Callable[..., tuple[Tensor, Tensor]]:
        """A reference to be called like `module`: the policy as it is now, or as in `start`.

        A copy of the module; for a sharded module, shards of the weights beside it (collective);
        under an adapter the base, which does not change.
        """
        if is_sharded(self.module) and self.adapter is None:
            weights = None if start is None else list(start.module.parameters())
            return ShardedReference(self.module, weights)
        if start is not None:
            return start.module.to(device).requires_grad_(False)
        if self.adapter is None:
            return frozen_copy(self.module, device)

        def base(*inputs: Any) -> tuple[Tensor, Tensor]:
            with self.adapter.disabled():
                return self.module(*inputs)

        return base

    def score(
        self, sequences: Sequence[list[int]], *, max_tokens: int = 8192
    ) -> list[list[float]]:
        """Log-probabilities at temperature 1 of `sequence[1:]`: len - 1 numbers a sequence."""
        return [logprobs for logprobs, _ in self.read(sequences, max_tokens=max_tokens)]

    def score_float32(self, sequences: Sequence[list[int]]) -> list[list[float]]:
        """As `score`, with all arithmetic in float32: what `score` is off by is its rounding."""
        with self.module.in_float32():
            return self.score(sequences)

    @torch.no_grad()
    def read(
        self,
        sequences: Sequence[Sequence[int]],
        *,
        starts: Sequence[int] | None = None,
        layout: Layout = "packed",
        max_tokens: int = 8192,
    ) -> list[tuple[list[float], list[float]]]:
        """Log-probabilities and entropies, at temperature 1, of each sequence's tokens.

        They begin at position `starts` of the sequence (default 1). In the layout `shared` a common
        prefix of sequences is computed once. Collective where the module is sharded.
        """
        samples = _scored_samples(sequences, starts or [1] * len(sequences))
        results: list[tuple[list[float], list[float]]] = [([], []) for _ in samples]
        batches = pack(samples, max_tokens=max_tokens, layout=layout)
        passes = rounds(self.module, len(batches))
        for number, batch in enumerate(in_step(batches, passes)):
            batch = batch.to(self.model.device, self.dtype)
            logprobs, entropies = self.module(
                batch.token_ids,
                batch.positions,
                batch.lengths,
                batch.source,
                batch.target,
                parents=batch.parents,
            )
            if number >= len(batches):
                continue
            sizes = batch.row.bincount(minlength=len(batch.order)).tolist()
            logprobs_of = logprobs.cpu().split(sizes)
            entropies_of = entropies.cpu().split(sizes)
            for row, index in enumerate(batch.order):
                results[index] = (logprobs_of[row].tolist(), entropies_of[row].tolist())
        reshard(self.module)
        return results

    def save(self, folder: str | Path, *, base: bool = False) -> None:
        """Write model, generation config and tokenizer for `from_pretrained`.

        Every rank calls it, rank 0 writes. An adapter is merged into the model's files and also
        written alone to `folder/adapter`: resuming needs it, since the base cannot be recovered
        from the sum exactly. Weights are written as they are trained: float32 under `MixedModule`.
        With `base` only the model below the adapter is written.
        """
        adapter = None if self.adapter is None or base else self.adapter.saved_state()
        write_policy(self, folder, self.saved_state(base=base), adapter=adapter)

    def saved_state(
        self, *, base: bool = False
    ) -> dict[str, Tensor] | Iterator[tuple[str, Tensor]]:
        """The live tensors that `save` writes; where the model is sharded or quantised one after another, made as they are asked for.

        Architectures that are converted when they are saved need all at once: rank 0 then has what is
        sharded in full, and the others None. Collective.
        """
        # Of a quantised model, whole weights are more than its memory is meant for.
        is_large = is_sharded(self.module) or any(quantised_layers(self.module))
        if is_large and not base and not is_converted(self.model):
            return streamed(self)
        if self.adapter is None:
            state = self.model.state_dict()
        elif base:
            state = self.adapter.base()
        else:
            state = dict(self.adapter.state())
        return gathered({name: tensor.detach() for name, tensor in state.items()})


def load_policy(
    *,
    path: str | None = None,
    config: Mapping[str, Any] | None = None,
    tokenizer: str | None = None,
    dtype: str = "float32",
    seed: int = 0,
    device: torch.device | str | None = None,
    peft: Mapping[str, Any] | None = None,
    quantize: Kind | None = None,
    saved: Path | None = None,
    gradient_checkpointing: bool = False,
    compile: bool = False,
    max_length: int | None = None,
    control_tokens: Sequence[str] = (),
) -> Policy:
    """Load the model at `path` (hub name or folder), or build one from `config`. Raises `ModelError`.

    Before it returns, the packed forward is compared with the model's own (`check_packed`).

    config: `{"model_type": "qwen2", "hidden_size": 64, ...}`; random weights follow from `seed`,
        vocabulary size and special ids are the tokenizer's unless they are given.
    tokenizer: a hub name, a folder or "bytes"; by default that of `path`.
    dtype: with "bfloat16" the trained weights are float32 and the arithmetic is bfloat16
        (`MixedModule`).
    peft: `{"type": "lora", "r": 16, ...}`; the model is then frozen, in `dtype`, and an adapter in
        at least float32 is trained.
    quantize: with `peft`, the frozen model is stored in 4 bits (`rlcore.learner.quantised`).
    saved: with `peft`, a folder written by `Policy.save`, whose adapter is loaded.
    gradient_checkpointing, compile: see `rlcore.learner.speed`.
    max_length: longest sequence of the run; it decides rotary frequencies (`rlcore.rope`).
    control_tokens: see `rlcore.learner.control_tokens`.
    """
    _check_arguments(path, config, tokenizer, dtype)
    if path is not None:
        require_model(path)
    loaded_tokenizer = load_tokenizer(tokenizer or str(path))
    is_mixed = dtype == "bfloat16" and peft is None
    stored_dtype = "float32" if is_mixed else dtype
    if path is not None:
        # "eager" is the only implementation that does everything an architecture may ask for
        model = load_causal_lm(path, stored_dtype, attention="eager")
    else:
        model = model_from_config(dict(config or {}), loaded_tokenizer, stored_dtype, seed)
    if control_tokens:
        add_control_tokens(model, loaded_tokenizer, control_tokens, may_add=peft is None)
    _set_end_ids(model, loaded_tokenizer)
    check_writable(model, loaded_tokenizer)
    adapter = _adapted(model, peft, quantize, seed, device)
    if gradient_checkpointing:
        checkpoint_layers(model)
    module, longest = _packed(model, loaded_tokenizer, max_length, is_mixed=is_mixed)
    if compile:
        compile_layers(model)
    policy = Policy(module, loaded_tokenizer, longest, adapter)
    if adapter is not None and saved is not None:
        adapter.load(saved / ADAPTER)
        check_same_base(policy, saved)
    return policy


def _adapted(
    model: PreTrainedModel,
    peft: Mapping[str, Any] | None,
    quantize: Kind | None,
    seed: int,
    device: torch.device | str | None,
) -> Adapter | None:
    """Put the model on its device, with an adapter in it and quantised if that is wanted."""
    adapter = None if peft is None else attach(model, peft, seed=seed)
    if quantize is not None:
        quantise(model, quantize, device)
    model.to(device).eval()
    return adapter


def _packed(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None,
    *,
    is_mixed: bool,
) -> tuple[PackedModule, int]:
    """The checked model in packed form, and the longest sequence that it reads."""
    # before the rope is fixed: the comparison is with the model as it is
    logit_scale = check_packed(model, tokenizer)
    rope_limit = fix_rope(model, max_length)
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest = positions or tokenizer.model_max_length
    module_class = MixedModule if is_mixed else PackedModule
    return module_class(model, logit_scale=logit_scale), min(longest, rope_limit or longest)


def _set_end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give the model all tokens at which a completion ends: engines and checkpoints read them there."""
    ids = end_ids(tokenizer, model.generation_config, model.config)
    value = ids[0] if len(ids) == 1 else ids
    for settings in (model.config, model.generation_config):
        if settings is not None and ids:
            settings.eos_token_id = value


def _check_arguments(
    path: str | None,
    config: Mapping[str, Any] | None,
    tokenizer: str | None,
    dtype: str,
) -> None:
    if (path is None) == (config is None):
        raise ModelError(
            "a model is given by its path or its config: give exactly one of the two"
        )
    if path is None and tokenizer is None:
        raise ModelError(
            'a model built from config needs a tokenizer: a hub name, a folder or "bytes"'
        )
    if not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ModelError(f"there is no dtype {dtype!r}; use float32, bfloat16 or float16")


def _scored_samples(
    sequences: Sequence[Sequence[int]],
    starts: Sequence[int],
) -> list[Sample]:
    samples = []
    for index, (sequence, start) in enumerate(zip(sequences, starts, strict=True)):
        sample = Sample(
            id=str(index),
            token_ids=list(sequence),
            mask=[position >= start for position in range(len(sequence))],
            advantages=[0.0] * len(sequence),
        )
        samples.append(sample)
    return samples
