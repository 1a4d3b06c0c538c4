"""GRPO in one file: sample, score, credit, loss, step.

    python recipes/minimal_loop.py      under a minute on a CPU

Read this first; it needs torch and transformers, and nothing of rlcore. A random model learns to
copy two letters from rewards alone.

The task is to complete "ca>" with "ca" and then to stop. The model never sees a demonstration. It
samples 16 completions of each prompt, a rule scores them, and completions that scored better than
the others of their group become more likely. That comparison within a group is the whole idea of
GRPO (Group Relative Policy Optimization, arXiv 2402.03300): the group's mean estimates what a
prompt is worth, so no second network has to learn it.

rlcore does the same steps, under the same names, for real models: its completions come from vLLM,
its rewards run in worker processes, its batches are packed without padding and spread over GPUs,
and its loss is one of many. A test holds both to the same advantages, the same gradient and the
same update, so what you read here is what runs there.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

LETTERS = 6  # the tokens 0..5 are the letters a..f
GO = LETTERS  # ">" ends a prompt
STOP = LETTERS + 1  # ends a completion
PROMPT_LETTERS = 2

GROUPS_PER_STEP = 16  # prompts in a step
GROUP_SIZE = 16  # completions per prompt
MAX_TOKENS = PROMPT_LETTERS + 1  # longest completion: the letters and STOP
STEPS = 300
LR = 1e-3
CLIP_LOW = 0.2
CLIP_HIGH = 0.2
CLIP_NORM = 1.0


@dataclass
class Rollout:
    """One attempt: prompt and completion in one sequence of T tokens."""

    token_ids: list[int]  # [T]
    mask: list[bool]  # [T], True for tokens of the completion: only these are trained
    # [T], log-probability of each token of the completion when it was drawn; 0 elsewhere
    logprobs: list[float]

    @property
    def completion_ids(self) -> list[int]:
        prompt_tokens = self.mask.count(False)
        return self.token_ids[prompt_tokens:]


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
    policy = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    return policy.eval()  # no dropout, neither in sampling nor in training


# 1. task ----------------------------------------------------------------------------------------


def draw_prompts(rng: random.Random, n: int) -> list[list[int]]:
    prompts = []
    for _ in range(n):
        letters = [rng.randrange(LETTERS) for _ in range(PROMPT_LETTERS)]
        prompts.append([*letters, GO])
    return prompts


# 2. rollout -------------------------------------------------------------------------------------


@torch.no_grad()
def sample(
    policy: PreTrainedModel, prompts: list[list[int]], group_size: int
) -> list[list[Rollout]]:
    """`group_size` completions of each prompt, token by token: [prompts][group_size] rollouts.

    The log-probability of every token is recorded as it is drawn. Later it is the denominator of
    the ratio: how likely the token was under the policy that sampled it.
    """
    token_ids = torch.tensor(prompts).repeat_interleave(group_size, dim=0)
    start = token_ids.shape[1]
    logprobs = torch.zeros(len(token_ids), 0)
    for _ in range(MAX_TOKENS):
        logits = policy(input_ids=token_ids, use_cache=False).logits[:, -1]
        log_p = logits.log_softmax(-1)
        token = torch.multinomial(log_p.exp(), 1)
        token_ids = torch.cat([token_ids, token], 1)
        logprobs = torch.cat([logprobs, log_p.gather(1, token)], 1)
    rollouts = []
    for row, row_logprobs in zip(token_ids.tolist(), logprobs.tolist(), strict=True):
        completion = row[start:]
        length = len(completion)
        if STOP in completion:  # what was drawn after STOP does not belong to the completion
            length = completion.index(STOP) + 1
        rollout = Rollout(
            token_ids=row[: start + length],
            mask=[False] * start + [True] * length,
            logprobs=[0.0] * start + row_logprobs[:length],
        )
        rollouts.append(rollout)
    return [rollouts[i : i + group_size] for i in range(0, len(rollouts), group_size)]


# 3. reward --------------------------------------------------------------------------------------


def reward(prompt: list[int], completion: list[int]) -> float:
    """Fraction of right tokens, STOP included.

    Any function of the completion would do: it is never differentiated.
    """
    answer = [*prompt[:-1], STOP]
    right = 0
    for token, expected in zip(completion, answer, strict=False):
        right += token == expected
    return right / len(answer)


# 4. credit --------------------------------------------------------------------------------------


def credit(rewards: list[float]) -> list[float]:
    """One advantage per rollout of a group: its reward in standard deviations above the mean.

    All tokens of a completion share it: GRPO does not know which of them was the good one. A group
    with equal rewards teaches nothing (every advantage is 0), and the caller leaves it out.
    """
    if min(rewards) == max(rewards):
        return [0.0] * len(rewards)
    mean = sum(rewards) / len(rewards)
    std = (sum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1)) ** 0.5
    return [(r - mean) / (std + 1e-4) for r in rewards]


# 5. loss ----------------------------------------------------------------------------------------


def logprobs_of(policy: PreTrainedModel, rollouts: list[Rollout]) -> Tensor:
    """Log-probability of every token under the current policy, with gradient: [rollouts, longest].

    The logits at position t predict the token at t + 1, so everything is shifted by one; nothing
    predicts the first token. Shorter rollouts are padded on the right.
    """
    token_ids = pad([rollout.token_ids for rollout in rollouts])
    attention_mask = pad([[1] * len(rollout.token_ids) for rollout in rollouts])
    outputs = policy(input_ids=token_ids, attention_mask=attention_mask, use_cache=False)
    log_p = outputs.logits[:, :-1].log_softmax(-1)
    targets = token_ids[:, 1:, None]
    of_targets = log_p.gather(2, targets)[:, :, 0]
    first = torch.zeros_like(of_targets[:, :1])
    return torch.cat([first, of_targets], 1)


def grpo_loss(logp: Tensor, old: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    """-1/N sum_i 1/n_i sum_t min(r A, clip(r, 1 - CLIP_LOW, 1 + CLIP_HIGH) A), r = exp(logp - old).

    N completions, the i-th of n_i tokens. Why so complicated? With r = 1, which holds in the first
    update after sampling, the gradient is that of -A logp: make good completions likelier and bad
    ones less likely. If the policy has changed since it sampled them, r corrects for that
    (importance sampling), and the clip stops a token once its probability has changed by 20% in
    the direction of its advantage.
    """
    ratio = (logp - old).exp()
    clipped = ratio.clamp(1 - CLIP_LOW, 1 + CLIP_HIGH)
    gain = torch.minimum(ratio * advantage[:, None], clipped * advantage[:, None]) * mask
    return -(gain.sum(1) / mask.sum(1)).mean()


# 6. step ----------------------------------------------------------------------------------------


def backward(
    policy: PreTrainedModel, rollouts: list[Rollout], advantages: list[float]
) -> float:
    """Leave the gradient of the loss in the policy's parameters; returns the loss."""
    dtype = policy.dtype
    mask = pad([rollout.mask for rollout in rollouts], dtype)
    old = pad([rollout.logprobs for rollout in rollouts], dtype)
    advantage = torch.tensor(advantages, dtype=dtype)
    loss = grpo_loss(logprobs_of(policy, rollouts), old, advantage, mask)
    loss.backward()
    return loss.item()


def step(
    policy: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    rollouts: list[Rollout],
    advantages: list[float],
) -> float:
    """One update; returns the loss.

    Its value is near 0, the mean of the advantages, and means little: watch the reward.
    """
    optimizer.zero_grad()
    loss = backward(policy, rollouts, advantages)
    torch.nn.utils.clip_grad_norm_(policy.parameters(), CLIP_NORM)
    optimizer.step()
    return loss


def pad(rows: list[list], dtype: torch.dtype = torch.int64) -> Tensor:
    """Lists of different lengths as one matrix, zeros on the right."""
    longest = max(map(len, rows))
    return torch.tensor([row + [0] * (longest - len(row)) for row in rows], dtype=dtype)


# the loop ---------------------------------------------------------------------------------------


def main(steps: int = STEPS, seed: int = 0) -> list[float]:
    """Train, print, and return the mean reward of each step."""
    policy = make_policy(seed)
    rng = random.Random(seed)
    optimizer = torch.optim.AdamW(
        policy.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.0
    )
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
                f"step {number:3d}   reward {history[-1]:.3f}   perfect {perfect:4.0%}   "
                f"loss {loss:+.1e}   {example}",
                flush=True,
            )
    return history


def text(token_ids: list[int]) -> str:
    return "".join("abcdef>."[token] for token in token_ids)


if __name__ == "__main__":
    main()
