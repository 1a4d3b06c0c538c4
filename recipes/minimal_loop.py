"""GRPO in one file: sample, score, credit, loss, step. Read this first; it needs torch and transformers, and nothing of rlcore.

    python recipes/minimal_loop.py          under a minute on CPU: a random model learns to copy two letters, from rewards alone

The task is to answer "ca>" with "ca" and then to stop. Nobody shows the model an answer. It writes 16 attempts at each prompt, a
rule scores them, and attempts that scored better than their siblings become more likely. That comparison within a group is the
whole idea of GRPO (Group Relative Policy Optimization, arXiv 2402.03300): the siblings' mean says what a prompt is worth, so no
second network has to learn it.

The engine does the same five things, under the same names, for real models: its rollouts come from vLLM, its rewards run in
worker processes, its batches are packed without padding and spread over GPUs, and its loss is one of many. A test holds both to
the same advantages, the same gradient and the same update, so what is read here is what runs there.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

LETTERS = 6  # the tokens 0..5 are the letters a..f
GO, STOP = LETTERS, LETTERS + 1  # ">" ends a prompt, STOP ends an answer
PROMPT_LETTERS = 2

GROUPS_PER_STEP = 16  # prompts in a step
GROUP_SIZE = 16  # attempts at each of them
MAX_TOKENS = PROMPT_LETTERS + 1  # longest answer: the letters and STOP
STEPS = 300
LR = 1e-3
CLIP_LOW, CLIP_HIGH = 0.2, 0.2
CLIP_NORM = 1.0


@dataclass
class Rollout:
    """One attempt: prompt and answer in one sequence of T tokens."""

    token_ids: list[int]  # [T]
    mask: list[bool]  # [T], True where the policy wrote the token: only these are trained
    logprobs: list[
        float
    ]  # [T], log-probability of each written token when it was drawn; 0 elsewhere

    @property
    def completion_ids(self) -> list[int]:
        return [token for token, wrote in zip(self.token_ids, self.mask, strict=True) if wrote]


def make_policy(seed: int = 0) -> PreTrainedModel:
    """A transformer of 80 thousand random parameters."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        "qwen2",
        vocab_size=LETTERS + 2,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=16,
        tie_word_embeddings=False,
        initializer_range=0.1,
    )
    return AutoModelForCausalLM.from_config(
        config, attn_implementation="sdpa"
    ).eval()  # eval: no dropout, here or in sampling


# 1. task -------------------------------------------------------------------------------------------------------------------


def draw_prompts(rng: random.Random, n: int) -> list[list[int]]:
    return [[rng.randrange(LETTERS) for _ in range(PROMPT_LETTERS)] + [GO] for _ in range(n)]


# 2. rollout ----------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def sample(
    policy: PreTrainedModel, prompts: list[list[int]], group_size: int
) -> list[list[Rollout]]:
    """`group_size` answers to each prompt, a token at a time: [prompts][group_size] rollouts.

    The log-probability of every token is written down as it is drawn. Later it is the denominator of the ratio: how likely the
    token was under the policy that wrote it.
    """
    rows = torch.tensor([prompt for prompt in prompts for _ in range(group_size)])
    start = rows.shape[1]
    drawn = torch.zeros(len(rows), 0)
    for _ in range(MAX_TOKENS):
        log_p = policy(input_ids=rows, use_cache=False).logits[:, -1].log_softmax(-1)
        token = torch.multinomial(log_p.exp(), 1)
        rows, drawn = torch.cat([rows, token], 1), torch.cat([drawn, log_p.gather(1, token)], 1)
    rollouts = []
    for tokens, logprobs in zip(rows.tolist(), drawn.tolist(), strict=True):
        answer = tokens[start:]
        length = (
            answer.index(STOP) + 1 if STOP in answer else len(answer)
        )  # what comes after STOP was never said
        mask = [False] * start + [True] * length
        rollouts.append(Rollout(tokens[: start + length], mask, [0.0] * start + logprobs[:length]))
    return [rollouts[i : i + group_size] for i in range(0, len(rollouts), group_size)]


# 3. reward -----------------------------------------------------------------------------------------------------------------


def reward(prompt: list[int], answer: list[int]) -> float:
    """Share of places that are right, the STOP among them. Any function of the answer would do: it is never differentiated."""
    wanted = [*prompt[:-1], STOP]
    return sum(a == b for a, b in zip(answer, wanted, strict=False)) / len(wanted)


# 4. credit -----------------------------------------------------------------------------------------------------------------


def credit(rewards: list[float]) -> list[float]:
    """One advantage for each rollout of a group: how many standard deviations its reward is above the group's mean.

    All tokens of an answer share it: GRPO does not know which of them was the good one. A group whose rewards are all equal says
    nothing (every advantage is 0), and the caller leaves it out.
    """
    if min(rewards) == max(rewards):
        return [0.0] * len(rewards)
    mean = sum(rewards) / len(rewards)
    std = (sum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1)) ** 0.5
    return [(r - mean) / (std + 1e-4) for r in rewards]


# 5. loss -------------------------------------------------------------------------------------------------------------------


def logprobs_of(policy: PreTrainedModel, rollouts: list[Rollout]) -> Tensor:
    """Log-probability of every token under the policy as it is now, with gradient: [rollouts, longest], padded on the right.

    The logits at place t speak about the token at t + 1, so everything is shifted by one; nothing predicts the first token.
    """
    token_ids = pad([rollout.token_ids for rollout in rollouts])
    seen = pad([[1] * len(rollout.token_ids) for rollout in rollouts])
    log_p = (
        policy(input_ids=token_ids, attention_mask=seen, use_cache=False)
        .logits[:, :-1]
        .log_softmax(-1)
    )
    chosen = log_p.gather(2, token_ids[:, 1:, None])[:, :, 0]
    return torch.cat([torch.zeros_like(chosen[:, :1]), chosen], 1)


def grpo_loss(logp: Tensor, old: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    """-1/N sum_i 1/n_i sum_t min(r A, clip(r, 1 - CLIP_LOW, 1 + CLIP_HIGH) A), r = exp(logp - old); n_i tokens of N answers.

    Why so complicated? With r = 1, which is so in the first update after sampling, the gradient is that of -A logp: make good
    answers likelier and bad ones less likely. If the policy has moved since it wrote them, r corrects for that (importance
    sampling), and the clip stops a token once it has moved by 20% in the direction its advantage asks for.
    """
    ratio = (logp - old).exp()
    clipped = ratio.clamp(1 - CLIP_LOW, 1 + CLIP_HIGH)
    gain = torch.minimum(ratio * advantage[:, None], clipped * advantage[:, None]) * mask
    return -(gain.sum(1) / mask.sum(1)).mean()


# 6. step -------------------------------------------------------------------------------------------------------------------


def backward(policy: PreTrainedModel, rollouts: list[Rollout], advantages: list[float]) -> float:
    """Leave the gradient of the loss in the policy's parameters; returns the loss."""
    dtype = policy.dtype
    mask = pad([rollout.mask for rollout in rollouts], dtype)
    old = pad([rollout.logprobs for rollout in rollouts], dtype)
    loss = grpo_loss(
        logprobs_of(policy, rollouts), old, torch.tensor(advantages, dtype=dtype), mask
    )
    loss.backward()
    return loss.item()


def step(
    policy: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    rollouts: list[Rollout],
    advantages: list[float],
) -> float:
    """One update; returns the loss. Its value is near 0, the mean of the advantages, and means little: watch the reward."""
    optimizer.zero_grad()
    loss = backward(policy, rollouts, advantages)
    torch.nn.utils.clip_grad_norm_(policy.parameters(), CLIP_NORM)
    optimizer.step()
    return loss


def pad(rows: list[list], dtype: torch.dtype = torch.int64) -> Tensor:
    """Lists of different lengths as one matrix, zeros on the right."""
    longest = max(map(len, rows))
    return torch.tensor([row + [0] * (longest - len(row)) for row in rows], dtype=dtype)


# the loop ------------------------------------------------------------------------------------------------------------------


def main(steps: int = STEPS, seed: int = 0) -> list[float]:
    """Train, print, and return the mean reward of each step."""
    policy, rng = make_policy(seed), random.Random(seed)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.0)
    history = []
    for number in range(1, steps + 1):
        prompts = draw_prompts(rng, GROUPS_PER_STEP)
        groups = sample(policy, prompts, GROUP_SIZE)
        rollouts: list[Rollout] = []
        advantages: list[float] = []
        rewards: list[float] = []
        for prompt, group in zip(prompts, groups, strict=True):
            scores = [reward(prompt, rollout.completion_ids) for rollout in group]
            rewards += scores
            if any(credit(scores)):
                rollouts += group
                advantages += credit(scores)
        loss = step(policy, optimizer, rollouts, advantages) if rollouts else 0.0
        history.append(sum(rewards) / len(rewards))
        if number % 25 == 0 or number == 1:
            perfect = sum(score == 1 for score in rewards) / len(rewards)
            example = text(groups[0][0].token_ids)
            print(
                f"step {number:3d}   reward {history[-1]:.3f}   perfect {perfect:4.0%}   loss {loss:+.1e}   {example}",
                flush=True,
            )
    return history


def text(token_ids: list[int]) -> str:
    return "".join("abcdef>."[token] for token in token_ids)


if __name__ == "__main__":
    main()
