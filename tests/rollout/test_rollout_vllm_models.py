"""Every model family keeps the proof of sync, one engine after another in one process."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
import rollout_reference as ref
import torch

from rlcore.errors import EngineError
from rlcore.rollout.engine import generate
from rlcore.rollout.publish import fingerprint, publish
from rlcore.rollout.vllm_local import VllmEngine
from tests.run.whole import finish, start


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("arch", "tied", "dtype"),
    [
        ("llama", False, "float32"),
        ("qwen3", True, "float32"),
        ("qwen2", False, "float32"),
        ("qwen2", True, "bfloat16"),
    ],
)
def test_publish(tmp_path: Path, arch: str, tied: bool, dtype: str) -> None:
    ref.make_model(tmp_path, arch, tied)
    learner = ref.open_model(tmp_path)
    engine = VllmEngine(tmp_path, dtype=dtype, max_length=512, max_sequences=4)
    try:
        assert engine.fingerprint() == fingerprint(learner.parameters(), dtype)
        for version in (1, 2):
            ref.perturb(learner, version)
            report = publish(
                learner.named_parameters,
                engine,
                version,
                canary=[list(range(5, 45))],
                score=lambda sequences: ref.score(learner, sequences),
                served_dtype=dtype,
                tolerance={"float32": 1e-3, "bfloat16": 0.1}[dtype],
            )
            assert report.gap_max < {"float32": 1e-4, "bfloat16": 0.25}[dtype]
        if dtype == "float32":
            (request,) = ref.requests(ref.prompts(1, (150,)), temperature=0.0)
            assert generate(engine, [request], 60)[0].token_ids == ref.greedy(
                learner, request.prompt_ids, 24
            )
    finally:
        engine.close()


def test_without_vllm_there_is_a_sentence(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(EngineError, match=r"pip install 'rlcore\[vllm\]'.*engine.use=hf"):
        VllmEngine(model_path, max_length=64)


@pytest.mark.vllm
def test_a_broken_torchvision_is_named(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torchvision.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    with pytest.raises(EngineError, match="pip uninstall -y torchvision"):
        VllmEngine(model_path, max_length=64)


@pytest.mark.vllm
def test_the_engine_leaves_the_learners_randomness_alone(model_path: Path) -> None:
    torch.manual_seed(11)
    random.seed(11)
    expected = (torch.rand(3).tolist(), random.random())
    torch.manual_seed(11)
    random.seed(11)
    engine = VllmEngine(model_path, max_length=64, max_sequences=2)
    generate(engine, ref.requests(ref.prompts(2, (9,))), 60)
    engine.score([[5, 6, 7]])
    engine.close()
    assert (torch.rand(3).tolist(), random.random()) == expected


TWO_RANKS = """
import sys, torch
import torch.distributed as dist
import rollout_reference as ref
import torch
from rlcore.rollout.engine import generate
from rlcore.rollout.publish import fingerprint
from rlcore.rollout.vllm_local import VllmEngine
dist.init_process_group("gloo")
rank, path = dist.get_rank(), sys.argv[1]
engine = VllmEngine(path, max_length=512, max_sequences=4)
learner = ref.open_model(path)
ref.perturb(learner, 1)
engine.load(learner.named_parameters(), 1)
assert engine.fingerprint() == fingerprint(learner.parameters())
for request in ref.requests(ref.prompts(2 + rank, (20 + rank,)), temperature=0.0):  # ranks do different work
    assert generate(engine, [request], 60)[0].token_ids == ref.greedy(learner, request.prompt_ids, 24)
engine.close()
total = torch.tensor([rank + 1])
dist.all_reduce(total)  # the launcher's group is still there
sys.stdout.write(f"rank {rank} of {dist.get_world_size()} sum {total.item()}\\n")
"""


@pytest.mark.vllm
def test_every_rank_of_a_launcher_owns_an_engine(model_path: Path, tmp_path: Path) -> None:
    script = tmp_path / "two_ranks.py"
    script.write_text(TWO_RANKS)
    out = finish(start(model_path, script=script, processes=2))
    assert "rank 0 of 2 sum 3" in out and "rank 1 of 2 sum 3" in out
