"""What the rollout tests compare with: transformers, used in the plainest way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from rlcore.types import Request, Sampling

SPECIAL = ["<pad>", "<eos>", "<bos>", "<|im_start|>", "<|im_end|>"]
CHARS = SPECIAL + list("0123456789+-*/=() \nabcdefghijklmnopqrstuvwxyz.,?!:")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(chat_template: str | None = CHATML) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({char: i for i, char in enumerate(CHARS)}, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def make_model(path: Path, arch: str, tied: bool) -> Path:
    """A random model whose next-token distributions are far from uniform, so that a wrong context shows."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        arch,
        vocab_size=len(CHARS),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=2048,
        tie_word_embeddings=tied,
        initializer_range=0.15,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=2,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return path


def open_model(path: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def perturb(model: PreTrainedModel, seed: int, scale: float = 0.05) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


@torch.no_grad()
def next_logits(model: PreTrainedModel, ids: Sequence[int]) -> torch.Tensor:
    return model(input_ids=torch.tensor([list(ids)])).logits[0].float()


def score(model: PreTrainedModel, sequences: list[list[int]]) -> list[list[float]]:
    return [
        next_logits(model, ids)[:-1]
        .log_softmax(-1)
        .gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        .tolist()
        for ids in sequences
    ]


def greedy(model: PreTrainedModel, prompt: list[int], n: int) -> list[int]:
    """transformers' generate, one prompt at a time, end-of-sequence ignored."""
    ids = torch.tensor([prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=n,
        do_sample=False,
        eos_token_id=None,
    )
    return out[0, len(prompt) :].tolist()


def prompts(n: int, lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randint(5, len(CHARS), (lengths[i % len(lengths)],), generator=generator).tolist()
        for i in range(n)
    ]


def requests(prompt_ids: Sequence[list[int]], name: str = "r", **sampling: object) -> list[Request]:
    options = {"max_tokens": 24, "ignore_eos": True, **sampling}
    sampled = Sampling(**options)
    return [
        Request(id=f"{name}{i}", prompt_ids=ids, sampling=sampled, seed=100 + i)
        for i, ids in enumerate(prompt_ids)
    ]
