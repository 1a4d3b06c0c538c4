"""Ranks of a learner that share two real vLLM servers, with weights that change while completions are under way.

By hand: torchrun --nproc_per_node 2 tests/rollout/ranks_and_servers.py OUT [file|broadcast]

Three scenarios, one after another: nothing happens; a server freezes; a server is killed (and started again). In each, every
rank generates 6 groups of 2 long completions while the weights change three times. OUT/rank<r>.json: for each scenario the number
of tokens, the completions with tokens of several versions, and the largest gap between a token's recorded log-probability and
that of transformers under the token's version.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import rollout_reference as ref
from accelerate import PartialState
from transformers import PreTrainedModel

from rlcore.rollout.collector import numbered
from rlcore.rollout.generator import Generator
from rlcore.rollout.open_group import FinishedGroup
from rlcore.rollout.prompt import PromptEncoder
from rlcore.rollout.publish import publish
from rlcore.rollout.vllm_server import VllmServers
from rlcore.scoring.unscored import Unscored
from rlcore.types import Sampling, Task

UPDATES = 3
GROUPS = 6
LENGTH = 1200
"""Of a completion, in tokens: long enough that none is written while its abort is on the way, on a busy machine too."""
MAX_LENGTH = 1280
BACK_S = 240.0


def model_of(folder: Path, version: int) -> PreTrainedModel:
    """The policy as it was at a version: any rank can make it."""
    model = ref.open_model(folder)
    if version:
        ref.perturb(model, version)
    return model


def publish_version(engine: VllmServers, folder: Path, version: int) -> None:
    model = model_of(folder, version)
    publish(
        model.named_parameters,
        engine,
        version,
        canary=[list(range(5, 45))],
        score=lambda sequences: ref.score(model, sequences),
        served_dtype="float32",
    )


def generate(
    engine: VllmServers, folder: Path, batch: int, first: int, fault: str
) -> list[FinishedGroup]:
    """Groups of one batch, with weights of versions first + 1 ... that are published meanwhile, in the same order on all ranks."""
    generator = Generator(
        engine=engine,
        encoder=PromptEncoder(ref.make_tokenizer(), format="plain", system=None),
        scorer=Unscored(),
        sampling=Sampling(max_tokens=LENGTH, temperature=1.0, ignore_eos=True),
        group_size=2,
        seed_of_batch=lambda number: 7 + number,
        max_length=MAX_LENGTH,
        deadline_s=300.0,
    )
    rank = PartialState().process_index
    tasks = [Task(id=f"t{rank}.{i}", prompt=f"{i}+{rank}=") for i in range(GROUPS)]
    generator.start(numbered(tasks), batch=batch)
    finished = []
    for update in range(1, UPDATES + 1):
        if update == 1 and rank == 0 and fault:
            finished += generator.pump(0.1)  # requests are under way
            number = signal.SIGSTOP if fault == "freeze" else signal.SIGKILL
            os.killpg(pid_of_first(engine), number)
        finished += generate_some(generator, batch)
        publish_version(engine, folder, first + update)
    while len(finished) < GROUPS:
        finished += generator.pump(0.1)
    return finished


def generate_some(generator: Generator, batch: int) -> list[FinishedGroup]:
    """Generate until more tokens are there than before, however slow the machine; nothing is under way afterwards.

    Completions that were cut go on under the next weights: some then have tokens of several versions.
    """
    finished = []
    before = generator.cost(batch).completion_tokens
    began = time.monotonic()
    while generator.cost(batch).completion_tokens == before and generator.generating:
        assert time.monotonic() < began + BACK_S, "no token was generated"
        until = time.monotonic() + 0.2
        while time.monotonic() < until:
            finished += generator.pump(0.02)
        generator.drain()
    return finished


def pid_of_first(engine: VllmServers) -> int:
    assert engine._processes is not None
    return engine._processes._servers[0].process.pid


def facts(folder: Path, finished: list[FinishedGroup]) -> dict[str, float]:
    models: dict[int, PreTrainedModel] = {}
    tokens = of_several = 0
    gap = 0.0
    for done in finished:
        for rollout in done.group.rollouts:
            prompt, completion = rollout.turns
            assert rollout.finish == "length" and len(completion.token_ids) == LENGTH
            tokens += len(completion.token_ids)
            of_several += len(set(completion.versions)) > 1
            for version in sorted(set(completion.versions)):
                if version not in models:
                    models[version] = model_of(folder, version)
                logprobs = ref.score(models[version], [prompt.token_ids + completion.token_ids])[0]
                theirs = logprobs[len(prompt.token_ids) - 1 :]
                gaps = [
                    abs(ours - theirs[i])
                    for i, ours in enumerate(completion.logprobs)
                    if completion.versions[i] == version
                ]
                gap = max(gap, *gaps)
    return {"tokens": tokens, "of_several": of_several, "gap": gap}


def wait_for_both(engine: VllmServers, folder: Path, version: int) -> float:
    """Seconds until both servers are used again; one that was away gets a broadcast only with the next load."""
    began = time.monotonic()
    if engine._broadcasts and version:
        while PartialState().is_main_process and "next weights" not in engine._pool.whys:
            assert time.monotonic() < began + BACK_S, engine._pool.whys
            time.sleep(0.1)
        PartialState().wait_for_everyone()
        publish_version(engine, folder, version)
    while len(engine._pool.alive) < 2:
        assert time.monotonic() < began + BACK_S, engine._pool.whys
        time.sleep(0.1)
    return time.monotonic() - began


def main(out: Path, transport: str = "file") -> None:
    state = PartialState(cpu=True)
    folder = out / "model"
    if state.is_main_process:
        ref.make_model(folder, "qwen2", tied=True)
    state.wait_for_everyone()
    engine = VllmServers(
        folder, max_length=MAX_LENGTH, max_sequences=32, start=2, start_deadline_s=300, transport=transport
    )
    try:
        wait_for_both(engine, folder, 0)
        publish_version(engine, folder, 1)
        results = {}
        for number, fault in enumerate(("", "freeze", "kill")):
            first = 1 + number * UPDATES
            finished = generate(engine, folder, number, first, fault)
            results[fault or "nothing"] = facts(folder, finished)
            if fault == "freeze" and state.is_main_process:
                os.killpg(pid_of_first(engine), signal.SIGCONT)
            last = first + UPDATES if fault else 0
            results[fault or "nothing"]["back_s"] = wait_for_both(engine, folder, last)
            state.wait_for_everyone()
        (out / f"rank{state.process_index}.json").write_text(json.dumps(results))
    finally:
        engine.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
