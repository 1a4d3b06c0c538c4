"""TRL's GRPO trainer as the other side: its own loss on a padded batch, and its whole step. The only place that imports trl."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModelForCausalLM,
    LogitsProcessor,
    LogitsProcessorList,
    TrainerCallback,
)
from trl import GRPOConfig, GRPOTrainer

from rlcore.bench.measure import Seconds, Stopwatch
from rlcore.bench.reward import digit_share
from rlcore.bench.workload import Shape
from rlcore.tokenizer import load_tokenizer
from rlcore.types import Sample

CLIP_LOW, CLIP_HIGH = 0.2, 0.28


def make_trainer(
    model_folder: str,
    shape: Shape,
    output: Path,
    prompts: Sequence[str],
    *,
    steps: int,
    micro_batch: int,
    dtype: str = "float32",
    vllm: bool = False,
) -> GRPOTrainer:
    """A trainer of the model with DAPO's loss and no reference; `micro_batch` sequences in one forward, 0 for all.

    vllm: completions of the greatest length from vLLM in this process.
    """
    sequences = shape.prompts * shape.group_size
    engine: dict[str, Any] = {}
    if vllm:
        engine = {
            "use_vllm": True,
            "vllm_mode": "colocate",
            "vllm_gpu_memory_utilization": 0.3,
            "generation_kwargs": {"ignore_eos": True},
        }
    config = GRPOConfig(
        output_dir=str(output),
        use_cpu=not torch.cuda.is_available(),
        bf16=dtype == "bfloat16",
        loss_type="dapo",
        epsilon=CLIP_LOW,
        epsilon_high=CLIP_HIGH,
        beta=0.0,
        learning_rate=1e-5,
        lr_scheduler_type="constant",
        per_device_train_batch_size=micro_batch or sequences,
        gradient_accumulation_steps=sequences // (micro_batch or sequences),
        num_generations=shape.group_size,
        max_completion_length=shape.answer_max,
        temperature=1.0,
        top_k=0,
        max_steps=steps,
        gradient_checkpointing=False,
        logging_steps=steps + 1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **engine,
    )
    tokenizer = load_tokenizer(model_folder)
    tokenizer.padding_side = "left"
    model = AutoModelForCausalLM.from_pretrained(
        model_folder, dtype=torch.float32, attn_implementation="sdpa"
    )
    return GRPOTrainer(
        model=model,
        reward_funcs=_reward,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        processing_class=tokenizer,
    )


def _reward(completions: list[str], **_: Any) -> list[float]:
    return [digit_share(text) for text in completions]


class TrlLearner:
    """Forward and backward of its loss on samples, padded as its own collation pads them."""

    def __init__(
        self,
        model_folder: str,
        shape: Shape,
        samples: Sequence[Sample],
        output: Path,
        micro_batch: int,
        dtype: str,
    ) -> None:
        self._trainer = make_trainer(
            model_folder, shape, output, ["0"], steps=1, micro_batch=micro_batch, dtype=dtype
        )
        self.model = self._trainer.model.to(self._trainer.args.device).train()
        self._batches = _padded(
            samples, self._trainer.processing_class.pad_token_id, micro_batch or len(samples)
        )
        # what its training loop sets
        self._trainer.current_gradient_accumulation_steps = len(self._batches)

    def gradient(self) -> None:
        """Puts the gradient into the model's parameters."""
        self.model.zero_grad(set_to_none=True)
        for batch in self._batches:
            batch = {name: value.to(self.model.device) for name, value in batch.items()}
            with self._trainer.compute_loss_context_manager():
                loss = self._trainer.compute_loss(self.model, batch)
            loss.backward()


def _padded(samples: Sequence[Sample], pad_id: int, micro_batch: int) -> list[dict[str, Any]]:
    prompts = [
        torch.tensor([t for t, on in zip(s.token_ids, s.mask, strict=True) if not on])
        for s in samples
    ]
    answers = [
        torch.tensor([t for t, on in zip(s.token_ids, s.mask, strict=True) if on])
        for s in samples
    ]

    def padded(rows: list[torch.Tensor], value: int, side: str) -> torch.Tensor:
        return pad_sequence(rows, batch_first=True, padding_value=value, padding_side=side)

    whole = {
        "prompt_ids": padded(prompts, pad_id, "left"),
        "prompt_mask": padded([torch.ones_like(p) for p in prompts], 0, "left"),
        "completion_ids": padded(answers, pad_id, "right"),
        "completion_mask": padded([torch.ones_like(a) for a in answers], 0, "right"),
        "advantages": torch.tensor([s.advantages[-1] for s in samples]),
    }
    tokens = torch.tensor(sum(map(len, answers)))
    parts = range(0, len(samples), micro_batch)
    return [
        {k: v[at : at + micro_batch] for k, v in whole.items()} | {"num_items_in_batch": tokens}
        for at in parts
    ]


def train(
    model_folder: str,
    shape: Shape,
    output: Path,
    prompts: Sequence[str],
    *,
    steps: int,
    micro_batch: int,
    beside: Callable[[int], None],
    vllm: bool = False,
    dtype: str = "float32",
) -> list[Seconds]:
    """What each whole step took; `beside(step)` runs after each and is not counted. vllm: as in `make_trainer`."""
    trainer = make_trainer(
        model_folder,
        shape,
        output,
        prompts,
        steps=steps,
        micro_batch=micro_batch,
        dtype=dtype,
        vllm=vllm,
    )
    lengths = _Lengths(trainer.processing_class.eos_token_id)
    generate = trainer.model.generate
    trainer.model.generate = lambda *a, **k: generate(
        *a, **k, logits_processor=LogitsProcessorList([lengths])
    )
    seconds: list[Seconds] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            lengths.begin(shape.answer_lengths(len(seconds)))
            self.watch = Stopwatch()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(self.watch.read())
            beside(len(seconds) - 1)

    trainer.add_callback(Clock())
    trainer.train()
    return seconds


class _Lengths(LogitsProcessor):
    """Ends each completion at its appointed length, so that both sides do the same work."""

    def __init__(self, eos_id: int) -> None:
        self._eos_id = eos_id

    def begin(self, lengths: list[int]) -> None:
        self._lengths, self._written = torch.tensor(lengths), 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._written += 1
        last = (self._lengths == self._written).to(scores.device)[:, None]
        eos = torch.zeros_like(scores, dtype=torch.bool)
        eos[:, self._eos_id] = True
        return scores.masked_fill(torch.where(last, ~eos, eos), float("-inf"))
