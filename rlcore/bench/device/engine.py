"""Section c: vLLM under the engine: its start, speed, publishes with proof, adapters, updates in flight, sleep."""

from __future__ import annotations

import gc
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from rlcore.bench.device.case import Case, CheckError, Needs, NotHere, check_close, device_name
from rlcore.bench.measure import Stopwatch
from rlcore.bench.workload import make_model
from rlcore.types import Completion, Request, Sampling

WHOLE_START_S = 180
LORA = {"type": "lora", "r": 8, "target_modules": "all-linear"}


class Size(NamedTuple):
    """Of a model and of what is asked of its engine."""

    model: str
    dtype: str
    sequences: int
    prompt: int
    answer: int


def cases(tiny: bool) -> Iterator[Case]:
    """An engine a case: each case begins with none on the device."""
    needs = (
        Needs(packages=("vllm",)) if tiny else Needs(gpus=1, memory_gb=35, packages=("vllm",))
    )
    asleep = Needs(gpus=1, packages=("vllm",))
    if tiny:
        sizes = {"tiny": Size("tiny", "float32", 4, 24, 8)}
    else:
        sizes = {
            "0.6b": Size("qwen3-0.6b", "bfloat16", 256, 256, 256),
            "1.5b": Size("qwen2.5-1.5b", "bfloat16", 256, 256, 256),
        }
    for name, size in sizes.items():
        yield Case(f"{name} publish", partial(_publish, size), needs, WHOLE_START_S)
        if name != "1.5b":
            yield Case(f"{name} in flight", partial(_in_flight, size), needs, WHOLE_START_S)
            yield Case(f"{name} adapter", partial(_adapter, size), needs, WHOLE_START_S)
            yield Case(f"{name} sleep", partial(_sleep, size), asleep, WHOLE_START_S)
        yield Case(f"{name} against vLLM", partial(_against_vllm, size), needs, WHOLE_START_S)


class Pair(NamedTuple):
    """An engine and the policy that it serves."""

    engine: Any
    policy: Any
    start_s: float
    dtype: str

    def publish(self, version: int, *, apart: bool = False) -> Any:
        """With proof; see `rlcore.rollout.publish`."""
        from rlcore.rollout.publish import publish

        is_rounded = self.policy.arithmetic is torch.bfloat16
        return publish(
            lambda: self.policy.weights(apart=apart),
            self.engine,
            version,
            canary=[list(range(1 + start, 60 + start)) for start in range(0, 120, 30)],
            score=self.policy.score,
            score_float32=self.policy.score_float32 if is_rounded else None,
            served_dtype=self.dtype,
        )


@contextmanager
def pair(
    size: Size, *, adapter: bool = False, max_length: int = 0, sleep: bool = False
) -> Iterator[Pair]:
    """Both, from one folder of random weights; none of it is left on the device afterwards."""
    from rlcore.learner.policy import load_policy
    from rlcore.rollout.vllm_local import VllmEngine

    with tempfile.TemporaryDirectory(prefix="rlcore_device_") as folder:
        path = make_model(Path(folder) / "model", size.model)
        peft = LORA if adapter else None
        policy = load_policy(path=path, dtype=size.dtype, device=device_name(), peft=peft)
        watch = Stopwatch()
        engine = VllmEngine(
            path,
            dtype=size.dtype,
            max_length=max(256, max_length, size.prompt + size.answer),
            max_sequences=size.sequences,
            adapter_rank=LORA["r"] if adapter else None,
            sleep=sleep,
        )
        try:
            yield Pair(engine, policy, round(watch.read().wall, 2), size.dtype)
        finally:
            engine.close()
            del engine, policy
            gc.collect()


def requests(size: Size, *, answer: int = 0, tag: str = "") -> list[Request]:
    """Prompts of tokens below 256, no two alike."""
    sampling = Sampling(max_tokens=answer or size.answer, ignore_eos=True)
    listed = []
    for number in range(size.sequences):
        prompt = [(7 * number + 3 * place) % 250 + 1 for place in range(size.prompt)]
        listed.append(
            Request(id=f"{tag}{number}", prompt_ids=prompt, sampling=sampling, seed=number)
        )
    return listed


def generate(engine: Any, asked: list[Request]) -> list[Completion]:
    """All completions, in the order of the requests."""
    engine.submit(asked)
    done: dict[str, Completion] = {}
    while len(done) < len(asked):
        for completion in engine.poll(1.0):
            done[completion.request_id] = completion
    return [done[request.id] for request in asked]


def gap(policy: Any, asked: list[Request], done: list[Completion]) -> float:
    """Mean |difference| between the recorded log-probabilities of completions and the policy's, in nats a token."""
    sequences = [r.prompt_ids + c.token_ids for r, c in zip(asked, done, strict=True)]
    differences = []
    for request, completion, scored in zip(
        asked, done, policy.score(sequences, max_tokens=16_384), strict=True
    ):
        written = scored[len(request.prompt_ids) - 1 :]
        differences += [abs(a - b) for a, b in zip(written, completion.logprobs, strict=True)]
    return statistics.mean(differences)


def change(policy: Any, scale: float = 0.1) -> None:
    """Move every trained parameter by a seeded random amount, as large updates would."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in policy.module.parameters():
            if p.requires_grad:
                noise = torch.randn(p.shape, generator=generator)
                p.add_(noise.to(p.device, p.dtype), alpha=scale * float(p.std() or 1))


def _limit(report: Any) -> float:
    """Of generated tokens: what the proof allows its canary, twice, since these tokens are other ones."""
    return 2 * report.limit


def _publish(size: Size) -> dict[str, Any]:
    """Seconds of a publish with its proof. What is generated afterwards, through graphs captured before, is of the new weights.

    Decoding reads weights at the addresses that its CUDA graphs know, so the addresses must stay.
    """
    with pair(size) as both:
        before = _addresses(both.engine)
        asked = requests(size, tag="a", answer=min(32, size.answer))
        first = generate(both.engine, asked)
        old_gap = gap(both.policy, asked, first)
        reports = []
        for version in (1, 2, 3):
            change(both.policy)
            reports.append(both.publish(version))
        moved = [name for name, at in _addresses(both.engine).items() if before[name] != at]
        check_close(f"number of parameters that moved ({moved[:3]})", len(moved), 0)
        asked = requests(size, tag="b", answer=min(32, size.answer))
        watch = Stopwatch()
        second = generate(both.engine, asked)
        seconds = watch.read().wall
        new_gap = gap(both.policy, asked, second)
        stale = gap(both.policy, asked, first)
        if stale < 2 * _limit(reports[-1]):
            raise CheckError(f"old completions fit the new weights ({stale:.3g} nats a token)")
        return {
            "start_s": both.start_s,
            "publish_s": [round(report.seconds, 3) for report in reports],
            "canary_gap": float(f"{reports[-1].gap:.3g}"),
            "gap_before": float(f"{old_gap:.3g}"),
            "gap_after": check_close("gap of decoded tokens", new_gap, _limit(reports[-1])),
            "gap_of_old_completions": float(f"{stale:.3g}"),
            "short_generation_s": round(seconds, 3),
        }


def _addresses(engine: Any) -> dict[str, int]:
    """Where each parameter lies, in an engine whose worker is this process."""
    [addresses] = engine.vllm.apply_model(_parameter_addresses)
    return addresses


def _parameter_addresses(model: torch.nn.Module) -> dict[str, int]:
    return {name: p.data_ptr() for name, p in model.named_parameters()}


def _in_flight(size: Size) -> dict[str, Any]:
    """Weights change in the middle of completions: each token's log-probability is that of the version it names."""
    from rlcore.learner.reference import frozen_copy

    with pair(size) as both:
        both.publish(1)
        asked = requests(size, tag="c")
        both.engine.submit(asked)
        both.engine.poll(0.0)
        # scores the tokens written so far, once they are known
        kept = frozen_copy(both.policy.module, torch.device(device_name()))
        change(both.policy)
        report = both.publish(2)
        done: dict[str, Completion] = {}
        while len(done) < len(asked):
            for completion in both.engine.poll(1.0):
                done[completion.request_id] = completion
        completions = [done[request.id] for request in asked]
        versions = {version for c in completions for version in c.versions}
        if versions != {1, 2}:
            raise CheckError(f"tokens name the versions {sorted(versions)}, not 1 and 2")
        new_tokens = _gap_of_version(both.policy, asked, completions, 2)
        both.policy.module.load_state_dict(kept.state_dict())
        old_tokens = _gap_of_version(both.policy, asked, completions, 1)
        return {
            "gap of new tokens": check_close("gap of new tokens", new_tokens, _limit(report)),
            "gap of old tokens": check_close("gap of old tokens", old_tokens, _limit(report)),
            "publish_s": round(report.seconds, 3),
        }


def _gap_of_version(
    policy: Any, asked: list[Request], done: list[Completion], version: int
) -> float:
    """As `gap`, over the tokens that name this version."""
    sequences = [r.prompt_ids + c.token_ids for r, c in zip(asked, done, strict=True)]
    scores = policy.score(sequences, max_tokens=16_384)
    differences = []
    for request, completion, scored in zip(asked, done, scores, strict=True):
        written = scored[len(request.prompt_ids) - 1 :]
        for got, want, wrote in zip(
            completion.logprobs, written, completion.versions, strict=True
        ):
            if wrote == version:
                differences.append(abs(got - want))
    return statistics.mean(differences)


def _adapter(size: Size) -> dict[str, Any]:
    """A LoRA adapter served beside its base: seconds of a publish, and the gap of what is decoded with it."""
    with pair(size, adapter=True) as both:
        change(both.policy, 0.5)
        reports = [both.publish(version, apart=True) for version in (1, 2)]
        asked = requests(size, tag="d", answer=min(32, size.answer))
        done = generate(both.engine, asked)
        value = gap(both.policy, asked, done)
        return {
            "start_s": both.start_s,
            "publish_s": [round(report.seconds, 3) for report in reports],
            "gap": check_close("gap of decoded tokens", value, _limit(reports[-1])),
        }


def _sleep(size: Size) -> dict[str, Any]:
    """Memory given back, seconds to sleep and wake, and a publish with proof afterwards; twice, as steps of a run are."""
    if device_name() == "cpu":
        raise NotHere("vLLM on a CPU does not sleep")
    values: dict[str, Any] = {}
    with pair(size, sleep=True) as both:
        for step in (1, 2):
            free = torch.cuda.mem_get_info()[0]
            watch = Stopwatch()
            both.engine.sleep()
            asleep = watch.read().wall
            freed = (torch.cuda.mem_get_info()[0] - free) / 1e9
            change(both.policy)
            report = both.publish(step)
            asked = requests(size, tag=f"s{step}", answer=16)
            decoded = gap(both.policy, asked, generate(both.engine, asked))
            values[f"step {step}"] = {
                "sleep_s": round(asleep, 3),
                "freed_gb": round(freed, 2),
                "wake_and_publish_s": round(report.seconds, 3),
                "gap": check_close("gap after waking", decoded, _limit(report)),
            }
    return values


def _against_vllm(size: Size) -> dict[str, Any]:
    """What the generator costs beside vLLM's own loop on the same engine."""
    from rlcore.bench.rollout import bench_rollout

    groups = max(1, size.sequences // 8)
    return bench_rollout(
        model=size.model,
        dtype=size.dtype,
        prompts=groups,
        group_size=size.sequences // groups,
        prompt_tokens=size.prompt,
        answer_max=size.answer,
        repeats=2 if size.model == "tiny" else 3,
    )
