"""The keys of an engine are the parameters of its class, built in or in a file of the user's."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlcore.errors import RlcoreError
from rlcore.recipe.build_learner import build_engine
from rlcore.recipe.check import check
from rlcore.recipe.keys import find_keys
from rlcore.recipe.load import dump, load, validate
from rlcore.recipe.yaml_text import parse_yaml

RECIPE = """
name: engines
model: {config: {model_type: qwen2}, tokenizer: bytes}
engine: {use: hf, max_length: 64}
tasks: {train: {use: arithmetic, size: 8}}
stages:
  - {kind: rl, tasks: train, steps: 2, rewards: [{use: exact}], sampling: {max_tokens: 16}}
"""

REMOTE = '''
from rlcore.rollout.scripted import ScriptedEngine

class Remote(ScriptedEngine):
    """Completions of a server. url: where it listens."""

    def __init__(self, *, url: str, retries: int = 3, max_length: int, adapter_rank: int | None = None):
        super().__init__(lambda request: [1], max_length=max_length)
        self.url, self.retries, self.max_length = url, retries, max_length
'''


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    (tmp_path / "my_engine.py").write_text(REMOTE)
    path = tmp_path / "engines.yaml"
    path.write_text(RECIPE)
    return str(path)


def test_an_engine_in_one_file_receives_its_url(recipe: str, tmp_path: Path) -> None:
    use = f"{tmp_path}/my_engine.py:Remote"
    loaded = load(recipe, [f"engine={{use: '{use}', url: 'http://node:8000', max_length: 32}}"])
    check(loaded)
    again = validate(parse_yaml(dump(loaded)), where="dumped")
    for section in (loaded.engine, again.engine):
        engine = build_engine(section, tmp_path, dtype="float32", device="cpu")
        assert (engine.url, engine.retries, engine.max_length) == ("http://node:8000", 3, 32)


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ("{use: 'REMOTE', ur: x}", "has no parameter 'ur'; did you mean 'url'"),
        ("{use: 'REMOTE'}", "needs a value for url"),
        ("{use: 'REMOTE', url: 3}", "'url' must be a valid string"),
        ("{use: 'REMOTE', url: x, dtype: float32}", "has no parameter 'dtype'"),
        ("{use: hf, memory_gb: 1.0}", "engine 'hf' has no parameter 'memory_gb'"),
        ("{use: hf, max_lenght: 8}", "did you mean 'max_length'"),
        ("{use: vllm_local, memory: 1.0}", "did you mean 'memory_gb'"),
        ("{use: vllm_local, prefix_caching: 'no'}", "'prefix_caching' must be a valid boolean"),
    ],
)
def test_a_parameter_that_the_engine_lacks_is_an_error(
    recipe: str, tmp_path: Path, engine: str, said: str
) -> None:
    engine = engine.replace("REMOTE", f"{tmp_path}/my_engine.py:Remote")
    with pytest.raises(RlcoreError) as error:
        check(load(recipe, [f"engine={engine}"]))
    assert str(error.value).startswith("engine: ")
    assert said in str(error.value)


def test_the_parameters_of_an_engine_are_listed(tmp_path: Path, recipe: str) -> None:
    keys = {key.key: key for key in find_keys("engine.vllm_local")}
    assert {"engine.vllm_local.memory_gb", "engine.vllm_local.prefix_caching"} <= keys.keys()
    assert all(key.meaning for key in keys.values())
    assert not {"engine.vllm_local.model_folder", "engine.vllm_local.dtype"} & keys.keys()
