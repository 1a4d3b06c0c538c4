"""The fingerprint's properties, and what publish refuses."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path

import pytest
import rollout_reference as ref
import torch
from transformers import PreTrainedModel

from rlcore.errors import PublishError
from rlcore.rollout.hf import HfEngine
from rlcore.rollout.publish import fingerprint, mix, publish, tensor_digest
from rlcore.rollout.scripted import ScriptedEngine

CANARY = list(range(5, 45))


def tensors(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(shape, generator=generator).to(dtype)
        for shape in ((40, 16), (7,), (16, 16), (8, 16))
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_order_fusion_and_padding_do_not_matter(dtype: torch.dtype) -> None:
    a, b, c, d = tensors(dtype)
    expected = fingerprint([a, b, c, d])
    assert fingerprint([c, a, d, b]) == expected
    assert fingerprint([a, b, torch.cat([c, d])]) == expected
    assert fingerprint([torch.cat([a, torch.zeros(24, 16, dtype=dtype)]), b, c, d]) == expected
    assert fingerprint([a.T, b, c, d]) == expected  # a strided view
    assert fingerprint([a, b, c]) != expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_flipped_bit_changes_it(dtype: torch.dtype) -> None:
    a = tensors(dtype)[0]
    expected = fingerprint([a])
    integers = {4: torch.int32, 2: torch.int16}[a.element_size()]
    for bit in range(8 * a.element_size()):
        changed = a.clone()
        mask = (1 << bit) - (1 << 8 * a.element_size() if bit == 8 * a.element_size() - 1 else 0)
        changed.view(integers)[3, 5] ^= mask
        assert fingerprint([changed]) != expected, bit


def test_changes_that_cancel_in_a_plain_sum_are_seen() -> None:
    a = tensors()[0]
    changed = a.clone()
    bits = changed.view(torch.int32)
    bits[0, 0] += 1
    bits[0, 1] -= 1
    assert bits.sum() == a.view(torch.int32).sum()  # what an unmixed checksum would say
    assert fingerprint([changed]) != fingerprint([a])


def test_mixing_is_one_to_one_and_keeps_zero() -> None:
    values = torch.randint(
        -(2**31), 2**31, (2_000_000,), dtype=torch.int32, generator=torch.Generator().manual_seed(4)
    ).unique()
    assert len(mix(values.clone()).unique()) == len(values)
    halved = values * -1640531535
    assert len((halved ^ (halved >> 15)).unique()) < len(
        values
    )  # arithmetic shifts would lose a bit, and this would show
    assert mix(torch.zeros(1, dtype=torch.int32)).item() == 0 and tensor_digest(torch.zeros(5)) == (
        0,
        0,
    )


def test_chunks_add_up() -> None:
    big = torch.randn(700_001, generator=torch.Generator().manual_seed(2))
    parts = [tensor_digest(part.clone()) for part in big.split(1000)]
    assert tensor_digest(big) == (
        sum(total for total, _ in parts),
        sum(nonzero for _, nonzero in parts),
    )


def test_shared_memory_counts_once_and_temporaries_each() -> None:
    a, b, *_ = tensors()
    assert fingerprint([a, b, a]) == fingerprint([a, b])
    assert fingerprint([a, a.clone()]) != fingerprint([a])
    flat = torch.cat([a.view(-1), b])
    assert fingerprint(flat.split([a.numel(), b.numel()])) == fingerprint(
        [a, b]
    )  # views of one flat buffer
    assert fingerprint(torch.full((64,), float(i)) for i in range(1, 9)) == fingerprint(
        [torch.arange(1.0, 9).repeat(64)]
    )


def test_dtype_is_that_of_the_served_weights() -> None:
    a = tensors()[0]
    assert fingerprint([a], "bfloat16") == fingerprint([a.bfloat16()]) != fingerprint([a])


def publish_to(
    engine: HfEngine | ScriptedEngine, learner: PreTrainedModel, version: int = 1, **options: object
) -> object:
    options = {
        "served_dtype": "float32",
        "score": lambda sequences: ref.score(learner, sequences),
        **options,
    }
    return publish(learner.named_parameters, engine, version, canary=[CANARY], **options)


@pytest.mark.parametrize(("arch", "tied"), [("qwen2", True), ("llama", False), ("qwen3", True)])
def test_publish_to_transformers(tmp_path: Path, arch: str, tied: bool) -> None:
    engine = HfEngine(ref.make_model(tmp_path, arch, tied), max_length=512)
    learner = ref.open_model(tmp_path)
    ref.perturb(learner, 5)
    assert engine.fingerprint() != fingerprint(learner.parameters())
    report = publish_to(engine, learner)
    assert (report.version, engine.version) == (1, 1) and report.gap_max < 1e-4
    assert report.fingerprint == engine.fingerprint() == fingerprint(learner.parameters())
    score = functools.partial(ref.score, learner)
    named_twice = publish(
        learner.state_dict().items, engine, 2, canary=[CANARY], score=score, served_dtype="float32"
    )
    assert named_twice.fingerprint == report.fingerprint


def test_publish_in_bfloat16(model_path: Path) -> None:
    learner = ref.open_model(model_path)
    ref.perturb(learner, 6)
    report = publish_to(
        HfEngine(model_path, dtype="bfloat16", max_length=512),
        learner,
        served_dtype="bfloat16",
        tolerance=0.1,
    )
    assert 1e-4 < report.gap < report.limit == 0.1


class Forgetful(HfEngine):
    """Drops one weight on the way."""

    def load(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        super().load(
            ((name, tensor) for name, tensor in weights if name != "model.norm.weight"), version
        )


class Late(HfEngine):
    """Says it serves the old version."""

    def load(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        super().load(weights, version - 1)


def test_publish_refuses(model_path: Path) -> None:
    learner = ref.open_model(model_path)
    ref.perturb(learner, 7)
    with pytest.raises(
        PublishError,
        match=r"version 3: .* as many numbers, .* fingerprint is \w+/\d+, the learner's \w+/",
    ):
        publish_to(Forgetful(model_path, max_length=512), learner, 3)
    with pytest.raises(PublishError, match="says it serves version 2"):
        publish_to(Late(model_path, max_length=512), learner, 3)
    engine = HfEngine(model_path, max_length=512)
    with pytest.raises(PublishError, match=r"canary's log-probabilities differ by 0\.5 nats a token"):
        publish_to(
            engine,
            learner,
            3,
            score=lambda sequences: [[p + 0.5 for p in ref.score(learner, sequences)[0]]],
        )
    with pytest.raises(PublishError, match="differ by nan"):
        publish_to(engine, learner, 3, score=lambda sequences: [[float("nan")] * (len(CANARY) - 1)])


def test_publish_to_a_script(model_path: Path) -> None:
    learner = ref.open_model(model_path)
    scripted = ScriptedEngine({}, score=lambda ids: ref.score(learner, [ids])[0])
    assert publish_to(scripted, learner, 4).fingerprint == fingerprint(learner.parameters())
    assert scripted.version == 4
