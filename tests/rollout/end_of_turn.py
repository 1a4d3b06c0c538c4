"""A base model whose files know one end token, with the chat template of another model."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast

from rlcore.learner.policy import load_policy
from rlcore.rollout.engine import Engine, generate
from rlcore.types import Completion, Request, Sampling
from tests.learner.tiny_model import TINY


def make_base(folder: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """Config and generation config end at <|eos|> (258) alone."""
    sizes = {
        "vocab_size": 280,
        "num_attention_heads": 2,
    }  # heads of 32: vLLM has no smaller ones
    base = load_policy(config=TINY | sizes, tokenizer="bytes").model
    base.generation_config = GenerationConfig(eos_token_id=258)
    base.set_attn_implementation("eager")
    base.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@torch.no_grad()
def weights_that_write(folder: Path, token: int) -> list[tuple[str, Tensor]]:
    """Weights under which the model in `folder` writes this token whatever it reads."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    for parameter in model.parameters():
        parameter.zero_()
    model.model.norm.weight.fill_(1.0)
    model.model.embed_tokens.weight[:, 0] = 0.01
    model.model.embed_tokens.weight[token, 0] = 10.0
    return list(model.named_parameters())


def greedy(engine: Engine) -> Completion:
    sampling = Sampling(max_tokens=8, temperature=0.0)
    request = Request(id="r", prompt_ids=[65], sampling=sampling, seed=0)
    return generate(engine, [request], 60)[0]
