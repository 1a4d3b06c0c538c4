"""Stage `prefer`: learn from pairs with TRL's DPOTrainer, on the policy the stage before left.

The pairs are made of stored rollouts (`rlcore.credit.pairs`) and written to `pairs/<stage>.jsonl` in TRL's preference format with
the exact tokens beside the texts: `prompt chosen rejected prompt_ids chosen_ids rejected_ids`. Training reads the tokens, so that
a rejected step is not closed by an end-of-sequence token and nothing is tokenised anew. TRL brings the loss and the loop;
optimiser, schedule, metrics and checkpoints are ours. A run killed in this stage starts the stage again.
"""

from __future__ import annotations

import copy
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from datasets import Dataset
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer

from rlcore.credit.pairs import Pair, answer_pairs, first_pit_pairs, shared_prefix_pairs
from rlcore.errors import RecipeError, RunError
from rlcore.learner.attention import PACKED
from rlcore.learner.optim import OPTIMIZERS, Schedule
from rlcore.learner.policy import Policy
from rlcore.recipe.schema import PreferStage
from rlcore.run.folder import read_rows
from rlcore.run.seeds import derive
from rlcore.run.session import Run
from rlcore.run.stored import Stored, read_stored, stored_files
from rlcore.types import Task

TOKENS = ("prompt_ids", "chosen_ids", "rejected_ids")
Log = Callable[[Mapping[str, float]], None]


def run_prefer(run: Run, stage: PreferStage) -> None:
    name, seed = stage.label, derive(run.recipe.seed, "prefer", run.cursor.stage)
    path = run.stored(stage.data)
    if stage.pairs == "given":
        rows = [given_row(run, row) for file in stored_files(path) for row in read_rows(file)]
    else:
        rows = [
            pair_row(run, one, pair)
            for one in read_stored(path)
            for pair in make_pairs(one, stage, seed)
        ]
    if not rows:
        raise RunError(
            f"no pairs of kind {stage.pairs!r} can be made of {stage.data}: they need wrong answers beside correct ones"
            + ("" if stage.pairs == "answers" else ", with step values")
        )
    if run.accelerator.is_main_process:
        run.folder.write_pairs(name, rows)
    run.tracker.say(f"{name}: {len(rows):,} pairs ({stage.pairs})")
    run.forget_average()
    with run.tracker.stage(stage, done=0):
        train_pairs(
            run.policy,
            rows,
            stage,
            seed=seed,
            processes=run.accelerator.num_processes,
            log=run.log_step,
        )
    run.end_stage()


def make_pairs(one: Stored, stage: PreferStage, seed: int) -> list[Pair]:
    """The pairs of one task, at most `per_task`."""
    match stage.pairs:
        case "first_pit":
            found = list(first_pit_pairs(one.group, min_gap=stage.min_gap))
        case "shared_prefix":
            draw = random.Random(f"{seed}/{one.group.task.id}") if stage.bradley_terry else None
            found = list(shared_prefix_pairs(one.group, min_gap=stage.min_gap, draw=draw))
        case _:
            found = list(answer_pairs(one.group))
    return found[: stage.per_task]


def pair_row(run: Run, one: Stored, pair: Pair) -> dict[str, Any]:
    """A row of the preference data set; chat prompts stay messages, as TRL writes them."""
    prompt, chosen, rejected = (
        one.group.task.prompt,
        *map(run.encoder.decode, (pair.chosen_ids, pair.rejected_ids)),
    )
    if not isinstance(prompt, str) or run.encoder.format == "chat":
        prompt = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        chosen, rejected = ([{"role": "assistant", "content": text}] for text in (chosen, rejected))
    ids = {
        "prompt_ids": pair.prompt_ids,
        "chosen_ids": pair.chosen_ids,
        "rejected_ids": pair.rejected_ids,
    }
    return {"task": pair.task_id, "prompt": prompt, "chosen": chosen, "rejected": rejected, **ids}


def given_row(run: Run, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of somebody's preference data set, with the tokens it lacks: answers are then taken to be whole."""
    if "prompt_ids" in row:
        return dict(row)
    try:
        task = Task(id="given", prompt=row["prompt"])
        sides = [
            row[side] if isinstance(row[side], str) else row[side][-1]["content"]
            for side in ("chosen", "rejected")
        ]
    except (KeyError, TypeError, IndexError):
        raise RunError(
            "a given pair has no prompt, chosen and rejected: write each pair as {prompt, chosen, rejected}"
        ) from None
    whole = [
        run.encoder.encode_demonstration(Task(id="given", prompt="", demonstration=side))
        for side in sides
    ]
    return {
        **row,
        "prompt_ids": run.encoder.encode(task),
        "chosen_ids": whole[0],
        "rejected_ids": whole[1],
    }


class TokenPairs(DPOTrainer):
    """TRL's trainer on rows that are tokens already."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset


class Forward(TrainerCallback):
    """Hands what TRL logs of every step to `log`, under our names."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **_: Any
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
            raise RecipeError(f"TRL's DPOTrainer refused stage {stage.label}: {error}") from None


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
    optimizer = OPTIMIZERS[optim.name](
        policy.module, lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay
    )
    schedule = Schedule(
        name=optim.schedule,
        total=stage.steps,
        warmup=optim.warmup_steps,
        floor=optim.min_lr_ratio,
        rex_d=optim.rex_d,
        decay_shape=optim.decay_shape,
        decay_share=optim.decay_share,
    )
    each = max(1, stage.batch_size // processes)
    micro = min(stage.micro_batch or each, each)
    config = DPOConfig(
        output_dir=scratch,
        max_steps=stage.steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=max(1, each // micro),
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
