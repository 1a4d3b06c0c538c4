"""Emulated fine-tuning (arXiv 2310.12962) in the transformers back end: the published numbers, and transformers as reference."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import rollout_reference as ref
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from rlcore.errors import EngineError, RlcoreError
from rlcore.recipe.check import check
from rlcore.recipe.load import load
from rlcore.rollout.engine import generate
from rlcore.rollout.hf import HfEngine

LARGE, TUNED, SMALL = (0.5, 0.3, 0.2), (0.2, 0.6, 0.2), (0.4, 0.4, 0.2)
FIRST = len(ref.SPECIAL)
"""Token of the first of the three outcomes."""


def constant_model(path: Path, probabilities: Sequence[float]) -> Path:
    """A model whose next token is one of three, with these probabilities behind any text."""
    ref.make_model(path, "qwen2", tied=False)
    model = AutoModelForCausalLM.from_pretrained(path)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                weight.zero_()
        model.get_input_embeddings().weight.fill_(1.0)
        model.model.norm.weight.fill_(1.0)
        head = model.get_output_embeddings().weight
        head.zero_()
        head[:, 0] = -40.0
        head[FIRST : FIRST + 3, 0] = torch.tensor(probabilities).log()
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("three")
    models = {"large": LARGE, "tuned": TUNED, "small": SMALL}
    return {name: str(constant_model(folder / name, of)) for name, of in models.items()}


def distribution(engine: HfEngine, count: int = 1500) -> list[float]:
    """Of the first token, by the log-probabilities that the engine records; how often each is drawn agrees with them."""
    request = ref.requests([[7, 8, 9]], max_tokens=1)[0]
    asked = [replace(request, id=str(i), seed=i) for i in range(count)]
    done = generate(engine, asked, 60)
    recorded = {c.token_ids[0] - FIRST: math.exp(c.logprobs[0]) for c in done}
    drawn = Counter(c.token_ids[0] - FIRST for c in done)
    for token, probability in recorded.items():
        deviation = math.sqrt(probability * (1 - probability) / count)
        assert abs(drawn[token] / count - probability) < 4 * deviation
    return [recorded[token] for token in range(3)]


def mixture(three: dict[str, str], factor: float, policy: str = "large", **paths: str) -> list[float]:
    named = {"tuned": three["tuned"], "base": three["small"], **paths}
    engine = HfEngine(three[policy], max_length=64, differences=[{**named, "factor": factor}])
    return distribution(engine)


@pytest.mark.parametrize(
    ("factor", "want"),
    [(1.0, (0.278, 0.5, 0.222)), (0.0, (0.5, 0.3, 0.2)), (0.5, (0.384, 0.399, 0.217)), (2.0, (0.125, 0.675, 0.2))],
)
def test_the_published_distribution(three: dict[str, str], factor: float, want: tuple[float, ...]) -> None:
    assert mixture(three, factor) == pytest.approx(want, abs=6e-4)


def test_its_two_ends(three: dict[str, str]) -> None:
    """Policy = base gives the tuned model, tuned = base gives the policy."""
    assert mixture(three, 1.0, policy="small") == pytest.approx(TUNED, abs=1e-5)
    assert mixture(three, 1.0, tuned=three["small"]) == pytest.approx(LARGE, abs=1e-5)


def test_two_differences_are_mixed(three: dict[str, str]) -> None:
    """Each with its own factor; the base that they share is read once."""
    differences = [
        {"tuned": three["tuned"], "base": three["small"], "factor": 0.5},
        {"tuned": three["large"], "base": three["small"], "factor": 0.25},
    ]
    engine = HfEngine(three["large"], max_length=64, differences=differences)
    logits = [
        math.log(large) + 0.5 * (math.log(tuned) - math.log(small)) + 0.25 * (math.log(large) - math.log(small))
        for large, tuned, small in zip(LARGE, TUNED, SMALL, strict=True)
    ]
    total = sum(map(math.exp, logits))
    assert distribution(engine) == pytest.approx([math.exp(value) / total for value in logits], abs=1e-5)
    assert len(engine._reader._models) == 4


# models that read their context ---------------------------------------------------------------


@pytest.fixture(scope="module")
def trio(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The large model of the other tests, and two small ones of other sizes; one has rows of padding in its head."""
    folder = tmp_path_factory.mktemp("trio")
    paths = [model_path]
    for seed, (name, rows) in enumerate((("tuned", len(ref.CHARS) + 9), ("base", len(ref.CHARS))), start=1):
        config = AutoConfig.for_model(
            "qwen2", vocab_size=rows, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=512, initializer_range=0.3, eos_token_id=1, pad_token_id=0,
            bos_token_id=2,
        )  # fmt: skip
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / name)
        ref.make_tokenizer().save_pretrained(folder / name)
        paths.append(folder / name)
    return paths


def mixed_engine(trio: list[Path], **settings: object) -> HfEngine:
    _, tuned, base = map(str, trio)
    return HfEngine(trio[0], max_length=512, differences=[{"tuned": tuned, "base": base, "factor": 1.5}], **settings)


def reference_logprobs(trio: list[Path], ids: list[int], start: int, temperature: float) -> torch.Tensor:
    """Of the tokens from `start` on, by whole forwards of transformers in float64."""
    parts = []
    for path in trio:
        model = AutoModelForCausalLM.from_pretrained(path).double()
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, start - 1 : -1, : len(ref.CHARS)]
        parts.append(logits.log_softmax(-1))
    large, tuned, base = parts
    mixed = (large + 1.5 * (tuned - base)) / temperature
    return mixed.log_softmax(-1).gather(1, torch.tensor(ids[start:])[:, None])[:, 0]


def test_recorded_log_probabilities_are_those_of_the_mixture(trio: list[Path]) -> None:
    """Prompts of different length, rows that leave the batch early, and a temperature."""
    asked = ref.requests(ref.prompts(6, (3, 17, 40)), temperature=0.7, ignore_eos=False, max_tokens=12)
    done = generate(mixed_engine(trio), asked, 60)
    for request, completion in zip(asked, done, strict=True):
        ids = [*request.prompt_ids, *completion.token_ids]
        expected = reference_logprobs(trio, ids, len(request.prompt_ids), 0.7)
        torch.testing.assert_close(torch.tensor(completion.logprobs).double(), expected, atol=2e-4, rtol=0)
    in_waves = generate(mixed_engine(trio, max_sequences=4), asked[::-1], 60)[::-1]
    assert [c.token_ids for c in done] == [c.token_ids for c in in_waves]


def test_new_weights_are_those_of_the_policy_alone(trio: list[Path]) -> None:
    """`load` in the middle of a completion moves the policy and not the models beside it; proof of sync is of the policy."""
    engine, alone = mixed_engine(trio), HfEngine(trio[0], max_length=512)
    [request] = ref.requests(ref.prompts(1, (9,)), max_tokens=6)
    engine.submit([request])
    done = engine.poll(0.0)
    moved = AutoModelForCausalLM.from_pretrained(trio[0])
    with torch.no_grad():
        for weight in moved.parameters():
            weight.mul_(1.1)
    weights = list(moved.named_parameters())
    for each in (engine, alone):
        each.load(weights, 1)
    while not done:
        done = engine.poll(1.0)
    assert engine.fingerprint() == alone.fingerprint()
    assert engine.score([[5, 6, 7, 8]]) == alone.score([[5, 6, 7, 8]])
    ids = [*request.prompt_ids, *done[0].token_ids]
    changed = done[0].versions.index(1)
    folder = trio[1].parent / "moved"
    moved.save_pretrained(folder)
    expected = reference_logprobs([folder, *trio[1:]], ids, len(request.prompt_ids), 1.0)[changed:]
    torch.testing.assert_close(torch.tensor(done[0].logprobs).double()[changed:], expected, atol=2e-4, rtol=0)


def test_another_vocabulary_is_refused(trio: list[Path], tmp_path: Path) -> None:
    large, tuned, base = map(str, trio)
    other = tmp_path / "other"
    shutil.copytree(tuned, other)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(other)
    tokenizer.add_tokens(["one_more"])
    tokenizer.save_pretrained(other)
    with pytest.raises(EngineError, match=r"engine.differences: .*other has another vocabulary than the policy \('one_more'"):
        HfEngine(large, max_length=64, differences=[{"tuned": str(other), "base": base}])


RECIPE = """
name: emulated
model: {{path: {0}}}
engine: {{use: hf, max_length: 48, differences: [{{tuned: {1}, base: {2}}}]}}
tasks:
  sums: {{use: arithmetic, size: 4, max_number: 4, terms: [2]}}
sampling: {{max_tokens: 4}}
rewards: [{{use: exact}}]
stages:
  - {{kind: eval, tasks: sums}}
  - {{kind: sample, tasks: sums, num_samples: 2}}
run: {{folder: {3}}}
"""


def test_eval_and_sample_stages_write_with_it(trio: list[Path], tmp_path: Path) -> None:
    from rlcore.run.driver import train
    from rlcore.run.folder import read_rows

    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(*trio, tmp_path / "runs"))
    train(load(str(path)))
    rows = read_rows(tmp_path / "runs/emulated/samples/sample/rank0.jsonl")
    assert len(rows) == 8
    for row in rows:
        start = row["mask"].index(1)
        parts = []
        for folder in trio:
            model = AutoModelForCausalLM.from_pretrained(folder).double()
            with torch.no_grad():
                logits = model(torch.tensor([row["token_ids"]])).logits[0, start - 1 : -1, : len(ref.CHARS)]
            parts.append(logits.log_softmax(-1))
        mixed = (parts[0] + parts[1] - parts[2]).log_softmax(-1)
        expected = mixed.gather(1, torch.tensor(row["token_ids"][start:])[:, None])[:, 0]
        assert row["logprobs"][start:] == pytest.approx(expected.tolist(), abs=2e-4)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["stages=[{kind: rl, tasks: sums, steps: 1}]"], "an rl stage learns from its own policy's"),
        (["engine.differences=[{tuned: ./nowhere, base: ./nowhere}]"], "engine: there is no model at './nowhere'"),
        (["engine.differences=[{tuned: nowhere}]"], "the parameter 'differences'"),
        (["engine.differences=[{tuned: a, base: b, beta: 1.0}]"], "the parameter 'differences'"),
        (["engine.use=vllm_local"], "has no parameter 'differences'"),
    ],
)
def test_what_it_cannot_do_is_one_sentence(trio: list[Path], tmp_path: Path, overrides: list[str], said: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(*trio, tmp_path / "runs"))
    with pytest.raises(RlcoreError) as error:
        check(load(str(path), overrides))
    assert said in str(error.value)
