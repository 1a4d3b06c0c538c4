"""Tokens that prompts may hold and nothing samples: from tokenizer and embedding to every engine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import rollout_reference as ref
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from rlcore.errors import ModelError
from rlcore.learner.policy import Policy, load_policy
from rlcore.recipe.build_learner import require_policys_tokens
from rlcore.recipe.model_sections import ModelSection
from rlcore.rollout.engine import Engine, generate
from rlcore.rollout.hf import HfEngine

MARKS = ("<|good|>", "<|bad|>")


def config(tied: bool, **more: object) -> dict[str, object]:
    return {
        "model_type": "qwen2", "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 128, "tie_word_embeddings": tied, "initializer_range": 0.15, **more,
    }  # fmt: skip


def policy_with(marks: tuple[str, ...] = MARKS, *, tied: bool = True, **more: object) -> Policy:
    return load_policy(config=config(tied, **more), tokenizer="bytes", control_tokens=marks)


@pytest.fixture(scope="module")
def eager(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that would write a mark nearly always: whichever sign the hidden state has, one of the two heads fits it."""
    folder = tmp_path_factory.mktemp("marked") / "model"
    policy_with(tied=False).save(folder)
    weights = load_file(folder / "model.safetensors")
    head = weights["lm_head.weight"]
    head[-2], head[-1] = 20 * head[65], -20 * head[65]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


# tokenizer, embedding and checkpoint ----------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_the_embedding_grows_by_exactly_the_new_tokens(tied: bool) -> None:
    plain, marked = policy_with((), tied=tied), policy_with(tied=tied)
    for layer in ("get_input_embeddings", "get_output_embeddings"):
        before, after = (getattr(policy.model, layer)().weight for policy in (plain, marked))
        assert len(after) == len(before) + 2 and torch.equal(after[:-2], before)
        mean = before.double().mean(0)
        assert all(torch.allclose(row.double(), mean, atol=1e-6) for row in after[-2:])
    tied_now = marked.model.get_input_embeddings().weight is marked.model.get_output_embeddings().weight
    assert tied_now is tied and marked.model.config.vocab_size == len(marked.tokenizer)
    ids = marked.tokenizer("a<|bad|>b").input_ids
    assert ids == [97, marked.tokenizer.convert_tokens_to_ids("<|bad|>"), 98]


def test_spare_rows_are_used_and_known_tokens_keep_theirs() -> None:
    spare = policy_with(vocab_size=300)
    assert spare.model.config.vocab_size == 300
    known = policy_with(("<|user|>", "<|bad|>"))
    plain = policy_with(())
    row = known.tokenizer.convert_tokens_to_ids("<|user|>")
    assert torch.equal(known.model.get_input_embeddings().weight[row], plain.model.get_input_embeddings().weight[row])
    assert known.model.config.vocab_size == plain.model.config.vocab_size + 1
    assert row in known.model.generation_config.suppress_tokens


def test_before_training_all_marks_mean_the_same() -> None:
    policy = policy_with()
    first, second = ([policy.tokenizer.convert_tokens_to_ids(mark), 65, 66, 67] for mark in MARKS)
    assert policy.score([first]) == policy.score([second])


def test_a_checkpoint_has_them_and_gives_them_back(tmp_path: Path) -> None:
    policy = policy_with(tied=False)
    with torch.no_grad():
        policy.model.get_input_embeddings().weight[-1] += 1
    policy.save(tmp_path / "one")
    for control_tokens in (MARKS, ()):
        again = load_policy(path=str(tmp_path / "one"), control_tokens=control_tokens)
        for (name, one), (_, other) in zip(policy.weights(), again.weights(), strict=True):
            assert torch.equal(one, other), name
        assert again.model.generation_config.suppress_tokens == policy.model.generation_config.suppress_tokens
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "one")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / "one")
    assert len(model.get_input_embeddings().weight) == len(tokenizer) == len(policy.tokenizer)
    assert tokenizer("<|good|>").input_ids == policy.tokenizer("<|good|>").input_ids


def test_what_cannot_be_a_control_token() -> None:
    with pytest.raises(ModelError, match="<|eos|>, at which completions end"):
        policy_with(("<|eos|>",))
    lora = {"type": "lora", "r": 2, "target_modules": "all-linear"}
    with pytest.raises(ModelError, match="adds <|good|>, <|bad|> to the embedding, which an adapter does not train"):
        load_policy(config=config(True), tokenizer="bytes", control_tokens=MARKS, peft=lora)


def test_a_teacher_must_have_them_too(tmp_path: Path) -> None:
    """Found when a recipe is checked."""
    policy_with().save(tmp_path / "with")
    policy_with(()).save(tmp_path / "without")
    section = ModelSection(config={"model_type": "qwen2"}, tokenizer="bytes", control_tokens=list(MARKS))
    require_policys_tokens(section, str(tmp_path / "with"))
    with pytest.raises(ModelError, match="has another tokenizer than the policy"):
        require_policys_tokens(section, str(tmp_path / "without"))


# engines --------------------------------------------------------------------------------------


def of_hf(folder: Path) -> Engine:
    return HfEngine(folder, max_length=96)


def of_vllm(folder: Path) -> Engine:
    pytest.importorskip("vllm")
    from rlcore.rollout.vllm_local import VllmEngine

    return VllmEngine(folder, max_length=96, max_sequences=16)


def of_servers(folder: Path) -> Engine:
    pytest.importorskip("vllm")
    from rlcore.rollout.vllm_server import VllmServers

    return VllmServers(folder, max_length=96, max_sequences=16, start=1, start_deadline_s=300)


def marks_of(folder: Path) -> list[int]:
    return AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(list(MARKS))


@pytest.mark.parametrize("open_engine", [of_hf, of_vllm, of_servers])
def test_no_engine_samples_them_and_prompts_hold_them(eager: Path, open_engine: Callable[[Path], Engine]) -> None:
    """Log-probabilities are those among the other tokens, as transformers computes them."""
    marks = marks_of(eager)
    model = ref.open_model(eager)
    prompts = [[mark, *prompt] for mark, prompt in zip(marks * 3, ref.prompts(6, (5, 9)), strict=True)]
    engine = open_engine(eager)
    try:
        for temperature in (1.0, 0.0):
            asked = ref.requests(prompts, f"t{temperature}.", temperature=temperature, max_tokens=24)
            for request, completion in zip(asked, generate(engine, asked, 120), strict=True):
                assert not set(marks) & set(completion.token_ids)
                logits = ref.next_logits(model, request.prompt_ids + completion.token_ids)
                logits = logits[len(request.prompt_ids) - 1 : -1]
                logits[:, marks] = -torch.inf
                tokens = torch.tensor(completion.token_ids)[:, None]
                expected = logits.log_softmax(-1).gather(1, tokens)[:, 0]
                torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-4, rtol=0)
    finally:
        engine.close()


def test_transformers_does_not_write_them_either(eager: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(eager)
    prompt = torch.tensor([[*marks_of(eager), 65]] * 8)
    written = model.generate(prompt, do_sample=True, max_new_tokens=24)[:, 3:]
    assert not torch.isin(written, torch.tensor(marks_of(eager))).any()


def test_without_the_ban_they_are_sampled(eager: Path, tmp_path: Path) -> None:
    """What the tests above would see if nothing forbade it."""
    folder = shutil.copytree(eager, tmp_path / "free")
    settings = json.loads((folder / "generation_config.json").read_text())
    assert settings.pop("suppress_tokens") == marks_of(eager)
    (folder / "generation_config.json").write_text(json.dumps(settings))
    done = generate(of_hf(folder), ref.requests(ref.prompts(6, (5,)), temperature=1.0, max_tokens=24), 60)
    written = [token for completion in done for token in completion.token_ids]
    assert sum(token in marks_of(eager) for token in written) > len(written) / 2
