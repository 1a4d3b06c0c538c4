"""Recipes of small runs: some learn, and some have a mistake that people make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

PARTS = '''
from rlcore import Verdict, reward
from rlcore.env import environment


@environment
def fails(answer, **columns):
    said = yield
    if sum(map(ord, said)) % 3 == 0:
        raise ValueError("one of three")
    return float(said.endswith(str(answer)))


@environment
def endless(answer, **columns):
    while True:
        said = yield ("?", len(set(said)) / 20) if "said" in locals() else None


@reward
def constant(completion, answer, **columns):
    return 1.0


@reward
def of_the_task(completion, answer, **columns):
    return float(int(answer) % 2)


@reward
def never_in_format(completion, answer, **columns):
    return Verdict(value=0.0, status="wrong-format")


@reward
def sometimes_fails(completion, answer, **columns):
    return None if sum(map(ord, completion)) % 3 else float(len(completion))


@reward
def short(completion, answer, **columns):
    return 1.0 / (1 + len(completion))


@reward
def long(completion, answer, **columns):
    return len(completion) / 10


@reward
def rare(completion, answer, **columns):
    """Only one of sixteen sums can be had right."""
    return float(completion == "1+2=3")


@reward
def digits(completion, answer, **columns):
    return sum(letter.isdigit() for letter in completion) / 8


@reward
def favourite(completion, answer, **columns):
    """Half of the tasks pay for a text that does not depend on the task; the others pay nothing."""
    return float(int(answer) % 2 == 0 and completion.endswith("=5"))


def inverted(rewards):
    """A baseline with the wrong sign."""
    mean = sum(rewards) / len(rewards)
    return [mean - reward for reward in rewards]
'''
ENGINES = '''
from rlcore.rollout.hf import HfEngine


class Sharpened(HfEngine):
    """Reports log-probabilities of another temperature than it samples at."""

    def poll(self, timeout_s):
        completions = super().poll(timeout_s)
        for completion in completions:
            completion.logprobs[:] = [2 * logprob for logprob in completion.logprobs]
        return completions
'''

SFT = {
    "kind": "sft",
    "tasks": "sums",
    "steps": 60,
    "batch_size": 32,
    "optim": {"lr": 5e-3, "warmup_steps": 5},
}
RL = {
    "kind": "rl",
    "tasks": "sums",
    "steps": 30,
    "groups_per_step": 8,
    "group_size": 8,
    "rewards": [{"use": "exact", "after": "="}],
    "scoring": {"workers": 1},
    "sampling": {"max_tokens": 12},
    "optim": {"lr": 1e-3, "warmup_steps": 2},
}


def own(name: str) -> list[dict[str, str]]:
    return [{"use": f"parts.py:{name}"}]


FAILURES: dict[str, dict[str, Any]] = {
    "all-truncated": {"sft": 0, "sampling": {"max_tokens": 4}, "rewards": own("digits")},
    "wrong-format": {"rewards": own("never_in_format")},
    "constant-reward": {"rewards": own("constant")},
    "equal-rewards": {"rewards": own("of_the_task")},
    "unscored": {"rewards": own("sometimes_fails")},
    "environment-fails": {"env": {"use": "parts.py:fails", "workers": 1}, "rewards": [{"use": "environment"}]},
    "turns-run-out": {
        "env": {"use": "parts.py:endless", "workers": 1, "max_turns": 2},
        "rewards": [{"use": "environment"}],
        "sampling": {"max_tokens": 12},
    },
    "filter-starved": {"rewards": own("of_the_task"), "filter": "zero_variance", "steps": 10},
    "mismatch": {"engine": "engines.py:Sharpened"},
    "waste": {"rewards": own("rare"), "optim": {"lr": 1e-5}, "groups_per_step": 24, "steps": 12},
    "kl-exploded": {"update_epochs": 4, "optim": {"lr": 0.05}},
    "clipped": {"update_epochs": 6, "objective": {"use": "grpo", "clip_low": 1e-6, "clip_high": 1e-6}},
    "entropy-collapse": {"rewards": own("favourite"), "optim": {"lr": 2e-3}, "steps": 50},
    "length-collapse": {"sft": 0, "sampling": {"max_tokens": 24}, "rewards": own("short"), "optim": {"lr": 5e-3}},
    "length-explosion": {"rewards": own("long"), "optim": {"lr": 5e-4}, "sampling": {"max_tokens": 16}},
    "reward-falls": {"credit": {"baseline": "parts.py:inverted"}, "optim": {"lr": 3e-3}},
    "reward-flat": {"optim": {"lr": 1e-9}},
}  # fmt: skip
"""Rule that must be named -> what the recipe does."""

HEALTHY: dict[str, dict[str, Any]] = {
    "plain": {},
    "dr_grpo with kl": {"method": "dr_grpo", "objective": {"use": "dr_grpo", "kl": 0.01}},
    "several updates": {"minibatches": 2, "update_epochs": 2, "optim": {"lr": 5e-4}},
    "stale": {"max_staleness": 1, "objective": {"use": "grpo", "correction": {"kind": "token_truncate", "high": 2.0}}},
    "filtered": {"filter": "zero_variance", "curriculum": "sec"},
}  # fmt: skip


def write_planted(folder: Path, change: dict[str, Any], name: str) -> Path:
    """The recipe of a small run with a change; `sft` is its number of SFT steps."""
    change = dict(change)
    sft_steps = change.pop("sft", SFT["steps"])
    engine = change.pop("engine", "hf")
    stages = [{**SFT, "steps": sft_steps}] if sft_steps else []
    recipe = {
        "name": name,
        "model": {
            "tokenizer": "bytes",
            "config": {
                "model_type": "qwen2",
                "hidden_size": 64,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "max_position_embeddings": 64,
                "tie_word_embeddings": True,
            },
        },
        "engine": {"use": engine, "max_length": 48, "max_sequences": 64},
        "tasks": {"sums": {"use": "arithmetic", "split": "train", "size": 64, "max_number": 4, "terms": [2]}},
        "stages": [*stages, {**RL, **change}],
        "run": {"folder": str(folder / "runs"), "checkpoint_every": 1000},
    }  # fmt: skip
    (folder / "parts.py").write_text(PARTS)  # reward workers import it: the engine is in a file of its own
    (folder / "engines.py").write_text(ENGINES)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path
