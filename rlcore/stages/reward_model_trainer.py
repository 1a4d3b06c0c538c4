"""Training of a reward model, and how well it orders what it was not trained on."""

from __future__ import annotations

import json
import random
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)
from transformers.utils import logging

from rlcore.errors import RunError, first_line
from rlcore.measures.calibration import comparison_metrics
from rlcore.run import checkpoint
from rlcore.run.disk import remove
from rlcore.run.reward_model import TRAINED
from rlcore.stages.trainer_settings import (
    Forward,
    Log,
    OneBehind,
    optimizer_and_schedule,
    trainer_arguments,
)
from rlcore.tokenizer import different_tokens, load_tokenizer

if TYPE_CHECKING:
    from rlcore.run.session import Run
    from rlcore.stages.reward_model import RewardModelStage

Row = Mapping[str, Any]


def row_loss(
    chosen: Tensor, rejected: Tensor, *, margin: float = 0.0, center: float = 0.0
) -> Tensor:
    """Loss of one row: the mean over every chosen score [k] against every rejected one [n - k].

    With one of each it is Bradley-Terry, with several Qwen2.5-Math's listwise loss, -1/(k(n-k))
    sum log sigmoid(r_i - r_j). The margin is that of Llama 2 (arXiv 2307.09288, Eq. 2),
    `center` the coefficient of (r_i + r_j)^2 (arXiv 2312.09244, Eq. 2).
    """
    difference = chosen[:, None] - rejected[None, :] - margin
    loss = -logsigmoid(difference).mean()
    if center:
        loss = loss + center * (chosen[:, None] + rejected[None, :]).square().mean()
    return loss


class RewardTrainer(Trainer):
    """Minimises the mean of `row_loss` over rows."""

    def __init__(self, center: float, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._center = center
        self._means: dict[str, list[float]] = defaultdict(list)

    def compute_loss(
        self, model: Any, inputs: Mapping[str, Any], return_outputs: bool = False, **_: Any
    ) -> Tensor:
        losses, margins, rights = [], [], []
        for chosen, rejected, margin in scores_of(model, inputs):
            losses.append(row_loss(chosen, rejected, margin=margin, center=self._center))
            difference = chosen.detach()[:, None] - rejected.detach()[None, :]
            margins.append(difference.mean())
            rights.append((difference > 0).float().mean())
        for name, values in (("margin", margins), ("accuracy", rights)):
            mean = self.accelerator.gather(torch.stack(values).mean()).mean()
            self._means[name].append(mean.item())
        return torch.stack(losses).mean()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Metrics are means over the micro-batches of a step."""
        means = {name: sum(values) / len(values) for name, values in self._means.items()}
        self._means.clear()
        super().log({**logs, **means}, start_time)


def scores_of(model: Any, inputs: Mapping[str, Any]) -> list[tuple[Tensor, Tensor, float]]:
    """Chosen scores [k], rejected scores [n - k] and margin of each row of a batch, by one
    forward.
    """
    output = model(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        use_cache=False,
    )
    counts = inputs["counts"]
    head = inputs["head"].repeat_interleave(counts.sum(1))
    of_head = output.logits.gather(1, head[:, None])[:, 0]
    scores = iter(of_head.float().split(counts.flatten().tolist()))
    margins = inputs["margin"].tolist()
    return [(next(scores), next(scores), margin) for margin in margins]


def collate(pad: int) -> Callable[[Sequence[Row]], dict[str, Tensor]]:
    """From rows to one padded batch: all sequences of a row follow each other, the chosen ones
    first.
    """

    def batch(rows: Sequence[Row]) -> dict[str, Tensor]:
        sequences = [
            ids for row in rows for side in ("chosen", "rejected") for ids in row[side]
        ]
        longest = max(map(len, sequences))
        padded = [[*ids, *[pad] * (longest - len(ids))] for ids in sequences]
        mask = [[1] * len(ids) + [0] * (longest - len(ids)) for ids in sequences]
        counts = [[len(row["chosen"]), len(row["rejected"])] for row in rows]
        return {
            "input_ids": torch.tensor(padded),
            "attention_mask": torch.tensor(mask),
            "counts": torch.tensor(counts),
            "margin": torch.tensor([float(row["margin"]) for row in rows]),
            "head": torch.tensor([row.get("head", 0) for row in rows]),
        }

    return batch


def split_tasks(
    rows: Sequence[Row], fraction: float, *, seed: int
) -> tuple[list[Row], list[Row]]:
    """Rows to train on, and those of a fraction of the tasks, at least one, to measure on; a
    task is never in both.
    """
    tasks = sorted({row["task"] for row in rows})
    number = max(1, round(fraction * len(tasks))) if fraction and len(tasks) > 1 else 0
    heldout = set(random.Random(seed).sample(tasks, number))
    train = [row for row in rows if row["task"] not in heldout]
    return train, [row for row in rows if row["task"] in heldout]


def train_reward_model(
    run: Run, stage: RewardModelStage, rows: Sequence[Row], *, folder: Path, seed: int
) -> dict[str, Any]:
    """Train, measure and save. Collective; returns the held-out metrics, empty where nothing is
    held out.
    """
    train, heldout = split_tasks(rows, stage.heldout, seed=seed)
    log = OneBehind(run.log_step)
    with torch.random.fork_rng(), tempfile.TemporaryDirectory() as scratch:
        torch.manual_seed(seed)
        model = base_model(run, stage)
        trainer = reward_trainer(run, stage, model, train, seed=seed, log=log, scratch=scratch)
        trainer.train()
        model = run.accelerator.unwrap_model(trainer.model).eval()
        result = measure(model, heldout) if heldout else {}
    numbers = {key: value for key, value in result.items() if not isinstance(value, list)}
    log.end(numbers)
    facts = {"stage": stage.label, "rows": len(train), **result}
    if stage.heads:
        facts["heads"] = stage.heads
        facts["heldout/heads"] = _by_head(model, stage.heads, heldout)
    save(run, folder, facts, model.save_pretrained)
    return numbers


def base_model(run: Run, stage: RewardModelStage) -> PreTrainedModel:
    """The policy, or the model of `stage.base`, with a linear head for each score. Collective.

    Raises `RunError` where it cannot be read or has other tokens.
    """
    source: str | Path = stage.base
    if stage.base == "policy":
        # Every rank reads what the main one wrote.
        source = run.folder.path / ".reward_base"
        with run.folder.writing("the model that the reward model begins with"):
            run.policy.save(source)
        run.accelerator.wait_for_everyone()
    elif different := different_tokens(run.policy.tokenizer, load_tokenizer(source)):
        raise RunError(
            f"stage {stage.label}: {stage.base} has another tokenizer than the policy, whose "
            f"completions the pairs hold ({different}): "
            "use base: policy, or a model of its family"
        )
    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)  # the head is new, as it must be
    try:
        model = AutoModelForSequenceClassification.from_pretrained(
            source,
            num_labels=len(stage.heads) or 1,
            dtype=torch.float32,
            trust_remote_code=False,
        )
    except Exception as error:  # files of any content, and architectures without a classifier
        raise RunError(
            f"stage {stage.label}: no sequence classifier can be made of {stage.base} "
            f"({first_line(error)})"
        ) from error
    finally:
        logging.set_verbosity(level)
    run.accelerator.wait_for_everyone()
    if stage.base == "policy" and run.accelerator.is_main_process:
        remove(Path(source), inside=run.folder.path)
    tokenizer = run.policy.tokenizer
    pad = (
        tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    )
    # Where the score is read: at the last token that is not padding.
    model.config.get_text_config().pad_token_id = pad
    if stage.heads:
        names = [head.rpartition("/")[2] for head in stage.heads]
        model.config.id2label = dict(enumerate(names))
        model.config.label2id = {name: number for number, name in enumerate(names)}
    return model.to(run.accelerator.device)


def reward_trainer(
    run: Run,
    stage: RewardModelStage,
    model: PreTrainedModel,
    rows: Sequence[Row],
    *,
    seed: int,
    log: Log,
    scratch: str,
) -> RewardTrainer:
    """The trainer of `model` on `rows`."""
    settings = trainer_arguments(
        stage, run.policy, seed=seed, processes=run.accelerator.num_processes, scratch=scratch
    )
    trainer = RewardTrainer(
        stage.center,
        model=model,
        args=TrainingArguments(**settings, remove_unused_columns=False),
        data_collator=collate(model.config.get_text_config().pad_token_id),
        train_dataset=Dataset.from_list([dict(row) for row in rows]),
        optimizers=optimizer_and_schedule(model, stage.optim, stage.steps),
        callbacks=[Forward(log)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


@torch.no_grad()
def measure(
    model: PreTrainedModel, rows: Sequence[Row], *, rows_at_once: int = 8
) -> dict[str, Any]:
    """`heldout/...`: accuracy and calibration over all comparisons of chosen with rejected
    completions.
    """
    batch_of = collate(model.config.get_text_config().pad_token_id)
    differences = []
    for start in range(0, len(rows), rows_at_once):
        inputs = batch_of(rows[start : start + rows_at_once])
        inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
        for chosen, rejected, _ in scores_of(model, inputs):
            differences += (chosen[:, None] - rejected[None, :]).flatten().tolist()
    return {f"heldout/{name}": value for name, value in comparison_metrics(differences).items()}


def _by_head(
    model: PreTrainedModel, heads: Sequence[str], heldout: Sequence[Row]
) -> dict[str, float]:
    """Held-out accuracy of each score by its name, where something was held out for it."""
    accuracies = {}
    for number, name in enumerate(heads):
        rows = [row for row in heldout if row["head"] == number]
        if rows:
            accuracies[name] = measure(model, rows)["heldout/accuracy"]
    return accuracies


def save(
    run: Run, folder: Path, facts: Mapping[str, Any], save_model: Callable[[Path], object]
) -> None:
    """Write model, tokenizer and `TRAINED`, what is known of the model, at once. Collective.

    save_model: writes the model to a folder; called on the main process.
    """
    main = run.accelerator.is_main_process

    def write(draft: Path) -> None:
        if main:
            save_model(draft)
            run.policy.tokenizer.save_pretrained(draft)
            text = json.dumps({"reads": "tokens", **facts}, indent=1)
            (draft / TRAINED).write_text(text, encoding="utf-8")

    checkpoint.save_reference(folder, save_model=write, main=main)
    run.accelerator.wait_for_everyone()
