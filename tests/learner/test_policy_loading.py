"""Loading, building, checking, saving and giving away a policy."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2ForCausalLM

from rlcore.errors import ModelError
from rlcore.learner.attention import PACKED
from rlcore.learner.packed_check import _packed, check_packed
from rlcore.learner.policy import load_policy
from rlcore.tokenizer import byte_tokenizer

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.3,
}
ARCHITECTURES = {
    "llama": {},
    "qwen3": {},
    "mistral": {"sliding_window": 4},
    "gemma2": {"sliding_window": 4, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    "gemma3_text": {"sliding_window": 4},
    "olmo2": {},
}


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_architectures_agree_packed_and_plain(model_type):
    config = {"model_type": model_type} | SMALL | ARCHITECTURES[model_type]
    if model_type == "olmo2":
        del config["head_dim"]
    policy = load_policy(config=config, tokenizer="bytes", seed=1)
    assert policy.model.config._attn_implementation == PACKED
    sequences = [
        torch.tensor(list(range(start, start + n))) for start, n in ((5, 9), (90, 17), (40, 2))
    ]
    with torch.no_grad():
        got, entropy = policy.module(*_packed(sequences))
        policy.model.set_attn_implementation("eager")
        logs = [
            policy.model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1) for ids in sequences
        ]
    want = torch.cat(
        [log.gather(1, ids[1:, None])[:, 0] for log, ids in zip(logs, sequences, strict=True)]
    )
    assert (got - want).abs().max() < 1e-4
    assert (entropy - torch.cat([-(log.exp() * log).sum(-1) for log in logs])).abs().max() < 1e-4


def test_an_unknown_head_is_refused(monkeypatch):
    """A model that does something to its logits that no number of its config says."""
    forward = Qwen2ForCausalLM.forward

    def bent(self, *inputs, **keywords):
        output = forward(self, *inputs, **keywords)
        output.logits = output.logits.sin()
        return output

    monkeypatch.setattr(Qwen2ForCausalLM, "forward", bent)
    with pytest.raises(
        ModelError,
        match="Qwen2ForCausalLM is not supported: its packed log-probabilities differ",
    ):
        load_policy(config={"model_type": "qwen2"} | SMALL, tokenizer="bytes")


def test_a_dropped_sliding_window_is_noticed(monkeypatch):
    policy = load_policy(
        config={"model_type": "mistral", "sliding_window": 4} | SMALL, tokenizer="bytes"
    )
    for layer in policy.model.model.layers:
        forward = layer.self_attn.forward
        monkeypatch.setattr(
            layer.self_attn,
            "forward",
            lambda *a, f=forward, packed_lengths=None, **k: f(
                *a, **k, **({"packed_lengths": (sum(packed_lengths),)} if packed_lengths else {})
            ),
        )
    with pytest.raises(ModelError, match="not supported"):
        check_packed(policy.model)


def test_calling_the_packed_model_directly_is_met_with_a_sentence(make_policy):
    with pytest.raises(ModelError, match="set_attn_implementation"):
        make_policy().model(input_ids=torch.tensor([[1, 2]]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of the two"),
        ({"path": "x", "config": {}}, "exactly one of the two"),
        ({"config": {"model_type": "qwen2"}}, "needs a tokenizer"),
        (
            {"config": {"model_type": "qwen2", "hiden_size": 3}, "tokenizer": "bytes"},
            "did you mean 'hidden_size'",
        ),
        (
            {"config": {"model_type": "qwen99"}, "tokenizer": "bytes"},
            "no architecture of model_type 'qwen99'",
        ),
        (
            {"config": {"hidden_size": 8}, "tokenizer": "bytes"},
            "no architecture of model_type None",
        ),
        ({"path": "/nowhere/at/all"}, "there is no model at '/nowhere/at/all'"),
        (
            {"path": "/nowhere/at/all", "tokenizer": "bytes"},
            "there is no model at '/nowhere/at/all'",
        ),
        (
            {"config": {"model_type": "qwen2"}, "tokenizer": "bytes", "dtype": "float23"},
            "no dtype 'float23'",
        ),
    ],
)
def test_bad_input_is_met_with_a_sentence(arguments, message, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError) as caught:
        load_policy(**arguments)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_seed_decides_the_weights_and_leaves_the_generator_alone(make_policy):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = make_policy(seed=3), make_policy(seed=3), make_policy(seed=4)
    assert torch.equal(before, torch.get_rng_state())
    weights = [
        dict(policy.weights())["model.layers.0.mlp.up_proj.weight"]
        for policy in (first, again, other)
    ]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("tied", [True, False])
def test_save_loads_back_with_the_same_weights(make_policy, tmp_path, tied):
    policy = make_policy("float32", tie_word_embeddings=tied)
    policy.save(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert (
        loaded.generation_config.eos_token_id
        == loaded.config.eos_token_id
        == policy.tokenizer.eos_token_id
    )
    again = load_policy(path=str(tmp_path))
    given = dict(policy.weights())
    assert ("lm_head.weight" in given) != tied
    assert given.keys() == dict(again.weights()).keys()
    assert all(torch.equal(value, given[name]) for name, value in again.weights())
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in given.items())
    assert again.tokenizer.encode("né\n") == policy.tokenizer.encode("né\n")
    assert policy.num_parameters == loaded.num_parameters() and policy.max_length == 256


def test_any_text_survives_the_byte_tokenizer(tmp_path):
    own = byte_tokenizer()
    own.save_pretrained(tmp_path)
    for tokenizer in (own, AutoTokenizer.from_pretrained(tmp_path)):
        for text in (
            "",
            "2+2=4 \n\t ",
            " a  b .",
            "héllo ∑ 日本語 🙂",
            "don't <b>",
            "".join(map(chr, range(1, 1000))),
        ):
            ids = tokenizer.encode(text)
            assert ids == list(text.encode())
            assert tokenizer.decode(ids) == text
        assert (
            len(tokenizer),
            tokenizer.pad_token_id,
            tokenizer.bos_token_id,
            tokenizer.eos_token_id,
        ) == (262, 256, 257, 258)
        chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
        assert tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, return_dict=False
        ) == [259, 115, 260, 117, 261]
        answered = tokenizer.apply_chat_template(
            [*chat, {"role": "assistant", "content": "a"}], return_dict=False
        )
        assert answered == [259, 115, 260, 117, 261, 97, 258]
        assert tokenizer.decode(answered, skip_special_tokens=True) == "sua"
