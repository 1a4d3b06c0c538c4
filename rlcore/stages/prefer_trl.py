"""Pairs of tokens in TRL's DPOTrainer: it brings the loss and the loop, optimiser and schedule are ours."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer

from rlcore.errors import RecipeError
from rlcore.learner.attention import PACKED
from rlcore.learner.optim import OPTIMIZERS, Schedule
from rlcore.learner.policy import Policy

if TYPE_CHECKING:
    from rlcore.stages.prefer import PreferStage

TOKENS = ("prompt_ids", "chosen_ids", "rejected_ids")
Log = Callable[[Mapping[str, float]], None]


class TokenPairs(DPOTrainer):
    """TRL's trainer on rows that are tokens already."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset


class Forward(TrainerCallback):
    """Hands what TRL logs of every step to `log`, under our names."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: Mapping[str, float] | None = None,
        **_: Any,
    ) -> None:
        if logs and "loss" in logs:
            names = {
                "learning_rate": "lr",
                "rewards/margins": "margin",
                "rewards/accuracies": "accuracy",
            }
            kept = ("loss", "grad_norm", "entropy", "learning_rate")
            self._log(
                {
                    names.get(key, key): value
                    for key, value in logs.items()
                    if key in kept or "/" in key
                }
            )


def train_pairs(
    policy: Policy,
    rows: Sequence[Mapping[str, Any]],
    stage: PreferStage,
    *,
    seed: int,
    processes: int,
    log: Log,
) -> None:
    """Train `policy` in place on rows with `TOKENS`; `log` gets the metrics of every step. Raises `RecipeError`."""
    with plain(policy), torch.random.fork_rng(), tempfile.TemporaryDirectory() as scratch:
        try:
            pair_trainer(
                policy, rows, stage, seed=seed, processes=processes, log=log, scratch=scratch
            ).train()
        except (ValueError, NotImplementedError) as error:
            raise RecipeError(
                f"TRL's DPOTrainer refused stage {stage.label}: {error}"
            ) from None


def pair_trainer(
    policy: Policy,
    rows: Sequence[Mapping[str, Any]],
    stage: PreferStage,
    *,
    seed: int = 0,
    processes: int = 1,
    log: Log = lambda metrics: None,
    scratch: str,
) -> TokenPairs:
    """TRL's trainer for a policy that is `plain` and stays so; the reference is a copy of it as it is now."""
    losses = {stage.loss_type: 1.0} if isinstance(stage.loss_type, str) else stage.loss_type
    optim = stage.optim
    make_optimizer = OPTIMIZERS[optim.use]
    optimizer = make_optimizer(
        policy.module, lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay
    )
    curve = optim.schedule_settings()
    schedule = Schedule(
        name=curve.pop("schedule"),
        total=stage.steps,
        warmup=optim.warmup_steps,
        floor=curve.pop("min_lr_ratio", 0.0),
        **curve,
    )
    micro_batch, accumulation = stage.micro_batches(processes)
    config = DPOConfig(
        output_dir=scratch,
        max_steps=stage.steps,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=accumulation,
        learning_rate=optim.lr,
        max_grad_norm=optim.clip_norm,
        beta=stage.beta,
        loss_type=list(losses),
        loss_weights=list(losses.values()),
        max_length=None,
        seed=seed % 2**32,
        gradient_checkpointing=False,
        bf16=policy.arithmetic == torch.bfloat16,
        use_cpu=policy.model.device.type == "cpu",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = TokenPairs(
        model=policy.model,
        ref_model=copy.deepcopy(policy.model).requires_grad_(False),
        args=config,
        train_dataset=Dataset.from_dict({name: [row[name] for row in rows] for name in TOKENS}),
        processing_class=policy.tokenizer,
        optimizers=(optimizer, LambdaLR(optimizer, schedule)),
        callbacks=[Forward(log)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


@contextmanager
def plain(policy: Policy) -> Iterator[None]:
    """The model as transformers knows it, and afterwards as it was: TRL also puts a forward of its own on it."""
    model = policy.model
    model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        model.__dict__.pop("forward", None)
        model.set_attn_implementation(PACKED)
        model.eval()
