"""What a saved policy will hold, found out while it is loaded: hours later is too late."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Size, Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_utils import remove_tied_weights_from_state_dict

from rlcore.errors import ModelError, first_line
from rlcore.learner.sharding import full
from rlcore.pretrained import read_back
from rlcore.tokenizer import load_tokenizer
from rlcore.weight_files import write_weights

if TYPE_CHECKING:
    from rlcore.learner.policy import Policy
    from rlcore.learner.policy_adapter import Adapter

ADAPTER = "adapter"
"""Subfolder of a saved policy that holds its adapter alone."""
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p")
"""Settings of a generation config that say that its author sampled."""
_SAVED = "be saved"
_TEXT = "The ship left at 7:15,\n\twith 12 men & a \u00e9migr\u00e9."
"""Compared before and after a tokenizer is saved."""


def write_policy(
    policy: Policy,
    folder: str | Path,
    state: dict[str, Tensor] | Iterator[tuple[str, Tensor]],
    *,
    adapter: dict[str, Tensor] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> None:
    """What `Policy.save` writes, with these weights: `Policy.saved_state`. Every rank calls it, rank 0 writes.

    adapter: `Adapter.saved_state`, where the adapter is written too. tokenizer: a copy, where
    another thread may be using the policy's own: it cannot be set and saved at once.
    """
    try:
        if dist.is_initialized() and dist.get_rank() != 0:
            return
        if isinstance(state, dict):
            policy.model.save_pretrained(folder, state_dict=state)
        else:
            policy.model.save_pretrained(folder, state_dict={})
            write_weights(Path(folder), state)
        (tokenizer or policy.tokenizer).save_pretrained(folder)
        if policy.adapter is not None and adapter is not None:
            policy.adapter.save(Path(folder) / ADAPTER, adapter)
    finally:
        exhaust(state)


def exhaust(state: dict[str, Tensor] | Iterator[tuple[str, Tensor]]) -> None:
    """Take part in gathering what another rank writes, also where the write has failed."""
    for _ in state:
        pass


def streamed(policy: Policy) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of a policy's checkpoint, of which each is full, on the CPU of rank 0, only until the next one. Collective."""
    model, adapter = policy.model, policy.adapter
    left_out = further_names_of_tied_weights(model) | set(model._keys_to_ignore_on_save or ())
    for name, tensor in model.state_dict().items() if adapter is None else adapter.state():
        if name not in left_out:
            whole = full(tensor.detach())
            writes = not dist.is_initialized() or dist.get_rank() == 0
            yield name, whole.cpu() if writes else whole


def further_names_of_tied_weights(model: PreTrainedModel) -> set[str]:
    """Names under which a model has weights that it also has under a name before."""
    all_names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    first_names = {name for name, _ in model.named_parameters()}
    return all_names - first_names


def check_writable(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Try all that a checkpoint takes, but for the values of the weights. Raises `ModelError` where one could not be written.

    Config, generation config and tokenizer are written once; the weights as empty tensors of their
    names and types, and their names and shapes are read back. A generation config with sampling
    settings but without `do_sample`, which transformers reads and refuses to write, gets
    `do_sample`.
    """
    if model.generation_config is not None:
        _complete(model.generation_config)
    with tempfile.TemporaryDirectory() as folder:
        steps: tuple[tuple[str, str, Callable[[], None]], ...] = (
            ("config.json", _SAVED, lambda: _save(model.config, folder)),
            ("generation_config.json", _SAVED, lambda: _save(model.generation_config, folder)),
            ("the tokenizer", _SAVED, lambda: _save(tokenizer, folder)),
            ("the saved tokenizer", "be read again", lambda: _read(tokenizer, folder)),
            ("its weights", _SAVED, lambda: _write_empty(model, folder)),
        )
        for part, action, attempt in steps:
            try:
                attempt()
            except Exception as error:  # what users wrote into files, and code that reads it
                raise ModelError(
                    f"a checkpoint of this {type(model).__name__} could not be written: {part} "
                    f"cannot {action} ({first_line(error)}); correct the model's files"
                ) from error


def _save(part: Any, folder: str) -> None:
    if part is not None:
        part.save_pretrained(folder)


def _read(tokenizer: PreTrainedTokenizerBase, folder: str) -> None:
    """Read the tokenizer in `folder`, as a resumed run does, and raise unless it is the one that was saved."""
    read = load_tokenizer(folder)
    pairs = {
        "ids of a text": (read(_TEXT).input_ids, tokenizer(_TEXT).input_ids),
        "chat template": (read.chat_template, tokenizer.chat_template),
        "special tokens": (read.all_special_ids, tokenizer.all_special_ids),
    }
    for what, (after, before) in pairs.items():
        if after != before:
            raise ValueError(f"its {what} would not be those of the tokenizer in use")


def _write_empty(model: PreTrainedModel, folder: str) -> None:
    """What `save_pretrained` does with the weights, without their values."""
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point():
            raise ValueError(f"{name} has the type {parameter.dtype} and cannot be trained")
    state = model.state_dict()
    for name in model._keys_to_ignore_on_save or ():
        state.pop(name, None)
    state = remove_tied_weights_from_state_dict(state, model)
    empty = {name: tensor.new_empty(0) for name, tensor in state.items()}
    save_file(empty, Path(folder) / "model.safetensors")
    shapes = {name: tensor.to("meta") for name, tensor in state.items()}
    problem = read_back(model, revert_weight_conversion(model, shapes))
    if problem:
        raise ValueError(f"read back, {problem}")


def _complete(settings: GenerationConfig) -> None:
    try:
        settings.validate(strict=True)
    except ValueError:
        if any(getattr(settings, name, None) is not None for name in _SAMPLING):
            settings.do_sample = True


def check_same_base(policy: Policy, saved: Path) -> None:
    """Raise `ModelError` unless base and adapter together are the merged model in `saved`.

    The base's files may have changed since the adapter was trained.
    """
    file_of = {}
    for path in saved.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():
                file_of[name] = path
    for name, tensor in policy.weights():
        with safe_open(file_of[name], "pt") as file:
            expected = file.get_tensor(name).float()
        difference = (tensor.cpu().float() - expected).norm()
        if not difference <= 0.01 * expected.norm():
            raise ModelError(
                f"the adapter in {saved} was trained on another base model ({name} differs): set "
                "model.path to the model that the run began with"
            )


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
