"""Three ways from hidden states to the gradient of a loss on log-probabilities: time and peak memory, each in its own process."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from typing import Any

import torch
from torch import Tensor

from rlcore.bench.measure import Seconds, Stopwatch, circumstances, compare
from rlcore.learner.logprobs import chunked_logprobs, one_pass
from rlcore.objective import objective
from rlcore.objective.parts import Counts, Tokens

WAYS = ("full", "one_pass", "recompute")


def bench_head(
    *, vocabulary: int = 151_936, tokens: int = 4096, hidden_size: int = 1024, repeats: int = 2
) -> dict[str, Any]:
    """Seconds forward and backward, GB beyond inputs, and the largest relative difference to `full` of loss and gradient norms.

    full: log-softmax of all logits. one_pass: what the learner does where the loss is a sum over tokens. recompute: elsewhere.
    """
    rounds: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way in WAYS:
            command = [
                sys.executable,
                "-m",
                "rlcore.bench.head",
                way,
                str(vocabulary),
                str(tokens),
                str(hidden_size),
            ]
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=3600, check=True
            )
            rounds[way].append(json.loads(done.stdout.splitlines()[-1]))
    result: dict[str, Any] = {"bench": "head", "against": "full"}
    gradient_gb = vocabulary * hidden_size * 4 / 1e9
    for way in WAYS:
        pairs = list(zip(rounds[way], rounds["full"], strict=True))
        seconds = [
            [Seconds(r["wall"], r["cpu"]) for r in side] for side in zip(*pairs, strict=True)
        ]
        extra_gb = max(r["extra_gb"] for r in rounds[way])
        result[way] = {
            **compare(*seconds),
            "extra_gb": round(extra_gb, 3),
            "extra_gb_beyond_weight_gradient": round(extra_gb - gradient_gb, 3),
            "difference": float(
                f"{max(abs(a[k] / b[k] - 1) for a, b in pairs for k in ('loss', 'dh', 'dw')):.2g}"
            ),
        }
    sizes = {
        "vocabulary": vocabulary,
        "tokens": tokens,
        "hidden_size": hidden_size,
        "repeats": repeats,
    }
    return result | {"shape": sizes, **circumstances()}


def _one(way: str, vocabulary: int, tokens: int, hidden_size: int) -> dict[str, float]:
    """The second of two runs in this process."""
    g = torch.Generator().manual_seed(0)
    hidden = torch.empty(tokens, hidden_size).normal_(generator=g).requires_grad_()
    weight = torch.empty(vocabulary, hidden_size).normal_(0, 0.02, generator=g).requires_grad_()
    target = torch.randint(vocabulary, (tokens,), generator=g)
    old, advantage = torch.randn(tokens, generator=g) - 12, torch.randn(tokens, generator=g)
    term, one = objective("dapo").terms[0], torch.ones(tokens)

    def loss(logp: Tensor, entropy: Tensor, part: slice) -> Tensor:
        row = torch.zeros(len(logp), dtype=torch.int64)
        given = Tokens(
            logp, old[part], old[part], None, entropy, advantage[part], one[part], row, 1
        )
        return term(given, Counts(tokens, 1))

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2):
        hidden.grad = weight.grad = None
        watch = Stopwatch()
        if way == "one_pass":
            *_, value = one_pass(hidden, weight, None, target, loss)
        elif way == "recompute":
            value = loss(*chunked_logprobs(hidden, weight, None, target), slice(None))
        else:
            log_p = torch.log_softmax(torch.nn.functional.linear(hidden, weight), -1)
            value = loss(log_p.gather(1, target[:, None])[:, 0], old * 0, slice(None))
        value.backward()
        seconds = watch.read()
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 1e9
    norms = {
        "dh": hidden.grad.double().norm().item(),
        "dw": weight.grad.norm(dtype=torch.float64).item(),
    }
    return {**seconds._asdict(), "extra_gb": extra, "loss": value.item(), **norms}


if __name__ == "__main__":
    print(json.dumps(_one(sys.argv[1], *map(int, sys.argv[2:]))))
