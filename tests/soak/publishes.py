"""Many publishes in a row on a pretrained model, with proof of sync: right weights never raise an alarm.

    python -m tests.soak.publishes RESULTS --model MODEL --dtype bfloat16 --count 1000

The model writes short completions once. Each turn then trains on one of them, with a random sign, and publishes to vLLM;
the canary is a random draw of them. One row a publish goes to RESULTS/DTYPE.jsonl, and every 50 publishes the
model is saved: started again, the script goes on (with a new optimiser). At the end it prints how near to the limit the gap came.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402

from rlcore.errors import PublishError  # noqa: E402
from rlcore.get_model import get_model  # noqa: E402
from rlcore.learner.policy import Policy, load_policy  # noqa: E402
from rlcore.learner.settings import OptimSettings  # noqa: E402
from rlcore.rollout.engine import generate  # noqa: E402
from rlcore.rollout.prompt import PromptEncoder  # noqa: E402
from rlcore.rollout.publish import publish  # noqa: E402
from rlcore.rollout.vllm_local import VllmEngine  # noqa: E402
from rlcore.types import Request, Sampling, Task  # noqa: E402

SUBJECTS = "the sea, bread, a lighthouse, snow, chess, a market, bees, the moon".split(", ")
FORMS = (
    "Write two sentences about {}.",
    "Give three facts about {}.",
    "Write a short poem about {}.",
)
MAX_TOKENS = 72
LR = 1e-5
SAVE_EVERY = 50
CANARY_TOKENS = 256


def write_texts(engine: VllmEngine, policy: Policy) -> list[list[int]]:
    """Two completions of every prompt, with their prompts."""
    encoder = PromptEncoder(policy.tokenizer, format="chat")
    prompts = [form.format(subject) for form in FORMS for subject in SUBJECTS]
    sampling = Sampling(max_tokens=MAX_TOKENS, temperature=0.8)
    requests = [
        Request(
            id=f"{number}",
            prompt_ids=encoder.encode(Task(id=f"{number}", prompt=prompt)),
            sampling=sampling,
            seed=number,
        )
        for number, prompt in enumerate(prompts * 2)
    ]
    prompt_ids = {request.id: request.prompt_ids for request in requests}
    return [
        prompt_ids[completion.request_id] + completion.token_ids
        for completion in generate(engine, requests, 600)
    ]


def train(
    policy: Policy, optimizer: torch.optim.Optimizer, rng: random.Random, texts: list[list[int]]
) -> None:
    """One update that makes a completion likelier or less likely."""
    optimizer.zero_grad()
    ids = torch.tensor(rng.choice(texts))
    every = torch.arange(len(ids) - 1)
    logprobs, _ = policy.module(ids[:-1], every, (len(every),), every, ids[1:])
    (rng.choice((-1.0, 1.0)) * logprobs.mean()).backward()
    torch.nn.utils.clip_grad_norm_(policy.module.parameters(), 1.0)
    optimizer.step()


def draw_canary(rng: random.Random, texts: list[list[int]]) -> list[list[int]]:
    canary: list[list[int]] = []
    while sum(map(len, canary)) < CANARY_TOKENS:
        canary.append(rng.choice(texts))
    return canary


def publish_once(
    policy: Policy, engine: VllmEngine, version: int, canary: list[list[int]], dtype: str
) -> dict[str, Any]:
    """What the proof of sync measured, or the alarm that it raised."""
    try:
        outcome = publish(
            policy.weights,
            engine,
            version,
            canary=canary,
            score=policy.score,
            score_float32=policy.score_float32 if dtype == "bfloat16" else None,
            served_dtype=dtype,
        )
    except PublishError as error:
        return {"alarm": str(error)}
    return {
        "gap": outcome.gap,
        "limit": outcome.limit,
        "gap_max": outcome.gap_max,
        "seconds": outcome.seconds,
    }


def report(rows: list[dict[str, Any]]) -> int:
    """Print the figures; 1 if there was an alarm."""
    right = [row for row in rows if "alarm" not in row]
    for row in rows:
        if "alarm" in row:
            print(row["alarm"])
    if right:
        shares = [row["gap"] / row["limit"] for row in right]
        print(
            f"gap / limit: median {statistics.median(shares):.3f}, largest {max(shares):.3f}; largest gap of one "
            f"token {max(row['gap_max'] for row in right):.2f} nats; "
            f"{statistics.median(row['seconds'] for row in right):.1f} s a publish"
        )
    print(f"{len(rows)} publishes, {len(rows) - len(right)} false alarms")
    return int(len(right) < len(rows))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--model", help="a model folder; by default SmolLM2-135M-Instruct")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of what is trained on and of the canaries")
    options = parser.parse_args(arguments)
    options.results.mkdir(parents=True, exist_ok=True)
    log = options.results / f"{options.dtype}.jsonl"
    saved = options.results / f"{options.dtype}-model"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    base = options.model or get_model("smollm2")
    policy = load_policy(path=str(saved if saved.exists() else base), dtype=options.dtype)
    engine = VllmEngine(base, dtype=options.dtype, max_length=256, max_sequences=48)
    kept_texts = options.results / "texts.json"
    if not kept_texts.exists():
        kept_texts.write_text(json.dumps(write_texts(engine, policy)))
    texts = json.loads(kept_texts.read_text())
    optimizer = OptimSettings(lr=LR, total_updates=options.count).make_optimizer(policy.module)
    with log.open("a") as file:
        for number in range(len(rows), options.count):
            rng = random.Random(number + 1_000_000 * options.seed)
            train(policy, optimizer, rng, texts)
            row = publish_once(
                policy, engine, number + 1, draw_canary(rng, texts), options.dtype
            )
            rows.append(row)
            if (number + 1) % SAVE_EVERY == 0:
                policy.save(saved)
            file.write(json.dumps(row) + "\n")
            file.flush()
    engine.close()
    return report(rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
