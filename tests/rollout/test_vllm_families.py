"""Architectures that vLLM serves by other ways than its own dense models, and those that it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlcore.errors import EngineError, ModelError
from rlcore.learner.policy import load_policy
from rlcore.rollout.vllm_local import VllmEngine
from tests.families.configs import LONGEST, make_model
from tests.families.examine import LORA, check_engine, open_engine, sequences
from tests.rollout.end_of_turn import greedy, make_base, weights_that_write
from tests.rollout.test_chat_templates import CHATML, tokenizer_with

pytestmark = pytest.mark.vllm


def test_a_base_model_stops_where_its_chat_template_ends_a_turn(tmp_path: Path) -> None:
    """In its own folder, whose files do not say so, and in a checkpoint of ours, whose files do."""
    tokenizer = tokenizer_with(CHATML, "<|im_start|>", "<|im_end|>")
    end_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    base, saved = make_base(tmp_path / "base", tokenizer), tmp_path / "saved"
    load_policy(path=str(base)).save(saved)
    for folder in (base, saved):
        engine = VllmEngine(folder, max_length=64, max_sequences=2)
        try:
            engine.load(weights_that_write(folder, end_id), 1)
            completion = greedy(engine)
        finally:
            engine.close()
        assert (completion.token_ids, completion.finish) == ([end_id], "stop")


@pytest.mark.parametrize("family", ["qwen3_moe", "olmo2"])
def test_published_weights_are_those_that_vllm_computes_with(
    family: str, tmp_path: Path
) -> None:
    """Experts, which it packs in place on a CPU; a class of transformers, which it shares with the learner."""
    make_model(family, tmp_path)
    policy = load_policy(path=str(tmp_path), max_length=LONGEST)
    before = policy.score(sequences())
    check_engine("vllm", policy, tmp_path)
    # The learner's class is what it was, for models made before and after the engine's.
    again = load_policy(path=str(tmp_path), max_length=LONGEST)
    assert again.score(sequences()) == before


@pytest.mark.parametrize(
    ("family", "adapter_rank", "said"),
    [
        ("qwen2, windows on some layers", None, "Sliding window for some but all layers"),
        ("gpt2", 4, "does not support LoRA yet; set engine.sync=merged"),
        ("cohere2", None, "makes windows one token wider in cohere2"),
        ("qwen2_moe, windows on some layers", None, "has no windows in qwen2_moe"),
    ],
)
def test_what_vllm_refuses_is_one_sentence(
    family: str, adapter_rank: int | None, said: str, tmp_path: Path
) -> None:
    make_model(family, tmp_path)
    with pytest.raises(EngineError, match=said) as error:
        open_engine("vllm", tmp_path, adapter_rank=adapter_rank)
    assert "\n" not in str(error.value)


def test_an_adapter_on_fused_experts_is_not_given_alone(tmp_path: Path) -> None:
    make_model("qwen3_moe", tmp_path)
    policy = load_policy(path=str(tmp_path), max_length=LONGEST, peft=LORA)
    with pytest.raises(
        ModelError, match="fused parameters of .*experts.*engine.sync to merged"
    ):
        _ = policy.adapter.rank
