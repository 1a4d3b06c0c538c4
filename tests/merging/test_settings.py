"""Models and adapters of equal shapes that compute differently are not merged."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rlcore.errors import ModelError
from rlcore.learner.policy import load_policy
from rlcore.merging.merge import merge
from rlcore.merging.rules import ema, linear, mean

CONFIG = {
    "model_type": "llama", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 4, "head_dim": 4, "max_position_embeddings": 64, "tie_word_embeddings": True,
}  # fmt: skip
ROPE = {"rope_type": "default", "rope_theta": 500000.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "one"
    load_policy(config=CONFIG, tokenizer="bytes", dtype="float32", seed=0).save(folder)
    return folder


@pytest.mark.parametrize(
    "change, said",
    [
        ({"model_type": "mistral"}, "model_type is llama and mistral"),
        ({"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}, "num_attention_heads is 4 and 2"),
        ({"rope_parameters": ROPE}, "rope_parameters is "),
        ({"rms_norm_eps": 0.1}, "rms_norm_eps is 1e-06 and 0.1"),
    ],
)
def test_models_of_equal_shapes(tmp_path: Path, model: Path, change: dict, said: str) -> None:
    other = tmp_path / "other"
    shutil.copytree(model, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match=re.escape(f"cannot be merged: {said}")):
        merge([model, other], tmp_path / "merged", mean())
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    "change, refused",
    [({"alpha_pattern": {"a": 64}}, True), ({"fan_in_fan_out": True}, True), ({"alpha_pattern": {}}, False)],
)
def test_adapters_of_equal_shapes(tmp_path: Path, change: dict, refused: bool) -> None:
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["a"]}
    for name, own in (("one", {}), ("other", change)):
        (tmp_path / name).mkdir()
        save_file({"a.lora_A.weight": torch.ones(2, 4)}, tmp_path / name / "adapter_model.safetensors")
        (tmp_path / name / "adapter_config.json").write_text(json.dumps(settings | own))
    sources = [tmp_path / "one", tmp_path / "other"]
    if refused:
        with pytest.raises(ModelError, match=next(iter(change))):
            merge(sources, tmp_path / "merged", mean())
    else:
        merge(sources, tmp_path / "merged", mean())
        assert (tmp_path / "merged/adapter_model.safetensors").is_file()


@pytest.mark.parametrize("bases", ["same", "moved", "unnamed", "tuned", "gone"])
def test_adapters_of_another_base_are_refused(tmp_path: Path, bases: str) -> None:
    for name, value in (("base", 1.0), ("moved", 1.0), ("tuned", 2.0)):
        (tmp_path / name).mkdir()
        save_file({"weight": torch.full((2,), value)}, tmp_path / name / "model.safetensors")
    second = {"same": "base", "unnamed": None}.get(bases, bases)
    for name, base in (("one", "base"), ("other", second)):
        (tmp_path / name).mkdir()
        save_file({"a.lora_A.weight": torch.ones(2, 4)}, tmp_path / name / "adapter_model.safetensors")
        settings = {"r": 2, "base_model_name_or_path": base and str(tmp_path / base)}
        (tmp_path / name / "adapter_config.json").write_text(json.dumps(settings))
    sources = [tmp_path / "one", tmp_path / "other"]
    if bases in ("tuned", "gone"):
        with pytest.raises(ModelError, match=f"trained on .*base and one on .*{bases}; if these are the same model"):
            merge(sources, tmp_path / "merged", mean())
        assert not (tmp_path / "merged").exists()
    else:
        merge(sources, tmp_path / "merged", mean())


@pytest.mark.parametrize("rule", [mean(), linear([1.0]), ema()])
def test_one_tensor_is_itself_with_its_signs_of_zero(rule) -> None:
    stored = torch.tensor([-0.0, 0.0, -1.5, 3e-39])
    result = rule("weight", iter([stored]), None).float()
    assert torch.equal(result.view(torch.int32), stored.view(torch.int32))
