"""A reward model that is a mixture of experts: a model for each group of prompts, and in it a LoRA
expert for each capability (DMoERM, arXiv 2403.01197).

The outer layer is sparse: a prompt's category names its group, and only that group's experts run.
The inner layer is dense: the last hidden states of a group's E experts, each of size H, go
together through an MLP, [E x H] -> [H] -> PReLU -> score.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlcore.errors import ModelError, first_line
from rlcore.pretrained import load_model

EXPERTS = "experts.safetensors"
"""File of a group's adapters and MLP, beside its base model."""


class GroupExperts(nn.Module):
    """The base reward model of one group of prompts, its experts and what joins them."""

    def __init__(
        self,
        base: PreTrainedModel,
        capabilities: Sequence[str],
        lora: Mapping[str, Any],
        *,
        seed: int = 0,
    ) -> None:
        """base: a sequence classifier with one output; it is changed in place, its own weights are not.

        capabilities: an expert each. lora: settings of peft's LoraConfig. seed: of new weights.
        Raises `ModelError` where the adapters do not fit the model.
        """
        super().__init__()
        self.capabilities = list(capabilities)
        size = base.config.get_text_config().hidden_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for number in range(len(self.capabilities)):
                _insert(base, lora, _adapter(number))
            self.mixer = nn.Sequential(
                nn.Linear(len(self.capabilities) * size, size), nn.PReLU(), nn.Linear(size, 1)
            )
        self.base = base
        self.mixer.to(base.device)
        self.base.requires_grad_(False)

    @contextmanager
    def expert(self, capability: str) -> Iterator[PreTrainedModel]:
        """Context in which the base is one expert that can be trained: its adapter, and a value head
        that begins as a copy of the base's and is dropped afterwards.
        """
        head = self.base.score
        self.base.score = copy.deepcopy(head).requires_grad_(True)
        self._activate(capability)
        adapter = _adapter(self.capabilities.index(capability))
        for name, parameter in self.base.named_parameters():
            parameter.requires_grad_(f".{adapter}." in name or name.startswith("score."))
        try:
            yield self.base
        finally:
            self.base.score = head
            self.base.requires_grad_(False)
            self.base.eval()

    @torch.no_grad()
    def features(self, token_ids: Tensor, mask: Tensor) -> Tensor:
        """Last hidden states of all experts side by side, [B, E x H]. token_ids, mask: [B, S], padded on the right."""
        states = []
        for capability in self.capabilities:
            self._activate(capability)
            states.append(last_hidden(self.base, token_ids, mask))
        return torch.cat(states, dim=1)

    def forward(self, token_ids: Tensor, mask: Tensor) -> Tensor:
        """Scores [B]."""
        return self.mixer(self.features(token_ids, mask).float())[:, 0]

    def own_state(self) -> dict[str, Tensor]:
        """Adapters and MLP: all that is not the base model."""
        return {
            name: parameter.detach().contiguous()
            for name, parameter in self.named_parameters()
            if name.startswith("mixer.") or "lora_" in name
        }

    def _activate(self, capability: str) -> None:
        from peft.tuners.tuners_utils import BaseTunerLayer

        adapter = _adapter(self.capabilities.index(capability))
        for module in self.base.modules():
            if isinstance(module, BaseTunerLayer):
                module.set_adapter(adapter)


class ExpertMixture(nn.Module):
    """The groups of a reward model, by the category of their prompts."""

    def __init__(self, groups: Mapping[str, GroupExperts]) -> None:
        super().__init__()
        self._number = {name: number for number, name in enumerate(groups)}
        self.groups = nn.ModuleList(groups.values())

    def group(self, category: str) -> GroupExperts | None:
        """The router: the group of a category, None where no expert was trained for it."""
        number = self._number.get(category)
        return None if number is None else self.groups[number]

    @torch.inference_mode()
    def scores(
        self, rows: Sequence[tuple[str, Sequence[int]]], *, batch_size: int = 16
    ) -> list[float | None]:
        """The score of each (category, tokens); None for a category without experts."""
        values: list[float | None] = [None] * len(rows)
        by_group: dict[str, list[int]] = {}
        for index, (category, _) in enumerate(rows):
            by_group.setdefault(category, []).append(index)
        for category, indices in by_group.items():
            group = self.group(category)
            if group is None:
                continue
            indices.sort(key=lambda i: len(rows[i][1]))
            for start in range(0, len(indices), batch_size):
                batch = indices[start : start + batch_size]
                ids, mask = padded([rows[i][1] for i in batch], group.base.device)
                for index, score in zip(batch, group(ids, mask).tolist(), strict=True):
                    values[index] = score
        return values


def padded(rows: Sequence[Sequence[int]], device: Any) -> tuple[Tensor, Tensor]:
    """Token ids and mask [B, S] of sequences, padded on the right."""
    longest = max(map(len, rows))
    ids = [[*row, *[0] * (longest - len(row))] for row in rows]
    mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def last_hidden(model: PreTrainedModel, token_ids: Tensor, mask: Tensor) -> Tensor:
    """Hidden state [B, H] of each row's last token, which the score of the classifier is a linear function of."""
    body = getattr(model, model.base_model_prefix)
    states = body(input_ids=token_ids, attention_mask=mask, use_cache=False).last_hidden_state
    last = mask.sum(1) - 1
    return states[torch.arange(len(states), device=states.device), last]


def save_mixture(folder: Path, groups: Mapping[str, GroupExperts]) -> None:
    """Write adapters and MLP of each group beside its base, which was saved before they were put into it."""
    for number, group in enumerate(groups.values()):
        save_file(group.own_state(), folder / group_folder(number) / EXPERTS)


def load_mixture(
    folder: Path,
    experts: Mapping[str, Sequence[str]],
    lora: Mapping[str, Any],
    *,
    device: str = "cpu",
    dtype: str = "auto",
) -> ExpertMixture:
    """The mixture that `save_mixture` wrote. Raises `ModelError`."""
    groups = {}
    for number, (name, capabilities) in enumerate(experts.items()):
        own = folder / group_folder(number)
        base = load_model(own, dtype=dtype, head="SequenceClassification")
        group = GroupExperts(base, capabilities, lora)
        state = load_file(own / EXPERTS)
        known = group.own_state()
        if state.keys() != known.keys():
            raise ModelError(
                f"{own / EXPERTS} does not hold the experts of {json.dumps(list(capabilities))}: copy the folder again"
            )
        for parameter_name, parameter in group.named_parameters():
            if parameter_name in state:
                parameter.data.copy_(state[parameter_name])
        groups[name] = group.to(device).eval()
    return ExpertMixture(groups).eval()


def group_folder(number: int) -> str:
    """Name of a group's folder: names of categories may be no file names."""
    return f"group_{number}"


def lora_config(lora: Mapping[str, Any]) -> Any:
    """peft's config of an expert. Raises `ModelError`."""
    try:
        from peft import LoraConfig
    except ImportError:
        raise ModelError(
            "reward_experts needs the package peft, which is not installed; run `pip install 'rlcore[peft]'`"
        ) from None
    try:
        return LoraConfig(**lora)
    except (TypeError, ValueError) as error:
        raise ModelError(f"lora does not describe an adapter: {first_line(error)}") from None


def _adapter(number: int) -> str:
    return f"expert_{number}"


def _insert(base: PreTrainedModel, lora: Mapping[str, Any], adapter: str) -> None:
    from peft import inject_adapter_in_model

    if not isinstance(getattr(base, "score", None), nn.Linear):
        raise ModelError(
            f"{type(base).__name__} has no linear head `score`, which experts copy: use another base model"
        )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*multiple adapters.*")
            inject_adapter_in_model(lora_config(lora), base, adapter_name=adapter)
    except (ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"experts cannot be put into {type(base).__name__}: {first_line(error)}; see lora.target_modules"
        ) from None
