"""Pairs of tokens under a loss of `rlcore.objective.preference`: a transformers trainer with
TRL's batches and output head.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import Trainer, TrainingArguments
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.utils import add_fused_lm_head

from rlcore.learner.policy import Policy
from rlcore.objective.preference import PairLoss, PairLosses, Sides

FIELDS = ("prompt_ids", "chosen_ids", "rejected_ids")


class LossTrainer(Trainer):
    """Minimises the mean of a loss over pairs."""

    def __init__(self, loss: PairLoss, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._loss = loss
        self._means: dict[str, list[float]] = defaultdict(list)

    def compute_loss(
        self, model: Any, inputs: Mapping[str, Tensor], return_outputs: bool = False, **_: Any
    ) -> Tensor:
        losses = self._loss(_sides(model, inputs))
        self._note(losses)
        return losses.loss.mean()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Metrics are means over the micro-batches of a step."""
        means = {name: sum(values) / len(values) for name, values in self._means.items()}
        self._means.clear()
        super().log({**logs, **means}, start_time)

    def _note(self, losses: PairLosses) -> None:
        chosen = self.accelerator.gather(losses.chosen_reward.detach())
        rejected = self.accelerator.gather(losses.rejected_reward.detach())
        self._means["rewards/chosen"].append(chosen.mean().item())
        self._means["rewards/rejected"].append(rejected.mean().item())
        self._means["rewards/margins"].append((chosen - rejected).mean().item())
        self._means["rewards/accuracies"].append((chosen > rejected).float().mean().item())


def _sides(model: Any, inputs: Mapping[str, Tensor]) -> Sides:
    """inputs: token ids, attention and completion mask, each [2B, tokens], the chosen sides
    first.
    """
    completion = inputs["completion_mask"]
    output = model(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        labels=inputs["input_ids"].masked_fill(completion == 0, -100),
        fused_lm_head=True,
        use_cache=False,
    )
    chosen, rejected = output.log_probs.sum(1).chunk(2)
    chosen_tokens, rejected_tokens = completion[:, 1:].sum(1).chunk(2)
    return Sides(chosen, rejected, chosen_tokens, rejected_tokens, inputs.get("margin"))


def _collate(pad: int) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, Tensor]]:
    """TRL's batch of pairs, and `margin` [B] where the rows have one."""
    pairs = DataCollatorForPreference(pad_token_id=pad)

    def batch(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        tensors = pairs([{name: row[name] for name in FIELDS} for row in rows])
        if "margin" in rows[0]:
            tensors["margin"] = torch.tensor([row["margin"] for row in rows])
        return tensors

    return batch


def loss_trainer(
    policy: Policy,
    rows: Sequence[Mapping[str, Any]],
    loss: PairLoss,
    settings: Mapping[str, Any],
    optimizers: tuple[Any, Any],
) -> LossTrainer:
    """A trainer of `policy.model`, on which TRL's output head is put."""
    add_fused_lm_head(policy.model)
    pad = policy.tokenizer.pad_token_id
    columns = {name: [row[name] for row in rows] for name in FIELDS}
    if all(row.get("margin") is not None for row in rows):
        columns["margin"] = [float(row["margin"]) for row in rows]
    return LossTrainer(
        loss,
        model=policy.model,
        args=TrainingArguments(**settings, remove_unused_columns=False),
        data_collator=_collate(pad if pad is not None else 0),
        train_dataset=Dataset.from_dict(columns),
        optimizers=optimizers,
    )
