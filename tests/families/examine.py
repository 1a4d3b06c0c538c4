"""One family through load check, layouts, files, engines and adapters; run in a process of its own.

A cell of the table is "right", or "refused: " and the sentence that the user would read, or
"fault: " and what went wrong. The independent reference is transformers' own forward of the saved
folder, one sequence at a time.
"""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from rlcore.errors import RlcoreError
from rlcore.learner.policy import Policy, load_policy
from rlcore.rollout.engine import Engine, generate
from rlcore.rollout.publish import publish
from rlcore.types import Request, Sampling
from tests.families.configs import LEFT_OUT, LONGEST, make_model

NEAR = 0.01
"""Largest difference of one log-probability in nats, in float32 and with large weights."""
LENGTHS = (5, 12, 24, 31, LONGEST)
LORA = {"type": "lora", "r": 4, "target_modules": "all-linear"}


class Fault(Exception):
    """Something is silently wrong."""


def examine(family: str, engines: Iterable[str]) -> dict[str, str]:
    """Name of the check -> its cell. Checks that need one that was refused are left out."""
    row: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        if family in LEFT_OUT:
            return {"learner": f"not made: {LEFT_OUT[family]}"}
        try:
            make_model(family, folder)
        except Exception as error:
            reason = str(error).strip().split("\n")[0][:150]
            return {"learner": f"not made: {type(error).__name__}: {reason}"}
        policy: list[Policy] = []

        def learner() -> None:
            policy.append(load_policy(path=str(folder), max_length=LONGEST))
            check_layouts(policy[0], folder)
            check_files(policy[0], folder, Path(name) / "saved")

        _cell(row, "learner", learner)
        if not policy or row["learner"] != "right":
            return row
        for kind in engines:
            _cell(row, kind, lambda kind=kind: check_engine(kind, policy[0], folder))
        # Merged weights reach every engine by the same way as those of a model without adapter.
        _cell(row, "lora merged", lambda: check_lora("hf", folder, apart=False))
        if row.get("vllm") == "right":
            _cell(row, "lora adapter", lambda: check_lora("vllm", folder, apart=True))
    return row


def _cell(row: dict[str, str], name: str, check: Callable[[], None]) -> None:
    try:
        check()
        row[name] = "right"
    except RlcoreError as error:
        row[name] = f"refused: {error}"
    except Fault as error:
        row[name] = f"fault: {error}"
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        row[name] = (
            f"fault: {type(error).__name__}: {str(error)[:200]} ({Path(where.filename).name}:{where.lineno})"
        )


def sequences() -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 250, (n,), generator=generator).tolist() for n in LENGTHS]


@torch.no_grad()
def reference(folder: Path, texts: list[list[int]]) -> list[list[float]]:
    """Log-probabilities by transformers alone, with the frequencies of the longest text for all."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    results = []
    for text in texts:
        logits = model(input_ids=torch.tensor([text]), use_cache=False).logits[0, :-1]
        logprobs = logits.double().log_softmax(-1)
        results.append(logprobs.gather(1, torch.tensor(text[1:])[:, None])[:, 0].tolist())
    return results


def _near(first: list[list[float]], second: list[list[float]], what: str) -> None:
    gap = max(
        abs(a - b)
        for x, y in zip(first, second, strict=True)
        for a, b in zip(x, y, strict=True)
    )
    if not gap <= NEAR:
        raise Fault(f"{what} differ by up to {gap:.3g} nats")


def check_layouts(policy: Policy, folder: Path) -> None:
    texts = sequences()
    rope = getattr(policy.model.config.get_text_config(), "original_max_position_embeddings", 0)
    # A text shorter than the limit of the rope is read with the frequencies of the run.
    long_enough = [text for text in texts if len(text) > rope] or texts
    expected = reference(folder, long_enough)
    packed = [logprobs for logprobs, _ in policy.read(long_enough)]
    _near(packed, expected, "packed log-probabilities and transformers'")
    among_others = policy.score([*texts, *reversed(texts)])
    alone = [policy.score([text])[0] for text in texts]
    _near(
        among_others,
        [*alone, *reversed(alone)],
        "log-probabilities with and without neighbours",
    )
    forks = [texts[-1][:cut] + tail for cut in (20, 40) for tail in ([7, 8, 9], [3, 4])]
    shared = [logprobs for logprobs, _ in policy.read(forks, layout="shared")]
    _near(shared, policy.score(forks), "the shared layout and the packed one")


def check_files(policy: Policy, folder: Path, saved: Path) -> None:
    policy.save(saved)
    texts = sequences()
    _near(reference(saved, texts), reference(folder, texts), "saved and loaded weights")


def check_engine(kind: str, policy: Policy, folder: Path) -> None:
    engine = open_engine(kind, folder)
    try:
        _follow(engine, policy)
    finally:
        engine.close()


def check_lora(kind: str, folder: Path, *, apart: bool) -> None:
    policy = load_policy(path=str(folder), max_length=LONGEST, peft=LORA)
    engine = open_engine(kind, folder, adapter_rank=policy.adapter.rank if apart else None)
    try:
        _follow(engine, policy, apart=apart)
    finally:
        engine.close()


def open_engine(kind: str, folder: Path, **arguments: int | None) -> Engine:
    if kind == "hf":
        from rlcore.rollout.hf import HfEngine

        return HfEngine(folder, max_length=LONGEST + 1, max_sequences=8)
    from rlcore.rollout.vllm_local import VllmEngine

    return VllmEngine(
        folder, dtype="float32", max_length=LONGEST + 1, max_sequences=8, **arguments
    )


def _follow(engine: Engine, policy: Policy, *, apart: bool = False) -> None:
    """The engine serves what the policy becomes, and completions have the policy's log-probabilities."""
    texts = sequences()
    for version in (1, 2):
        perturb(policy, version)
        publish(
            partial(policy.weights, apart=apart),
            engine,
            version,
            canary=texts[:1],
            score=policy.score,
            served_dtype="float32",
        )
        scored = [score.logprobs for score in engine.score(texts)]
        _near(scored, policy.score(texts), f"scores of engine and learner at version {version}")
    sampling = Sampling(max_tokens=30, temperature=1.0)
    requests = [
        Request(id=str(i), prompt_ids=text[:25], sampling=sampling, seed=i)
        for i, text in enumerate(texts)
    ]
    completions = {done.request_id: done for done in generate(engine, requests, 120)}
    for request in requests:
        done = completions[request.id]
        whole = policy.score([request.prompt_ids + done.token_ids])[0]
        written = whole[len(request.prompt_ids) - 1 :]
        _near([done.logprobs], [written], "log-probabilities of a completion")


@torch.no_grad()
def perturb(policy: Policy, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in policy.module.parameters():
        if parameter.requires_grad:
            scale = 0.05 if policy.adapter is not None else 0.02
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


if __name__ == "__main__":
    print("ROW" + json.dumps(examine(sys.argv[1], sys.argv[2].split(","))))
