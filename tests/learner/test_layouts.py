"""The layouts of one step: packed against padded, shared against packed, in float64; trees, budgets, the check at first use."""

import random
import warnings
from functools import partial

import pytest
import torch
from accelerate import Accelerator
from torch.nn.utils.rnn import pad_sequence

from rlcore.learner import attention, attention_cuda
from rlcore.learner.forest import common, ends, grow, join
from rlcore.learner.pack import pack
from rlcore.learner.policy import load_policy
from rlcore.learner.update import Learner
from rlcore.objective import objective
from rlcore.types import Sample

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}
ARCHITECTURES = {
    "qwen2": {},
    "qwen3": {},
    "llama": {},
    "mistral": {"sliding_window": 6},
    "gemma3_text": {"sliding_window": 6, "head_dim": 16},
    "gemma2": {"sliding_window": 6, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
}


def words(rng, n):
    return [rng.randrange(256) for _ in range(n)]


def sample(id, rng, prefix, answer, first=None, **changes):
    """Trained from place `first` on (by default where the prefix ends), with another advantage for each token."""
    ids = prefix + answer
    first = len(prefix) if first is None else first
    return Sample(
        id=str(id),
        token_ids=ids,
        mask=[i >= first for i in range(len(ids))],
        advantages=[rng.uniform(-1, 1) for _ in ids],
        logprobs=[-5.0 - rng.random() for _ in ids],
        **({"version": 0} | changes),
    )


def ragged_groups(rng):
    """Three prompts of 1, 20 and 33 tokens with five answers each, two of them equally long, and one prompt alone."""
    made = []
    for number, n in enumerate((1, 20, 33)):
        prompt = words(rng, n)
        made += [
            sample(f"{number}.{i}", rng, prompt, words(rng, length))
            for i, length in enumerate((7, 12, 7, 1, 25))
        ]
    return [*made, sample("alone", rng, words(rng, 4), words(rng, 9))]


def deep_tree(rng):
    """A prompt, two first steps, after each two second steps, after each three ends; the steps are trained in some samples, with
    other advantages in each; and a sample that ends where others go on, one that is another's beginning, and a twin."""
    prompt, made = words(rng, 18), []
    for i in range(2):
        one = prompt + words(rng, 17)
        for j in range(2):
            two = one + words(rng, 16 + j)
            made += [
                sample(f"{i}{j}{k}", rng, two, words(rng, 5 + k % 2), first=(None, 18, len(one))[k])
                for k in range(3)
            ]
        made.append(sample(f"end{i}", rng, prompt, one[18:]))
    made.append(sample("twin", rng, prompt, made[0].token_ids[18:]))
    return rng.sample(made, len(made))


CASES = {"ragged": ragged_groups, "deep": deep_tree}


def policy(model_type="qwen2", dtype="float64"):
    config = {"model_type": model_type} | SMALL | ARCHITECTURES[model_type]
    held = load_policy(config=config, tokenizer="bytes", dtype=dtype, seed=3)
    if dtype == "float64":
        for module in held.model.modules():
            if type(module).__name__.endswith("RMSNorm"):
                module.forward = partial(norm, module)
    return held


def norm(module, x):
    """RMSNorm in float64. That of transformers rounds to fp32, gradients too, and the sum of roundings is not that of the sum."""
    weight = 1 + module.weight if type(module).__name__.startswith("Gemma") else module.weight
    eps = module.eps if hasattr(module, "eps") else module.variance_epsilon
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight


def step(samples, model_type="qwen2", name="dapo", dtype="float64", **settings):
    """Report and gradient of one step, and the learner."""
    held = policy(model_type, dtype)
    settings = {"version": 1, "clip_norm": 1e9, "micro_batch_tokens": 10_000} | settings
    learner = Learner(
        held,
        objective(name),
        accelerator=Accelerator(cpu=True),
        lr=1e-3,
        total_updates=9,
        **settings,
    )
    grads = []
    learner._optimizer.optimizer.register_step_pre_hook(
        lambda *_: grads.extend(p.grad.flatten() for p in held.module.parameters())
    )
    report = learner.update(samples)
    return report, torch.cat(grads), learner


def error(got, want):
    return ((got - want).norm() / want.norm()).item()


def padded(samples, model_type):
    """Loss and gradient of DAPO on a padded batch through the model's own forward and a full log-softmax."""
    model = policy(model_type).model
    model.set_attn_implementation("sdpa")
    rows = {
        name: [torch.tensor(getattr(s, name), dtype=torch.float64) for s in samples]
        for name in ("mask", "logprobs", "advantages")
    }
    on, old, a = (pad_sequence(values, batch_first=True)[:, 1:] for values in rows.values())
    ids = pad_sequence([torch.tensor(s.token_ids) for s in samples], batch_first=True)
    seen = pad_sequence([torch.ones(len(s.token_ids)) for s in samples], batch_first=True)
    logits = model(input_ids=ids, attention_mask=seen).logits[:, :-1]
    lp = logits.log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    ratio = (lp - old).exp()
    loss = (-torch.minimum(ratio * a, ratio.clamp(0.8, 1.28) * a) * on).sum() / on.sum()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_shared_equals_packed_equals_padded(model_type, case):
    samples = CASES[case](random.Random(0))
    report, packed, _ = step(samples, model_type, layout="packed")
    for budget in (10_000, 60):
        again, shared, learner = step(
            samples, model_type, layout="shared", micro_batch_tokens=budget
        )
        assert learner.layout == "shared"
        assert error(shared, packed) < 1e-9
        for field in (
            "loss",
            "grad_norm",
            "entropy",
            "kl",
            "ratio_max",
            "clip_frac",
            "tokens",
            "sequences",
        ):
            assert getattr(again, field) == pytest.approx(getattr(report, field), rel=1e-9)
    if (
        model_type != "gemma2"
    ):  # sdpa has no capped scores, and the eager way of transformers takes its softmax in fp32
        assert error(packed, padded(samples, model_type)) < 1e-9


@pytest.mark.parametrize("name", ["grpo", "gspo"])
def test_averages_over_sequences_do_not_see_the_layout(name):
    samples = deep_tree(random.Random(1))
    _, packed, _ = step(samples, name=name, layout="packed")
    _, shared, _ = step(samples, name=name, layout="auto", micro_batch_tokens=90)
    assert error(shared, packed) < 1e-9


def test_tokens_that_many_share_are_stored_once():
    rng = random.Random(0)
    prompt = words(rng, 100)
    samples = [sample(i, rng, prompt, words(rng, 10)) for i in range(8)] + [
        sample("b", rng, words(rng, 30), words(rng, 3))
    ]
    [shared], [packed] = (
        pack(samples, max_tokens=9999, layout=layout) for layout in ("auto", "packed")
    )
    assert len(packed.token_ids) == 8 * 109 + 32 and not packed.shares
    assert len(shared.token_ids) == 100 + 8 * 9 + 32 and shared.shares
    assert shared.lengths == (100, *[9] * 8, 32) and shared.parents == (-1, *[0] * 8, -1)
    short = [sample(i, rng, prompt[:15], words(rng, 10)) for i in range(8)]
    assert (
        not pack(short, max_tokens=9999, layout="auto")[0].shares
        and pack(short, max_tokens=9999, layout="shared")[0].shares
    )


def random_tree(rng, letters=2, n=40):
    return [[rng.randrange(letters) for _ in range(rng.randint(1, 9))] for _ in range(n)]


def grown(sequences, least):
    sequences = sorted(sequences)
    shared = [0, *(common(a, b) for a, b in zip(sequences, sequences[1:], strict=False))]
    return sequences, grow([len(s) for s in sequences], shared, least)


@pytest.mark.parametrize("least", [1, 3])
def test_any_forest_reads_back_as_its_sequences(least):
    for seed in range(30):
        sequences, forest = grown(random_tree(random.Random(seed)), least)
        starts = torch.tensor([0, *forest.lengths]).cumsum(0).tolist()
        row = [None] * forest.tokens
        for sequence, path in zip(sequences, forest.paths, strict=True):
            places = [
                place for segment in path for place in range(starts[segment], starts[segment + 1])
            ]
            assert len(places) == len(sequence)
            assert [forest.parents[segment] for segment in path] == [-1, *path[:-1]]
            for place, token in zip(places, sequence, strict=True):
                assert row[place] in (None, token)
                row[place] = token
        assert None not in row
        if least == 1:
            assert forest.tokens == len(
                {tuple(s[: i + 1]) for s in sequences for i in range(len(s))}
            )
        for segment, end in enumerate(ends(forest.lengths, forest.parents)):
            below = [
                s for path in forest.paths if segment in path for s in path[path.index(segment) :]
            ]
            assert end == max(starts[s + 1] for s in below) and set(below) == {
                s for s in below if starts[s] < end
            }


def test_budget_cuts_trees_and_keeps_everything():
    rng = random.Random(2)
    samples = deep_tree(rng) + ragged_groups(rng)
    read = {id: len(s.token_ids) - 1 for id, s in enumerate(samples)}
    for budget in (1, 40, 75, 200):
        batches = pack(samples, max_tokens=budget, layout="shared")
        assert sorted(index for batch in batches for index in batch.order) == sorted(read)
        for batch in batches:
            assert len(batch.token_ids) <= budget or len(batch.order) == 1
            for number, index in enumerate(batch.order):
                mine = batch.row == number
                wanted = [
                    (i - 1, s)
                    for i, s in enumerate(samples[index].token_ids)
                    if samples[index].mask[i]
                ]
                assert (
                    list(
                        zip(
                            batch.positions[batch.source[mine]].tolist(),
                            batch.target[mine].tolist(),
                            strict=True,
                        )
                    )
                    == wanted
                )


def test_micro_batches_are_balanced():
    rng = random.Random(0)
    samples = [
        sample(i, rng, words(rng, 1), words(rng, n))
        for i, n in enumerate((90, 60, 50, 40, 30, 20, 10))
    ]
    sizes = sorted(len(batch.token_ids) for batch in pack(samples, max_tokens=160))
    assert sum(sizes) == 300 and len(sizes) == 2 and sizes[1] - sizes[0] <= 20


def siblings_see_each_other(monkeypatch):
    """Every segment below a root reads what stands before it in the row, as a mask of mere order would have it."""
    plan = attention._plan

    def wrong(lengths, parents):
        return [
            run._replace(above=tuple(range(at))) if run.above else run
            for at, run in enumerate(plan(lengths, parents))
        ]

    monkeypatch.setattr(attention, "_plan", wrong)


def ancestors_forgotten(monkeypatch):
    plan = attention._plan
    monkeypatch.setattr(
        attention,
        "_plan",
        lambda *forest: [run._replace(above=run.above[-1:]) for run in plan(*forest)],
    )


@pytest.mark.parametrize("plant", [siblings_see_each_other, ancestors_forgotten])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_a_wrong_mask_is_noticed_at_first_use(monkeypatch, plant, dtype):
    samples = [
        sample(i, random.Random(i), words(random.Random(9), 20), words(random.Random(i), 8))
        for i in range(6)
    ]
    samples = deep_tree(random.Random(0)) + samples
    _, want, _ = step(samples, dtype=dtype, layout="packed")
    plant(monkeypatch)
    with pytest.warns(
        UserWarning, match="the shared layout is left out: its log-probabilities differ"
    ):
        _, got, learner = step(samples, dtype=dtype, layout="auto")
    assert learner.layout == "packed"
    assert torch.equal(got, want)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_a_right_mask_is_no_alarm(dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        _, _, learner = step(
            deep_tree(random.Random(0)), dtype=dtype, layout="auto", micro_batch_tokens=100
        )
    assert learner.layout == "auto" and learner._layout_checked


@pytest.mark.parametrize(
    "rules",
    [(None, 0.0, None, None), (0.3, 0.0, 6, None), (None, 0.0, None, 2.0), (None, 0.0, 4, 2.0)],
)
def test_the_rule_given_to_flex_attention_is_the_same(monkeypatch, rules):
    """FlexAttention's own CPU forward, not compiled: what a GPU compiles is this rule."""
    from torch.nn.attention.flex_attention import flex_attention

    monkeypatch.setattr(attention_cuda, "_compiled", lambda: flex_attention)
    forests = [grown(random_tree(random.Random(seed)), 1)[1] for seed in (0, 1)]
    forest, rules = join(forests), attention.Rules(*rules)
    g = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, heads, forest.tokens, 16, generator=g) for heads in (4, 2, 2)
    )
    want = attention._by_segment(
        query, key, value, attention._plan(forest.lengths, forest.parents), rules
    )
    got = attention_cuda.flex(query, key, value, forest.lengths, forest.parents, rules)
    assert (got - want).abs().max() < 1e-5
    plain = attention._plan(forest.lengths, (-1,) * len(forest.lengths))
    assert (attention._by_segment(query, key, value, plain, rules) - want).abs().max() > 1e-2
