"""Section e: how far engine and learner are apart a token, by position in the sequence, with vLLM's batch-invariant mode and without.

`python -m rlcore.bench.device.gap MODEL DTYPE POSITION` prints one line of JSON. Healthy systems report a KL of 0.0002 to 0.002 in
bfloat16.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from math import exp
from pathlib import Path
from typing import Any

from rlcore.bench.device.case import Case, CheckError, Needs
from rlcore.bench.device.engine import Size, generate, pair, requests

DECODED = 256
"""Tokens up to the position, which are generated; what stands before them is a prompt."""
SEQUENCES = 16
UNHEALTHY = 0.01
"""KL a token above which something is wrong, whatever the precision."""


def cases(tiny: bool) -> Iterator[Case]:
    """A process each: the batch-invariant mode is chosen before vLLM is imported."""
    if tiny:
        needs = Needs(packages=("vllm",))
        yield Case("tiny at 48", partial(_measure, "tiny", "float32", 48), needs, 120)
        yield Case(
            "tiny at 48, batch invariant",
            partial(_measure, "tiny", "float32", 48, invariant=True),
            Needs(gpus=1, capability=(9, 0), packages=("vllm",)),
        )
        return
    needs = Needs(gpus=1, memory_gb=35, packages=("vllm",))
    invariant = replace(needs, capability=(9, 0))
    for model, positions in (
        ("smollm2", (1024, 4096)),
        ("qwen3-0.6b", (1024, 4096, 16_384)),
    ):
        for position in positions:
            run = partial(_measure, model, "bfloat16", position)
            yield Case(f"{model} at {position}", run, needs, 150)
            if position == 4096:
                run = partial(_measure, model, "bfloat16", position, invariant=True)
                yield Case(f"{model} at {position}, batch invariant", run, invariant, 200)


def _measure(model: str, dtype: str, position: int, invariant: bool = False) -> dict[str, Any]:
    command = [sys.executable, "-m", "rlcore.bench.device.gap", model, dtype, str(position)]
    environment = {**os.environ, "VLLM_BATCH_INVARIANT": str(int(invariant))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise CheckError(f"the measurement failed: {done.stderr.strip()[-3000:]}")
    values = json.loads(done.stdout.splitlines()[-1])
    if not values["kl"] < UNHEALTHY:
        raise CheckError(
            f"engine and learner are {values['kl']:.3g} nats a token apart: {values}"
        )
    return values


def measure(model: str, dtype: str, position: int) -> dict[str, Any]:
    """k3 estimate of KL(engine || learner) over generated tokens that end at `position`; mean and largest |difference| in nats."""
    decoded = min(DECODED, position // 2)
    sequences = 4 if model == "tiny" else SEQUENCES
    size = Size(model, dtype, sequences, position - decoded, decoded)
    with pair(size, max_length=position + 1) as both:
        both.publish(1)
        asked = requests(size)
        if model == "smollm2":
            asked = _english(asked, both.policy.tokenizer)
        done = generate(both.engine, asked)
        sequences_read = [r.prompt_ids + c.token_ids for r, c in zip(asked, done, strict=True)]
        scores = both.policy.score(sequences_read, max_tokens=16_384)
    ratios = []
    for completion, scored in zip(done, scores, strict=True):
        written = scored[-len(completion.token_ids) :]
        ratios += [
            ours - theirs for ours, theirs in zip(written, completion.logprobs, strict=True)
        ]
    return {
        "kl": float(f"{statistics.mean(exp(d) - 1 - d for d in ratios):.3g}"),
        "mean_difference": float(f"{statistics.mean(map(abs, ratios)):.3g}"),
        "max_difference": float(f"{max(map(abs, ratios)):.3g}"),
        "tokens": len(ratios),
        "batch_invariant": os.environ.get("VLLM_BATCH_INVARIANT") == "1",
    }


def _english(asked: Sequence[Any], tokenizer: Any) -> list[Any]:
    """The requests with prompts of natural text, each beginning elsewhere in it."""
    import rlcore.rollout.publish

    text = Path(rlcore.rollout.publish.__file__).read_text(encoding="utf-8")
    ids = tokenizer(text)["input_ids"]
    changed = []
    for number, request in enumerate(asked):
        count = len(request.prompt_ids)
        start = 37 * number % len(ids)
        whole = ids[start:] + ids * (count // len(ids) + 1)
        changed.append(replace(request, prompt_ids=whole[:count]))
    return changed


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
