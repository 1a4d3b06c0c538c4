"""The model that learns: loading it, running it on packed tokens, and giving its weights away."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.core_model_loading import revert_weight_conversion

from rlcore.errors import ModelError, first_line
from rlcore.learner.attention import PACKED
from rlcore.learner.module import MixedModule, PackedModule
from rlcore.learner.pack import Layout, pack
from rlcore.learner.policy_adapter import Adapter, attach
from rlcore.learner.sharding import gathered, reshard, whole
from rlcore.learner.speed import checkpoint_layers, compile_layers
from rlcore.learner.tokenizer import byte_tokenizer
from rlcore.plugin import did_you_mean
from rlcore.types import Sample

ADAPTER = "adapter"
"""Subfolder of a saved policy that holds its adapter alone."""


@dataclass(frozen=True)
class Policy:
    """A model in packed form with its tokenizer. Dropout is off: scoring and learning must see the same function."""

    module: PackedModule
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    """Longest sequence the model has positions for."""
    adapter: Adapter | None = None
    """What is trained, where that is not the model itself."""

    @property
    def model(self) -> PreTrainedModel:
        """The transformers model. Its attention is packed: to call or generate with it directly, switch that to "sdpa" first."""
        return self.module.model

    @property
    def num_parameters(self) -> int:
        """Parameters, tied ones counted once."""
        return sum(p.numel() for p in self.module.parameters())

    @property
    def dtype(self) -> torch.dtype:
        """What log-probabilities and losses are computed in: float64 for a float64 model, else float32."""
        return torch.float64 if self.model.dtype == torch.float64 else torch.float32

    @property
    def arithmetic(self) -> torch.dtype:
        """What the model's matrix products are computed in."""
        return torch.bfloat16 if isinstance(self.module, MixedModule) else self.model.dtype

    def weights(self, *, apart: bool = False) -> Iterator[tuple[str, Tensor]]:
        """Names and full tensors as in the checkpoint that `save` writes; tied weights once. Collective if sharded.

        An adapter is merged in, one layer at a time as the tensors are read; the live module is not changed. With `apart` the
        base's tensors come as they are, and the adapter's after them (`Adapter.apart`).
        """
        if apart and self.adapter is not None:
            yield from ((name, whole(tensor)) for name, tensor in self.adapter.apart())
            return
        own = self._own_weights()
        if (
            revert_weight_conversion(self.model, none := {}) is not none
        ):  # fused or renamed in memory: needs them all at once
            own = iter(revert_weight_conversion(self.model, dict(own)).items())
        yield from own

    def _own_weights(self) -> Iterator[tuple[str, Tensor]]:
        if self.adapter is None:
            yield from (
                (name, whole(tensor.detach())) for name, tensor in self.model.named_parameters()
            )
            return
        names = [
            {name for name, _ in self.model.named_parameters(remove_duplicate=once)}
            for once in (False, True)
        ]
        again = names[0] - names[1]  # further names of tied weights
        for name, tensor in self.adapter.state():
            if isinstance(tensor, torch.nn.Parameter) and name not in again:
                yield name, whole(tensor.detach())

    def frozen(self, device: torch.device) -> Callable[..., tuple[Tensor, Tensor]]:
        """The policy as it is now, to be called like `module` while it learns: a copy, or, under an adapter, the base itself."""
        if self.adapter is None:
            return copy.deepcopy(self.module).to(device).requires_grad_(False)

        def base(*inputs: Any) -> tuple[Tensor, Tensor]:
            with self.adapter.disabled():
                return self.module(*inputs)

        return base

    def score(self, sequences: Sequence[list[int]], *, max_tokens: int = 8192) -> list[list[float]]:
        """Log-probabilities at temperature 1 of `sequence[1:]` given what precedes each token: len - 1 numbers a sequence."""
        return [logp for logp, _ in self.read(sequences, max_tokens=max_tokens)]

    @torch.no_grad()
    def read(
        self,
        sequences: Sequence[Sequence[int]],
        *,
        starts: Sequence[int] | None = None,
        layout: Layout = "packed",
        max_tokens: int = 8192,
    ) -> list[tuple[list[float], list[float]]]:
        """Log-probability and entropy, at temperature 1, of each sequence's tokens from its place `starts` (default 1) on.

        In the layout `shared` what sequences begin with in common is read once.
        """
        firsts = starts or [1] * len(sequences)
        samples = [
            Sample(
                id=str(i),
                token_ids=list(s),
                mask=[place >= first for place in range(len(s))],
                advantages=[0.0] * len(s),
            )
            for i, (s, first) in enumerate(zip(sequences, firsts, strict=True))
        ]
        found: list[tuple[list[float], list[float]]] = [([], []) for _ in samples]
        for batch in pack(samples, max_tokens=max_tokens, layout=layout):
            batch = batch.to(self.model.device, self.dtype)
            inputs = (batch.token_ids, batch.positions, batch.lengths, batch.source, batch.target)
            logp, entropy = self.module(*inputs, parents=batch.parents)
            sizes = batch.row.bincount(minlength=len(batch.order)).tolist()
            for index, *values in zip(
                batch.order, logp.cpu().split(sizes), entropy.cpu().split(sizes), strict=True
            ):
                found[index] = (values[0].tolist(), values[1].tolist())
        reshard(self.module)
        return found

    def save(self, folder: str | Path, *, base: bool = False) -> None:
        """Write model, generation config and tokenizer for `from_pretrained`. All ranks call it, the first one writes.

        An adapter is merged into the model's files, and also written by itself to `folder/adapter`: resuming needs it, since
        the base cannot be had back from the sum exactly. Weights are written as they are trained: float32 under `MixedModule`.
        With `base` the model below the adapter is written alone.
        """
        state = (
            self.model.state_dict()
            if self.adapter is None
            else self.adapter.base()
            if base
            else dict(self.adapter.state())
        )
        state = gathered({name: tensor.detach() for name, tensor in state.items()})
        if not dist.is_initialized() or dist.get_rank() == 0:
            self.model.save_pretrained(folder, state_dict=state)
            self.tokenizer.save_pretrained(folder)
            if self.adapter is not None and not base:
                self.adapter.save(Path(folder) / ADAPTER)


def load_policy(
    *,
    path: str | None = None,
    config: Mapping[str, Any] | None = None,
    tokenizer: str | None = None,
    dtype: str = "float32",
    seed: int = 0,
    device: torch.device | str | None = None,
    peft: Mapping[str, Any] | None = None,
    saved: Path | None = None,
    gradient_checkpointing: bool = False,
    compile: bool = False,
) -> Policy:
    """Load the model at `path` (hub name or folder), or build one from `config` with random weights that follow from `seed`.

    `config` is `{"model_type": "qwen2", "hidden_size": 64, ...}`; vocabulary size and special ids are the tokenizer's
    unless given. `tokenizer` is a hub name, a folder or "bytes"; by default that of `path`. With dtype "bfloat16" the weights
    trained are float32 and the arithmetic is bfloat16 (`MixedModule`). With `peft` (`{"type": "lora", "r": 16, ...}`) the model
    is frozen, in `dtype`, and an adapter in at least float32 is trained; `saved` is then a folder that `Policy.save` wrote, whose
    adapter is taken over. The last two are `rlcore.learner.speed`'s. Before it returns, the packed forward is compared with the
    model's own on two short sequences. Raises `ModelError`.
    """
    if (path is None) == (config is None):
        raise ModelError(
            "a model is given either by path or by config: give exactly one of the two"
        )
    if path is None and tokenizer is None:
        raise ModelError(
            'a model built from config needs a tokenizer: a hub name, a folder or "bytes"'
        )
    if not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ModelError(f"there is no dtype {dtype!r}; use float32, bfloat16 or float16")
    loaded_tokenizer = load_tokenizer(tokenizer or str(path))
    mixed = dtype == "bfloat16" and peft is None
    held = "float32" if mixed else dtype
    model = (
        _from_path(path, held)
        if path is not None
        else _from_config(dict(config or {}), loaded_tokenizer, held, seed)
    )
    for settings in (model.config, model.generation_config):
        if settings is not None and settings.eos_token_id is None:
            settings.eos_token_id = loaded_tokenizer.eos_token_id
    adapter = None if peft is None else attach(model, peft, seed=seed)
    model.to(device).eval()
    if gradient_checkpointing:
        checkpoint_layers(model)
    check_packed(model)
    if compile:
        compile_layers(model)
    limit = (
        getattr(model.config.get_text_config(), "max_position_embeddings", None)
        or loaded_tokenizer.model_max_length
    )
    policy = Policy(
        (MixedModule if mixed else PackedModule)(model), loaded_tokenizer, limit, adapter
    )
    if adapter is not None and saved is not None:
        adapter.load(saved / ADAPTER)
        _check_same_base(policy, saved)
    return policy


def _check_same_base(policy: Policy, saved: Path) -> None:
    """Raise `ModelError` unless base and adapter are together the merged model in `saved`: the base's files may have changed."""
    stored = {}
    for path in saved.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            stored |= {name: path for name in file.keys()}
    for name, tensor in policy.weights():
        with safe_open(stored[name], "pt") as file:
            wanted = file.get_tensor(name).float()
        if not (tensor.cpu().float() - wanted).norm() <= 0.01 * wanted.norm():
            raise ModelError(
                f"the base model is not the one the adapter in {saved} was trained on ({name} differs); give model.path what the "
                "run began with"
            )


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer at a hub name or folder, or the built-in one for "bytes". Raises `ModelError`."""
    if name == "bytes":
        return byte_tokenizer()
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(f"cannot load a tokenizer from {name!r}: {first_line(error)}") from None


def check_packed(model: PreTrainedModel) -> None:
    """Switch `model` to packed attention, and raise `ModelError` unless it then gives the log-probabilities it gave before."""
    head = model.get_output_embeddings()
    if head is None:
        raise ModelError(
            f"{type(model).__name__} has no output embeddings: it is not a language model rlcore can train"
        )
    generator = torch.Generator().manual_seed(0)
    sequences = [
        torch.randint(len(head.weight), (n,), generator=generator).to(model.device) for n in (7, 12)
    ]
    with torch.no_grad():
        model.set_attn_implementation(
            "eager"
        )  # the one implementation that honours everything an architecture asks for
        try:
            logits = [
                model(input_ids=ids[None], use_cache=False).logits[0, :-1].double()
                for ids in sequences
            ]
        except (RuntimeError, ValueError) as error:
            raise ModelError(
                f"{type(model).__name__} cannot run; do its sizes fit together? {first_line(error)}"
            ) from error
        wanted = torch.cat(
            [
                z.log_softmax(-1).gather(1, ids[1:, None])[:, 0]
                for z, ids in zip(logits, sequences, strict=True)
            ]
        )
        model.set_attn_implementation(PACKED)
        got, _ = PackedModule(model)(*_packed(sequences))
    difference = (got.double() - wanted).abs().mean().item()
    if not difference <= (1e-4 if model.dtype in (torch.float32, torch.float64) else 0.05):
        raise ModelError(
            f"{type(model).__name__} is not supported: its packed log-probabilities differ from its own by {difference:.2g} on "
            "average, so its attention or its output head does something rlcore does not know"
        )


def _packed(sequences: list[Tensor]) -> tuple[Tensor, Tensor, tuple[int, ...], Tensor, Tensor]:
    positions = [torch.arange(len(ids) - 1, device=ids.device) for ids in sequences]
    tokens = torch.cat([ids[:-1] for ids in sequences])
    lengths = tuple(len(ids) - 1 for ids in sequences)
    everything = torch.arange(len(tokens), device=tokens.device)
    return (
        tokens,
        torch.cat(positions),
        lengths,
        everything,
        torch.cat([ids[1:] for ids in sequences]),
    )


def _from_path(path: str, dtype: str) -> PreTrainedModel:
    try:
        return AutoModelForCausalLM.from_pretrained(
            path, dtype=getattr(torch, dtype), attn_implementation="eager"
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load a model from {path!r}: {first_line(error)}") from None


def _from_config(
    values: dict[str, Any], tokenizer: PreTrainedTokenizerBase, dtype: str, seed: int
) -> PreTrainedModel:
    model_type = values.pop("model_type", None)
    try:
        known = AutoConfig.for_model(model_type)
    except ValueError:
        raise ModelError(
            f"transformers knows no architecture of model_type {model_type!r}; try qwen2 or llama"
        ) from None
    for key in values:
        if not hasattr(known, key):
            raise ModelError(
                f"a {model_type} config has no {key!r}{did_you_mean(key, known.to_dict())}"
            )
    special = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")
    }
    try:
        config = AutoConfig.for_model(
            model_type, **({"vocab_size": len(tokenizer)} | special | values)
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return AutoModelForCausalLM.from_config(
                config, dtype=getattr(torch, dtype), attn_implementation="eager"
            )
    except Exception as error:  # whatever an architecture makes of sizes that do not fit
        raise ModelError(
            f"no {model_type} can be made from this config: {first_line(error)}"
        ) from error
