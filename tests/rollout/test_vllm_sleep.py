"""When vLLM is told to sleep and to wake. It cannot sleep on a CPU, so what it is told is noted and not done; on a GPU it sleeps in
`rlcore bench device`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import rollout_reference as ref
from transformers import PreTrainedModel

from rlcore.errors import EngineError
from rlcore.rollout.engine import generate

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def engine(model_path: Path) -> Iterator[object]:
    from rlcore.rollout.vllm_local import VllmEngine

    engine = VllmEngine(model_path, max_length=128, max_sequences=8)
    yield engine
    engine.close()


@pytest.fixture
def told(engine, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What vLLM is told, in order."""
    told: list[str] = []
    call = engine.vllm.collective_rpc

    def heard(method: str, *arguments: object, **keys: object) -> object:
        told.append(method)
        return call(method, *arguments, **keys)

    monkeypatch.setattr(engine.vllm, "collective_rpc", heard)
    monkeypatch.setattr(engine.vllm, "sleep", lambda level: told.append(f"sleep {level}"))
    monkeypatch.setattr(engine.vllm, "wake_up", lambda tags: told.append(f"wake {' '.join(tags)}"))
    return told


def test_weights_wake_before_they_are_loaded_and_the_cache_after(
    engine, model: PreTrainedModel, told: list[str]
) -> None:
    engine.sleep()
    engine.sleep()
    engine.load(model.named_parameters(), 1)
    loads = ["rlcore_load", "rlcore_loaded"]
    assert told == ["sleep 1", "wake weights", *loads, "wake kv_cache"]
    told.clear()
    engine.load(model.named_parameters(), 2)
    assert told == loads


def test_whatever_needs_the_engine_wakes_it(
    engine, model: PreTrainedModel, told: list[str]
) -> None:
    engine.load(model.named_parameters(), 3)
    told.clear()
    asked = ref.requests(ref.prompts(2, (20,)), "s", max_tokens=8)
    for use in (
        lambda: generate(engine, asked, 60),
        lambda: engine.score([[3, 4, 5]]),
        engine.fingerprint,
    ):
        engine.sleep()
        use()
        assert told[:2] == ["sleep 1", "wake weights kv_cache"]
        told.clear()


def test_an_engine_with_requests_does_not_go_to_sleep(engine, told: list[str]) -> None:
    asked = ref.requests(ref.prompts(1, (20,)), "busy", max_tokens=32)
    engine.submit(asked)
    with pytest.raises(EngineError, match="1 requests are under way"):
        engine.sleep()
    engine.abort([request.id for request in asked])
    assert [completion.finish for completion in engine.poll(1.0)] == ["aborted"]
    engine.sleep()
    assert told == ["sleep 1"]
