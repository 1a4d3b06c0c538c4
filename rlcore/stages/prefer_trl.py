"""Pairs of tokens in TRL's DPOTrainer and KTOTrainer: they bring the loss and the loop,
optimiser and schedule are ours.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, Trainer
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from rlcore.errors import RecipeError
from rlcore.learner.attention import PACKED
from rlcore.learner.policy import Policy
from rlcore.stages.prefer_losses import loss_trainer
from rlcore.stages.trainer_settings import (
    Forward,
    Log,
    optimizer_and_schedule,
    trainer_arguments,
)

if TYPE_CHECKING:
    from rlcore.stages.prefer import PreferStage

TOKENS = ("prompt_ids", "chosen_ids", "rejected_ids")


class TokenPairs(DPOTrainer):
    """TRL's trainer on rows that are tokens already."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset


class TokenCompletions(KTOTrainer):
    """TRL's trainer on completions that are tokens already, each with a label and another's
    completion for the KL.
    """

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset


def train_pairs(
    policy: Policy,
    rows: Sequence[Mapping[str, Any]],
    stage: PreferStage,
    *,
    seed: int,
    processes: int,
    log: Log,
) -> None:
    """Train `policy` in place on rows with `TOKENS`; `log` gets the metrics of every step.
    Raises `RecipeError`.
    """
    with plain(policy), torch.random.fork_rng(), tempfile.TemporaryDirectory() as scratch:
        try:
            pair_trainer(
                policy, rows, stage, seed=seed, processes=processes, log=log, scratch=scratch
            ).train()
        except (ValueError, NotImplementedError) as error:
            raise RecipeError(f"TRL refused stage {stage.label}: {error}") from None


def pair_trainer(
    policy: Policy,
    rows: Sequence[Mapping[str, Any]],
    stage: PreferStage,
    *,
    seed: int = 0,
    processes: int = 1,
    log: Log = lambda metrics: None,
    scratch: str,
) -> Trainer:
    """The trainer of the stage's method for a policy that is `plain` and stays so.

    Where the method has a reference model, it is a copy of the policy as it is now.
    """
    settings = trainer_arguments(stage, policy, seed=seed, processes=processes, scratch=scratch)
    optimizers = optimizer_and_schedule(policy.module, stage.optim, stage.steps)
    method = stage.build_method()
    if callable(method):
        trainer = loss_trainer(policy, rows, method, settings, optimizers)
    elif stage.method_name == "kto":
        trainer = _kto_trainer(policy, rows, {**settings, **method}, optimizers)
    else:
        trainer = _dpo_trainer(policy, rows, stage, {**settings, **method}, optimizers)
    trainer.add_callback(Forward(log))
    trainer.remove_callback(PrinterCallback)
    return trainer


def _dpo_trainer(
    policy: Policy,
    rows: Sequence[Mapping[str, Any]],
    stage: PreferStage,
    settings: Mapping[str, Any],
    optimizers: tuple[Any, Any],
) -> TokenPairs:
    losses = {stage.loss_type: 1.0} if isinstance(stage.loss_type, str) else stage.loss_type
    return TokenPairs(
        model=policy.model,
        ref_model=copy.deepcopy(policy.model).requires_grad_(False),
        args=DPOConfig(
            **settings,
            loss_type=list(losses),
            loss_weights=list(losses.values()),
            max_length=None,
        ),
        train_dataset=Dataset.from_dict({name: [row[name] for row in rows] for name in TOKENS}),
        processing_class=policy.tokenizer,
        optimizers=optimizers,
    )


def _kto_trainer(
    policy: Policy,
    rows: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    optimizers: tuple[Any, Any],
) -> TokenCompletions:
    size = 2 * settings["per_device_train_batch_size"]  # both sides of a pair
    return TokenCompletions(
        model=policy.model,
        ref_model=copy.deepcopy(policy.model).requires_grad_(False),
        args=KTOConfig(
            **{**settings, "per_device_train_batch_size": size},
            max_length=None,
            train_sampling_strategy="sequential",  # the KL reads the completions of its own batch
        ),
        train_dataset=Dataset.from_list(labelled(rows, size, seed=settings["seed"])),
        processing_class=policy.tokenizer,
        optimizers=optimizers,
    )


def labelled(
    rows: Sequence[Mapping[str, Any]], size: int, *, seed: int
) -> list[dict[str, Any]]:
    """Both sides of pairs, and single completions, with a label, each text once, in an order drawn by
    `seed`.

    size: of a micro-batch. `KL_completion_ids` is the completion before it in its micro-batch,
    of the first the last, as TRL and the paper do.
    """
    completions = {}
    for row in rows:
        sides = [("chosen_ids", True), ("rejected_ids", False)]
        if "label" in row:
            sides = [("completion_ids", row["label"])]
        for side, label in sides:
            key = (tuple(row["prompt_ids"]), tuple(row[side]), label)
            completions[key] = {
                "prompt_ids": row["prompt_ids"],
                "completion_ids": row[side],
                "label": label,
            }
    listed = list(completions.values())
    order = torch.randperm(len(listed), generator=torch.Generator().manual_seed(seed)).tolist()
    result = []
    for start in range(0, len(order), size):
        batch = [listed[position] for position in order[start : start + size]]
        for number, row in enumerate(batch):
            result.append({**row, "KL_completion_ids": batch[number - 1]["completion_ids"]})
    return result


@contextmanager
def plain(policy: Policy) -> Iterator[None]:
    """The model as transformers knows it, and afterwards as it was: TRL also puts a forward of
    its own on it.
    """
    model = policy.model
    model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        model.__dict__.pop("forward", None)
        model.set_attn_implementation(PACKED)
        model.eval()
