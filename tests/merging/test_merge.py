"""What is made of several models: each rule against numpy, identities bit for bit, and what does not fit together."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlcore import weight_files
from rlcore.errors import ModelError, RecipeError, RunError
from rlcore.learner.policy import load_policy
from rlcore.merging.merge import merge
from rlcore.merging.rules import dare, ema, linear, mean, residual, task_arithmetic, ties, twin
from rlcore.merging.weights import metric_weights
from rlcore.run.merged import plain_rule

CONFIG = {
    "model_type": "qwen2", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 64, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four models with other weights; the biases are random too."""
    folders = []
    for seed in range(4):
        policy = load_policy(config=CONFIG, tokenizer="bytes", dtype="float32", seed=seed)
        folder = tmp_path_factory.mktemp("models") / f"model{seed}"
        policy.save(folder)
        draw = torch.Generator().manual_seed(seed)
        weights = {name: torch.randn(value.shape, generator=draw) for name, value in weights_of(folder).items()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        folders.append(folder)
    return folders


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def merged(tmp_path: Path, sources: list[Path], rule, base: Path | None = None) -> dict[str, torch.Tensor]:
    folder = tmp_path / f"merged{len(list(tmp_path.iterdir()))}"
    merge(sources, folder, rule, base=base)
    return weights_of(folder)


def arrays(folders: list[Path], name: str) -> list[np.ndarray]:
    return [weights_of(folder)[name].numpy().astype(np.float64) for folder in folders]


def numpy_ties(vectors: list[np.ndarray], density: float) -> np.ndarray:
    """Number by number, from the paper's algorithm 1."""
    kept = []
    for vector in vectors:
        count = max(1, round(density * vector.size))
        least = np.sort(np.abs(vector).ravel())[-count]
        kept.append(np.where(np.abs(vector) >= least, vector, 0.0))
    out = np.zeros_like(vectors[0])
    for place in np.ndindex(out.shape):
        values = [vector[place] for vector in kept]
        sign = math.copysign(1, sum(values))
        chosen = [value for value in values if value * sign > 0]
        out[place] = sum(chosen) / len(chosen) if chosen else 0.0
    return out


@pytest.mark.parametrize(
    ("rule", "reference"),
    [
        (mean(), lambda x, b: sum(x) / 3),
        (linear([0.5, 0.7, -0.2]), lambda x, b: 0.5 * x[0] + 0.7 * x[1] - 0.2 * x[2]),
        (ema(0.2), lambda x, b: 0.64 * x[0] + 0.16 * x[1] + 0.2 * x[2]),
        (ema(0.2, bias_correction=True), lambda x, b: (0.64 * x[0] + 0.8 * x[1] + x[2]) / 2.44),
    ],
)
def test_averages(tmp_path, models, rule, reference):
    made = merged(tmp_path, models[:3], rule)
    for name, value in made.items():
        assert np.abs(value.numpy() - reference(arrays(models[:3], name), None)).max() < 1e-6


def test_differences_to_a_base(tmp_path, models):
    *sources, base = models[:3]
    made = merged(tmp_path, sources, task_arithmetic(0.3), base=base)
    trimmed = merged(tmp_path, sources, ties(density=0.4, scale=0.9), base=base)
    kept = merged(tmp_path, sources, residual(0.5), base=base)
    for name, value in made.items():
        a, b, start = arrays(models[:3], name)
        assert np.abs(value.numpy() - (start + 0.3 * (a - start + b - start))).max() < 1e-6
        expected = start + 0.9 * numpy_ties([a - start, b - start], 0.4)
        assert np.abs(trimmed[name].numpy() - expected).max() < 1e-6
        assert np.abs(kept[name].numpy() - (a + 0.5 * (b - start))).max() < 1e-6


def test_dare_keeps_the_mean_and_the_share(tmp_path, models):
    source, base = models[:2]
    made = merged(tmp_path, [source], dare(density=0.25, seed=3), base=base)
    again = merged(tmp_path, [source], dare(density=0.25, seed=3), base=base)
    other = merged(tmp_path, [source], dare(density=0.25, seed=4), base=base)
    kept = total = 0
    for name, value in made.items():
        one, start = arrays([source, base], name)
        moved = value.numpy() - start
        is_kept = np.abs(moved) > 1e-6
        assert np.abs((moved - (one - start) * 4)[is_kept]).max(initial=0) < 1e-5
        assert value.equal(again[name])
        kept += is_kept.sum()
        total += is_kept.size
    assert abs(kept / total - 0.25) < 4 * math.sqrt(0.25 * 0.75 / total)
    assert any(not value.equal(other[name]) for name, value in made.items())


@pytest.mark.parametrize("rule", [mean(), ema(), ema(0.3, bias_correction=True), linear([1.0])])
def test_one_model_is_itself(tmp_path, models, rule):
    assert same(merged(tmp_path, models[:1], rule), weights_of(models[0]))


def test_a_model_four_times_is_itself(tmp_path, models):
    assert same(merged(tmp_path, models[:1] * 4, mean()), weights_of(models[0]))


@pytest.mark.parametrize(
    "rule", [residual(), task_arithmetic(), ties(density=1.0), dare(density=1.0)]
)
def test_without_a_difference_nothing_changes(tmp_path, models, rule):
    """No continued training gives the instruct model, and one task vector at full density its model."""
    sources = [models[1], models[0]] if rule.__qualname__.startswith("residual") else [models[0]]
    assert same(merged(tmp_path, sources, rule, base=models[1]), weights_of(models[0]))


def test_mean_of_means_and_order(tmp_path, models):
    halves = []
    for number, pair in enumerate([models[:2], models[2:]]):
        merge(pair, tmp_path / f"half{number}", mean())
        halves.append(tmp_path / f"half{number}")
    whole = merged(tmp_path, models, mean())
    assert all(torch.allclose(value, whole[name], atol=1e-6) for name, value in merged(tmp_path, halves, mean()).items())
    assert all(torch.allclose(value, whole[name], atol=1e-6) for name, value in merged(tmp_path, models[::-1], mean()).items())


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def test_ema_of_six_weighs_as_published():
    six = [torch.eye(6)[place] for place in range(6)]
    weights = ema(0.2)("", six, None)
    assert np.allclose(weights, [0.328, 0.082, 0.102, 0.128, 0.160, 0.200], atol=5e-4)


def test_bias_correction_takes_the_weight_of_the_start_away():
    """The oldest weighs least then, each newer one 1 / (1 - alpha) times as much, and all sum to 1."""
    six = [torch.eye(6, dtype=torch.float64)[place] for place in range(6)]
    weights = ema(0.2, bias_correction=True)("", six, None)
    powers = 0.8 ** np.arange(5, -1, -1)
    assert np.allclose(weights, powers / powers.sum(), rtol=1e-12)
    assert np.allclose(ema(1e-9, bias_correction=True)("", six, None), 1 / 6, atol=1e-6), "a small alpha is the mean"


# Twin-Merging --------------------------------------------------------------------------------


def numpy_twin(x: list[np.ndarray], b: np.ndarray, weights: list[float], rank: float) -> np.ndarray:
    """With eigenvectors of the Gram matrix in place of an SVD."""
    shared = sum(one - b for one in x) / len(x)
    out = b + shared
    for weight, one in zip(weights, x, strict=True):
        exclusive = one - b - shared
        if exclusive.ndim == 2:
            kept = math.ceil(rank * min(exclusive.shape))
            _, vectors = np.linalg.eigh(exclusive.T @ exclusive)
            top = vectors[:, ::-1][:, :kept]
            exclusive = exclusive @ top @ top.T
        out = out + weight * exclusive
    return out


def test_twin_is_shared_and_compressed_exclusive_parts(tmp_path, models):
    *sources, base = models
    made = merged(tmp_path, sources, twin([0.7, 0.0, 0.3], rank=0.3), base=base)
    for name, value in made.items():
        *x, b = arrays(models, name)
        assert np.abs(value.numpy() - numpy_twin(x, b, [0.7, 0.0, 0.3], 0.3)).max() < 1e-5, name


def test_twin_at_its_ends(tmp_path, models):
    """One weight and the full rank give that expert; rank 0, or no weight, the shared model."""
    *sources, base = models
    expert = merged(tmp_path, sources, twin([0, 1, 0], rank=1.0), base=base)
    assert same(expert, weights_of(models[1]))
    shared = merged(tmp_path, sources, task_arithmetic(1 / 3), base=base)
    for rule in (twin([0.2, 0.5, 0.3], rank=0.0), twin([0, 0, 0])):
        made = merged(tmp_path, sources, rule, base=base)
        assert all(torch.allclose(value, shared[name], atol=1e-6) for name, value in made.items())
    scaled = merged(tmp_path, sources, twin([0, 0, 0], scale=0.3), base=base)
    assert same(scaled, merged(tmp_path, sources, task_arithmetic(0.3), base=base))


def test_what_twin_refuses():
    with pytest.raises(RecipeError, match="rank is 1.5"):
        twin([1.0], rank=1.5)
    with pytest.raises(RecipeError, match="is for 1 models, and there are 3"):
        plain_rule({"use": "twin", "weights": [1.0]}, 3, has_base=True)


@pytest.mark.parametrize(
    ("values", "power", "lower", "expected"),
    [
        ([1, 0.8, 0.5], 1, True, [0.235, 0.294, 0.471]),
        ([1, 0.8, 0.5], 2, True, [0.152, 0.238, 0.610]),
        ([100, 200, 300], 1, False, [0.167, 0.333, 0.5]),
        ([0.2, 0.9], 0, False, [0.5, 0.5]),
        ([0.2, 0.9], 5000, False, [0, 1]),
        ([0.0, 0.5], 1, False, [0, 1]),
    ],
)
def test_weights_by_a_number(values, power, lower, expected):
    weights = metric_weights(values, power=power, lower_is_better=lower)
    assert np.allclose(weights, expected, atol=5e-4)
    assert np.allclose(weights, metric_weights([7 * value for value in values], power=power, lower_is_better=lower))


def test_it_loads_and_keeps_tokenizer_and_type(tmp_path, models):
    halves = []
    for number, folder in enumerate(models[:2]):
        half = shutil.copytree(folder, tmp_path / f"half{number}")
        weights = {name: value.bfloat16() for name, value in weights_of(half).items()}
        save_file(weights, half / "model.safetensors", metadata={"format": "pt"})
        halves.append(half)
    merge(halves, tmp_path / "out", mean())
    assert all(value.dtype == torch.bfloat16 for value in weights_of(tmp_path / "out").values())
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in (tmp_path / "out", models[0])]
    assert tokenizers[0].get_vocab() == tokenizers[1].get_vocab()
    assert load_policy(path=str(tmp_path / "out"), dtype="float32").max_length == 64


def test_large_models_are_written_in_shards(tmp_path, models, monkeypatch):
    monkeypatch.setattr(weight_files, "FILE_BYTES", 9000)
    merge(models[:2], tmp_path / "out", mean())
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 2 and sorted(set(index["weight_map"].values())) == files
    merge([tmp_path / "out"], tmp_path / "again", mean())
    monkeypatch.undo()
    merge([tmp_path / "again"], tmp_path / "whole", mean())
    assert same(weights_of(tmp_path / "whole"), merged(tmp_path, models[:2], mean()))
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_what_does_not_fit_together(tmp_path, models):
    other = load_policy(config={**CONFIG, "num_hidden_layers": 1}, tokenizer="bytes", dtype="float32", seed=0)
    other.save(tmp_path / "one_layer")
    wide = load_policy(config={**CONFIG, "intermediate_size": 24}, tokenizer="bytes", dtype="float32", seed=0)
    wide.save(tmp_path / "wide")
    for folder, said in (("one_layer", "is in .* and not in"), ("wide", r"has the shapes \[")):
        with pytest.raises(ModelError, match=said):
            merge([models[0], tmp_path / folder], tmp_path / "out", mean())
    words = shutil.copytree(models[0], tmp_path / "words")
    tokenizer = json.loads((words / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[:2]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (words / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ModelError, match="their tokenizers differ, .* is token"):
        merge([models[0], words], tmp_path / "out", mean())
    assert not (tmp_path / "out").exists()


def test_no_folder_is_written_over_and_no_half_one_stays(tmp_path, models):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("")
    with pytest.raises(ModelError, match="is not empty"):
        merge(models[:2], tmp_path / "out", mean())

    def broken(name, tensors, base):
        raise RunError("no")

    with pytest.raises(RunError):
        merge(models[:2], tmp_path / "new", broken)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: linear([0.5, 0.6]), "sum to 1.1"),
        (lambda: ema(0), "alpha is 0"),
        (lambda: ties(density=0), "density is 0"),
        (lambda: metric_weights([0.0, 0.0]), "not all 0"),
        (lambda: metric_weights([0.5, 0.0], lower_is_better=True), "losses above 0"),
        (lambda: metric_weights([0.5, -0.1]), "at least 0"),
    ],
)
def test_parameters_that_mean_nothing(make, said):
    with pytest.raises(RecipeError, match=said):
        make()


def test_a_rule_may_go_through_the_tensors_twice(tmp_path, models):
    def spread(name, tensors, base):
        middle = sum(tensors) / len(tensors)
        return sum((tensor - middle).abs() for tensor in tensors) + tensors[0]

    for name, value in merged(tmp_path, models[:2], spread).items():
        one, two = arrays(models[:2], name)
        assert np.allclose(value.numpy(), np.abs(one - two) + one, atol=1e-6)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (lambda name, tensors, base: None, "the rule gave NoneType of"),
        (lambda name, tensors, base: tensors[0] * math.nan, "would not be finite: the rule made them"),
    ],
)
def test_what_a_rule_may_not_give(tmp_path, models, rule, said):
    with pytest.raises(ModelError, match=said):
        merge(models[:2], tmp_path / "bad", rule)
    assert not (tmp_path / "bad").exists()


def test_a_model_that_is_not_finite_is_named(tmp_path, models):
    broken = tmp_path / "broken"
    shutil.copytree(models[1], broken)
    tensors = load_file(broken / "model.safetensors")
    tensors[next(iter(tensors))].view(-1)[0] = math.nan
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="broken holds numbers that are not finite"):
        merge([models[0], broken], tmp_path / "bad", mean())


@pytest.mark.parametrize("scale", [1.0, -3.0, 1e30])
def test_a_residual_of_nothing_changes_nothing(tmp_path, models, scale):
    """The instruct model is the base: whatever the scale, the continued model is left."""
    result = merged(tmp_path, models[:2], residual(scale=scale), models[1])
    for name, value in result.items():
        assert torch.equal(value, weights_of(models[0])[name])


def test_adapters_are_merged_matrix_by_matrix(tmp_path):
    """The mean of A and of B is not the mean of B A, unless all A are equal; each is as documented."""
    folders = []
    for seed in range(2):
        settings = {"type": "lora", "r": 2, "target_modules": ["q_proj"]}
        policy = load_policy(config=CONFIG, tokenizer="bytes", dtype="float32", seed=seed, peft=settings)
        for parameter in policy.module.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter)
        policy.adapter.save(tmp_path / f"adapter{seed}")
        folders.append(tmp_path / f"adapter{seed}")
    merge(folders, tmp_path / "out", mean())
    parts = [load_file(folder / "adapter_model.safetensors") for folder in [*folders, tmp_path / "out"]]
    assert all(torch.allclose(parts[2][name], (parts[0][name] + parts[1][name]) / 2) for name in parts[2])
    config = json.loads((folders[1] / "adapter_config.json").read_text())
    (folders[1] / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 99}))
    with pytest.raises(ModelError, match="lora_alpha"):
        merge(folders, tmp_path / "other", mean())
