"""Real vLLM servers against transformers: tokens, log-probabilities, weights that change, servers that freeze and die."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import rollout_reference as ref
import test_rollout_vllm_adapter as adapters
import torch
from transformers import PreTrainedModel

from rlcore.errors import EngineError
from rlcore.learner.policy import load_policy
from rlcore.rollout import served_weights
from rlcore.rollout.engine import generate
from rlcore.rollout.file_host import FileHost
from rlcore.rollout.hf_draw import Settings, truncate
from rlcore.rollout.publish import publish
from rlcore.rollout.vllm_server import VllmServers

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


@pytest.fixture(scope="module")
def engine(model_path: Path) -> Iterator[VllmServers]:
    engine = VllmServers(model_path, max_length=512, max_sequences=32, start=1)
    yield engine
    engine.close()


def publish_to(engine: VllmServers, learner: PreTrainedModel, version: int) -> None:
    publish(
        learner.named_parameters,
        engine,
        version,
        canary=[list(range(5, 45))],
        score=lambda sequences: ref.score(learner, sequences),
        served_dtype="float32",
    )


@pytest.mark.parametrize("truncation", [{}, {"top_k": 7}, {"top_k": 12, "top_p": 0.7}])
def test_logprobs_equal_transformers(
    engine: VllmServers, model: PreTrainedModel, truncation: dict[str, float]
) -> None:
    publish_to(engine, model, 1)
    asked = ref.requests(
        ref.prompts(6, (3, 140, 40)), temperature=0.8, keep_support=True, **truncation
    )
    for request, completion in zip(asked, generate(engine, asked, 120), strict=True):
        begin = len(request.prompt_ids) - 1
        logits = ref.next_logits(model, request.prompt_ids + completion.token_ids)[begin:-1]
        settings = Settings.of([request.sampling] * len(logits), logits.device)
        kept = truncate(logits / 0.8, settings) if truncation else logits / 0.8
        logprobs = kept.log_softmax(-1)
        chosen = logprobs.gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]
        assert torch.allclose(chosen, torch.tensor(completion.logprobs), atol=1e-4)
        if truncation:
            support = [row.isfinite().nonzero()[:, 0].tolist() for row in logprobs]
            assert completion.support == support


def test_greedy_equals_transformers_after_each_publish(
    engine: VllmServers, model_path: Path
) -> None:
    """Also with prompts whose keys and values were in the cache before the weights changed."""
    learner = ref.open_model(model_path)
    for version in (2, 3):
        ref.perturb(learner, version)
        publish_to(engine, learner, version)
        asked = ref.requests(ref.prompts(4, (300,)), f"v{version}.", temperature=0.0, max_tokens=16)
        for request, completion in zip(asked, generate(engine, asked, 120), strict=True):
            assert completion.token_ids == ref.greedy(learner, request.prompt_ids, 16)
            assert set(completion.versions) == {version}


def test_a_server_elsewhere_fetches_the_weights(
    engine: VllmServers, model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = ref.open_model(model_path)
    ref.perturb(learner, 7)
    monkeypatch.setattr(engine._weights, "_elsewhere", set(engine._processes.urls))
    publish_to(engine, learner, 4)  # with proof
    asked = ref.requests(ref.prompts(2, (40,)), "fetched", temperature=0.0, max_tokens=16)
    for request, completion in zip(asked, generate(engine, asked, 120), strict=True):
        assert completion.token_ids == ref.greedy(learner, request.prompt_ids, 16)
    monkeypatch.setattr(FileHost, "address", lambda *_: "http://127.0.0.1:9/nobody")
    with pytest.raises(EngineError, match=r"cannot fetch weights from 127.0.0.1:9 .*engine.folder"):
        publish_to(engine, learner, 5)
    monkeypatch.undo()
    publish_to(engine, learner, 5)


def test_a_server_elsewhere_fetches_an_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load_policy(
        config=adapters.MODEL, tokenizer="bytes", peft=adapters.RANKS, dtype="float32"
    )
    policy.save(tmp_path, base=True)
    monkeypatch.setattr(served_weights, "_HERE", ())
    engine = VllmServers(
        tmp_path, max_length=256, max_sequences=4, adapter_rank=policy.adapter.rank, start=1
    )
    try:
        for version in (1, 2):
            adapters.perturb(policy, version)
            assert adapters.proof(policy, engine, "float32", version) < 1e-4
    finally:
        engine.close()


def test_equal_seeds_give_equal_tokens_and_scores_have_their_best(engine: VllmServers) -> None:
    prompt = ref.prompts(1, (20,))[0]
    one, other = (ref.requests([prompt], name, temperature=1.0) for name in ("x", "y"))
    first, second = (generate(engine, asked, 60)[0].token_ids for asked in (one, other))
    assert first == second
    sequence = prompt + first
    [plain] = engine.score([sequence])
    [best] = engine.score([sequence], top_k=3)
    assert plain.logprobs == best.logprobs and plain.top == [{}] * (len(sequence) - 1)
    assert all(len(top) == 3 for top in best.top)


@pytest.mark.parametrize("transport", ["file", "broadcast"])
def test_ranks_share_servers_that_freeze_and_die(transport: str, tmp_path: Path) -> None:
    """Two ranks, two servers, weights that change three times in each scenario: every token is the one of its version."""
    script = Path(__file__).parent / "ranks_and_servers.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", str(script), str(tmp_path), transport]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    for rank in range(2):
        results = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert list(results) == ["nothing", "freeze", "kill"]
        for result in results.values():
            assert result["tokens"] == 6 * 2 * 1200
            assert result["of_several"] > 0 and result["gap"] < 1e-4
    wait_until_gone(str(tmp_path))


def wait_until_gone(folder: str) -> None:
    """Wait until no process is left that names a folder."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        processes = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True)
        left = [line for line in processes.stdout.splitlines() if folder in line]
        if not left:
            return
        time.sleep(0.5)
    raise AssertionError(left)
