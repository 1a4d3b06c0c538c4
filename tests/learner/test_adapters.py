"""Adapters: what trains, what is published, what is saved, and what comes back; references are peft's own loader and merge."""

import pytest
import torch
from accelerate import Accelerator
from peft import PeftModel
from test_update import make_learner, make_samples
from tiny_model import TINY
from transformers import AutoModelForCausalLM

from rlcore.errors import ModelError, PublishError
from rlcore.learner.policy import load_policy
from rlcore.objective import objective
from rlcore.rollout.hf import HfEngine
from rlcore.rollout.publish import publish
from tests.families.configs import make_model

LORA = {"type": "lora", "r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
KINDS = {
    "lora": LORA,
    "dora": LORA | {"use_dora": True},
    "rslora_two_modules": {
        "type": "lora",
        "use_rslora": True,
        "target_modules": ["q_proj", "down_proj"],
    },
    "with_norms": LORA | {"modules_to_save": ["input_layernorm"]},
    "ia3": {
        "type": "ia3",
        "target_modules": ["k_proj", "down_proj"],
        "feedforward_modules": ["down_proj"],
    },
    "loha": {"type": "loha", "r": 4, "target_modules": "all-linear"},
    "oft": {"type": "oft", "oft_block_size": 8, "target_modules": "all-linear"},
    "miss": {"type": "miss", "r": 4, "target_modules": "all-linear"},
    "bat": {"type": "miss", "r": 4, "init_weights": "bat", "target_modules": "all-linear"},
    "vera": {"type": "vera", "r": 4, "target_modules": ["q_proj", "o_proj", "down_proj"]},
}


def make(peft=LORA, dtype="float32", **changes):
    return load_policy(config=TINY | changes, tokenizer="bytes", dtype=dtype, peft=peft)


def trained(policy, steps=2, **settings):
    learner = make_learner(policy, **settings)
    for seed in range(steps):
        learner.update(make_samples(seed=seed))
    return learner


def bits(policy):
    return {name: p.detach().clone() for name, p in policy.module.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_published_and_saved_weights_are_those_of_peft(tmp_path, kind, tied):
    base, policy = (
        make(None, tie_word_embeddings=tied),
        make(KINDS[kind], tie_word_embeddings=tied),
    )
    start = dict(base.weights())
    assert all(
        torch.allclose(tensor, start[name], atol=1e-6) for name, tensor in policy.weights()
    )
    trained(policy)
    before = bits(policy)
    published = dict(policy.weights())
    policy.save(tmp_path)
    assert bits(policy).keys() == before.keys() and all(
        torch.equal(p, before[name]) for name, p in bits(policy).items()
    )

    assert list(published) == list(start)
    assert not torch.equal(
        published["model.layers.0.mlp.down_proj.weight"],
        start["model.layers.0.mlp.down_proj.weight"],
    )
    base.save(tmp_path / "base")
    theirs = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter"
    )
    theirs = theirs.merge_and_unload().state_dict()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    for name, tensor in published.items():
        assert torch.equal(tensor, loaded[name]) and torch.equal(tensor, theirs[name]), name
    scores, alone = (
        policy.score([[1, 2, 3, 4, 5]])[0],
        load_policy(path=str(tmp_path)).score([[1, 2, 3, 4, 5]])[0],
    )
    assert scores == pytest.approx(alone, abs=1e-5)


def test_only_the_adapter_trains(make_policy):
    policy = make()
    before = bits(policy)
    trained(policy)
    after = bits(policy)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all("lora_" in name for name in moved)
    assert sum("lora_" in name for name in before) == len(moved)


@pytest.mark.parametrize("kind", ["lora", "dora", "miss"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_resumes_bit_for_bit(tmp_path, kind, dtype):
    batches = [make_samples(seed=s) for s in range(4)]
    whole = make_learner(make(KINDS[kind], dtype))
    reports = [whole.update(batch) for batch in batches]
    first = make_learner(make(KINDS[kind], dtype))
    for batch in batches[:2]:
        first.update(batch)
    first.policy.save(tmp_path)
    again = load_policy(
        config=TINY, tokenizer="bytes", dtype=dtype, peft=KINDS[kind], saved=tmp_path
    )
    assert all(torch.equal(p, bits(first.policy)[name]) for name, p in bits(again).items())
    second = make_learner(again)
    second.load_state_dict(first.state_dict())
    assert [second.update(batch) for batch in batches[2:]] == reports[2:]
    assert all(torch.equal(p, bits(whole.policy)[name]) for name, p in bits(again).items())


def test_miss_adds_one_matrix_over_the_pieces_of_the_input():
    """Bone (arXiv 2409.15371), MiSS in peft: W plus B [r, out] tiled down the input, r out numbers a layer."""
    base, policy = dict(make(None).weights()), make(KINDS["miss"])
    trained(policy)
    merged = dict(policy.weights())
    blocks = {name: p for name, p in policy.module.named_parameters() if p.requires_grad}
    assert len(blocks) == 2 * 7
    for name, block in blocks.items():
        weight = name.partition(".miss_block")[0].removeprefix("model.") + ".weight"
        change = merged[weight] - base[weight]
        outputs, inputs = change.shape
        assert block.numel() == 4 * outputs
        tiled = block.detach().reshape(4, outputs).T.repeat(1, inputs // 4)
        assert torch.allclose(change, tiled, atol=1e-6) and change.abs().max() > 1e-4, name


def test_another_base_is_noticed(tmp_path):
    policy = make()
    trained(policy)
    policy.save(tmp_path)
    with pytest.raises(ModelError, match="the adapter in .* was trained on another base model"):
        load_policy(config=TINY, tokenizer="bytes", seed=1, peft=LORA, saved=tmp_path)
    with pytest.raises(ModelError, match="cannot load an adapter from"):
        load_policy(config=TINY, tokenizer="bytes", peft=LORA | {"r": 8}, saved=tmp_path)


def test_the_reference_is_the_base_and_no_copy(make_policy):
    policy, samples = make(dtype="float64"), make_samples()
    base = make_policy()
    held = sum(p.numel() for p in policy.module.parameters())
    learner = make_learner(policy, made=objective("grpo", kl=0.5), clip_norm=1e9)
    assert not isinstance(learner._reference, torch.nn.Module)
    assert learner.update(samples).losses["kl"] == pytest.approx(0, abs=1e-15)
    with torch.no_grad():
        inputs = _inputs(samples)
        assert torch.equal(learner._reference(*inputs)[0], base.module(*inputs)[0])
        assert not torch.equal(policy.module(*inputs)[0], base.module(*inputs)[0])
    assert sum(p.numel() for p in policy.module.parameters()) == held
    assert all(
        p.requires_grad == ("lora_" in name) for name, p in policy.module.named_parameters()
    )
    assert learner.update(samples).losses["kl"] != 0


def _inputs(samples):
    from rlcore.learner.pack import pack

    [batch] = pack(samples, max_tokens=1000)
    return batch.token_ids, batch.positions, batch.lengths, batch.source, batch.target


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_proof_of_sync_covers_the_adapter(tmp_path, dtype):
    policy = make(LORA | {"lora_alpha": 64}, dtype)
    policy.save(tmp_path)
    engine = HfEngine(tmp_path, dtype=dtype, max_length=64)
    settings = {"canary": [[5, 6, 7, 8, 9] * 4], "score": policy.score, "served_dtype": dtype}
    settings["score_float32"] = policy.score_float32
    first = publish(policy.weights, engine, 1, **settings)
    trained(policy, lr=5e-2)
    second = publish(policy.weights, engine, 2, **settings)
    assert first.fingerprint != second.fingerprint and second.gap < (
        1e-4 if dtype == "float32" else 0.1
    )

    def base_only():
        with policy.adapter.disabled():
            yield from (
                (n.replace("base_layer.", ""), p)
                for n, p in policy.model.named_parameters()
                if "lora_" not in n
            )

    with pytest.raises(
        PublishError, match="canary" if dtype == "float32" else "proof of sync failed"
    ):
        publish(base_only, engine, 3, **settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "lorra"}, "no adapter of type 'lorra'; did you mean 'lora'?"),
        (
            {"lora_alhpa": 3},
            "a lora adapter has no setting 'lora_alhpa'; did you mean 'lora_alpha'?",
        ),
        ({"lora_dropout": 0.1}, "lora_dropout must be 0"),
        ({"target_modules": ["q_prj"]}, "a lora adapter cannot be used with Qwen2ForCausalLM"),
        (
            {"target_modules": ["q_proj", "embed_tokens"]},
            "reaches the output head or embeddings tied to it",
        ),
        ({"modules_to_save": ["lm_head"]}, "reaches the output head or embeddings tied to it"),
        ({"init_lora_weights": "pissa"}, "does not start as the model itself"),
        ({"r": 0}, "do not make a lora adapter|cannot be used"),
    ],
)
def test_bad_input_is_met_with_a_sentence(changes, message):
    with pytest.raises(ModelError, match=message) as caught:
        make(LORA | changes)
    assert "\n" not in str(caught.value)


def test_prompts_instead_of_weights_are_refused():
    with pytest.raises(ModelError, match="adds tokens, not weights"):
        make({"type": "prompt_tuning", "num_virtual_tokens": 2})


def test_the_accelerator_takes_a_partly_frozen_model(make_policy):
    from rlcore.learner.update import Learner

    learner = Learner(
        make(), objective("sft"), accelerator=Accelerator(cpu=True), lr=1e-2, total_updates=2
    )
    losses = [learner.update(make_samples(has_behaviour=False)).loss for _ in range(20)]
    assert losses[-1] < 0.9 * losses[0]


ROUTERS = {"longcat_flash": "classifier", "phimoe": "router"}
"""A linear layer whose weight alone is read, and one of a class of its own."""


@pytest.mark.parametrize("family", ROUTERS)
def test_layers_that_no_adapter_can_change_are_left_out(family, tmp_path):
    make_model(family, tmp_path)
    policy = load_policy(path=str(tmp_path), peft=LORA)
    names = [name for name, _ in policy.module.named_parameters() if "lora_" in name]
    assert names and not any(ROUTERS[family] in name for name in names)
    with torch.no_grad():
        for name, parameter in policy.module.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    policy.save(tmp_path / "merged")
    text = list(range(40, 70))
    merged = load_policy(path=str(tmp_path / "merged"))
    assert policy.score([text])[0] == pytest.approx(merged.score([text])[0], abs=1e-3)


@pytest.mark.parametrize("family", ROUTERS)
def test_an_adapter_of_a_layer_that_it_cannot_change_is_refused(family, tmp_path):
    make_model(family, tmp_path)
    with pytest.raises(ModelError, match="the adapter|plain linear layers"):
        load_policy(path=str(tmp_path), peft=LORA | {"target_modules": [ROUTERS[family]]})
