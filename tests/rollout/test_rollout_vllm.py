"""A real vLLM engine against transformers: tokens, log-probabilities, and the weights it serves."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import rollout_reference as ref
import torch
from scipy import stats
from transformers import PreTrainedModel

from rlcore.errors import EngineError, PublishError
from rlcore.rollout.collector import Resample, collect, numbered
from rlcore.rollout.engine import generate
from rlcore.rollout.hf_draw import Settings, truncate
from rlcore.rollout.prompt import PromptEncoder
from rlcore.rollout.publish import LEAST_LIMIT, canary_gap, fingerprint, publish
from rlcore.rollout.vllm_local import VllmEngine
from rlcore.types import Completion, Rollout, Sampling, Task, Verdict

pytestmark = pytest.mark.vllm
CANARY = list(range(5, 45))


@pytest.fixture(scope="module")
def shared_engine(model_path: Path) -> Iterator[VllmEngine]:
    # As bm25s does, for one. vLLM's search for its kernels used to fail on it, and the start with it.
    importlib.import_module("llvmlite.binding.ffi")
    engine = VllmEngine(model_path, max_length=512, max_sequences=32)
    yield engine
    engine.close()


@pytest.fixture
def engine(shared_engine: VllmEngine, model: PreTrainedModel) -> VllmEngine:
    """The module's engine, with the weights of the folder."""
    shared_engine.load(model.named_parameters(), 0)
    return shared_engine


@pytest.fixture
def learner(model_path: Path) -> PreTrainedModel:
    return ref.open_model(model_path)


def publish_to(engine: VllmEngine, learner: PreTrainedModel, version: int) -> None:
    publish(
        learner.named_parameters,
        engine,
        version,
        canary=[CANARY],
        score=lambda sequences: ref.score(learner, sequences),
        served_dtype="float32",
    )


def greedy_right(engine: VllmEngine, model: PreTrainedModel, name: str) -> int:
    """How many of 6 answers to prompts of several cache blocks equal transformers'."""
    asked = ref.requests(ref.prompts(6, (300,)), name, temperature=0.0, max_tokens=16)
    written = generate(engine, asked, 120)
    return sum(
        c.token_ids == ref.greedy(model, r.prompt_ids, 16)
        for r, c in zip(asked, written, strict=True)
    )


def engine_model(engine: VllmEngine) -> torch.nn.Module:
    return engine._engine.apply_model(lambda model: model)[0]


@pytest.mark.parametrize("truncation", [{}, {"top_k": 7}, {"top_p": 0.7}])
def test_logprobs_equal_transformers(
    engine: VllmEngine, model: PreTrainedModel, truncation: dict[str, float]
) -> None:
    asked = ref.requests(ref.prompts(6, (3, 140, 40)), temperature=0.8, **truncation)
    for request, completion in zip(asked, generate(engine, asked, 120), strict=True):
        logits = (
            ref.next_logits(model, request.prompt_ids + completion.token_ids)[
                len(request.prompt_ids) - 1 : -1
            ]
            / 0.8
        )
        kept = _outside(logits, **truncation)
        tokens = torch.tensor(completion.token_ids)[:, None]
        expected = logits.masked_fill(kept, -torch.inf).log_softmax(-1).gather(1, tokens)[:, 0]
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-4, rtol=0)


def _outside(logits: torch.Tensor, top_k: int = 0, top_p: float = 1.0) -> torch.Tensor:
    order = logits.argsort(-1, descending=True)
    ranks = order.argsort(-1)
    probabilities = logits.softmax(-1)
    before = (probabilities.gather(1, order).cumsum(-1) - probabilities.gather(1, order)).gather(
        1, ranks
    )
    return (ranks >= (top_k or logits.shape[1])) | (before >= top_p)


def test_scores_equal_transformers(engine: VllmEngine, model: PreTrainedModel) -> None:
    sequences = [*ref.prompts(3, (2, 130, 300)), [7]]
    for ours, expected in zip(
        [s.logprobs for s in engine.score(sequences)], ref.score(model, sequences), strict=True
    ):
        assert ours == pytest.approx(expected, abs=1e-4)
    with pytest.raises(EngineError, match="at most 511 tokens here and sequence 1 has 512"):
        engine.score([[7], [7] * 512])


def test_loads_reach_the_answers(engine: VllmEngine, learner: PreTrainedModel) -> None:
    assert greedy_right(engine, learner, "before") == 6
    for version in (1, 2, 3):
        ref.perturb(learner, version)
        publish_to(engine, learner, version)
        assert greedy_right(engine, learner, f"v{version}.") == 6


def test_a_kept_prefix_cache_would_be_noticed(
    engine: VllmEngine, learner: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted mistake: prompts of several blocks are answered from keys and values of the old weights."""
    assert greedy_right(engine, learner, "before") == 6
    monkeypatch.setattr(engine._engine, "reset_prefix_cache", lambda **_: True)
    ref.perturb(learner, 1)
    engine.load(learner.named_parameters(), 1)
    assert greedy_right(engine, learner, "stale") < 3
    monkeypatch.undo()
    engine.load(learner.named_parameters(), 2)
    assert greedy_right(engine, learner, "fresh") == 6


@contextmanager
def corrupting(engine: VllmEngine, damage: Callable[[torch.nn.Module], None]) -> Iterator[None]:
    """Every load is followed by the damage, before anybody checks."""
    load = engine.load

    def damaged(weights: object, version: int) -> None:
        load(weights, version)
        damage(engine_model(engine))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "load", damaged)
        yield


def test_a_corrupt_raw_weight_is_found_by_the_fingerprint(
    engine: VllmEngine, learner: PreTrainedModel
) -> None:
    with corrupting(
        engine, lambda model: model.model.layers[1].mlp.gate_up_proj.weight.data[3, 5].add_(1e-6)
    ):
        with pytest.raises(
            PublishError,
            match=r"version 1: .* as many numbers, .* fingerprint is \w+/\d+.*, the learner's \w+/",
        ):
            publish_to(engine, learner, 1)


def test_a_corrupt_packed_weight_is_found_by_both_checks(
    engine: VllmEngine, learner: PreTrainedModel
) -> None:
    def halve(model: torch.nn.Module) -> None:
        layer = model.model.layers[0].self_attn.qkv_proj
        packed = layer.cpu_linear
        layer.cpu_linear = lambda x, weight, bias: 0.5 * packed(x, weight, bias)

    if not hasattr(engine_model(engine).model.layers[0].self_attn.qkv_proj, "cpu_linear"):
        pytest.skip("this vLLM packs nothing: it is not the CPU build")
    with corrupting(engine, halve):
        with pytest.raises(
            PublishError, match=r"1 packed copies, first of \S+qkv_proj, hold other weights"
        ):
            publish_to(engine, learner, 1)
        served = [scored.logprobs for scored in engine.score([CANARY])]
        gap, _ = canary_gap(served, ref.score(learner, [CANARY]))
        assert gap > LEAST_LIMIT
    publish_to(engine, learner, 2)


def test_prefix_is_continued(engine: VllmEngine) -> None:
    (whole,) = generate(engine, ref.requests(ref.prompts(1, (20,)), temperature=0.0), 60)
    (request,) = ref.requests(ref.prompts(1, (20,)), temperature=0.0, max_tokens=14)
    (rest,) = generate(engine, [replace(request, prefix_ids=whole.token_ids[:10])], 60)
    assert rest.token_ids == whole.token_ids[10:]


def test_seeds_decide(engine: VllmEngine, model: PreTrainedModel) -> None:
    asked = ref.requests(ref.prompts(6, (12,)))
    first = generate(engine, asked, 60)
    engine.load(model.named_parameters(), 0)
    assert generate(engine, asked, 60) == first
    assert [c.token_ids for c in generate(engine, asked[::-1], 60)[::-1]] == [
        c.token_ids for c in first
    ]
    others = generate(engine, [replace(request, seed=request.seed + 50) for request in asked], 60)
    assert all(a.token_ids != b.token_ids for a, b in zip(first, others, strict=True))


def test_first_tokens_of_many_seeds_follow_the_distribution(
    engine: VllmEngine, model: PreTrainedModel
) -> None:
    prompt = ref.prompts(1, (12,))[0]
    count, temperature = 3_000, 0.8
    request = ref.requests([prompt], temperature=temperature, max_tokens=1)[0]
    asked = [replace(request, id=f"seed-{i}", seed=i) for i in range(count)]
    tokens = torch.tensor([c.token_ids[0] for c in generate(engine, asked, 120)])
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, -1]

    def p_value(temperature: float) -> float:
        expected = count * (logits / temperature).softmax(-1)
        common = expected >= 10
        seen = tokens.bincount(minlength=len(logits))
        return float(
            stats.chisquare(
                [*seen[common].tolist(), int(seen[~common].sum())],
                [*expected[common].tolist(), float(expected[~common].sum())],
                sum_check=False,
            ).pvalue
        )

    assert p_value(temperature) > 1e-3
    assert p_value(temperature + 0.2) < 1e-6  # a slightly wrong distribution is far out


def test_completions_stream_and_aborts_give_back_what_was_written(engine: VllmEngine) -> None:
    short = [
        replace(r, sampling=Sampling(max_tokens=4, ignore_eos=True))
        for r in ref.requests(ref.prompts(2, (9,)), "short")
    ]
    long = ref.requests(ref.prompts(2, (9,)), "long", max_tokens=400)
    whole = {c.request_id: c for c in generate(engine, long, 120)}
    engine.submit([*long, *short])
    assert sorted(c.request_id for c in engine.poll(60.0)) == ["short0", "short1"]
    for _ in range(5):
        assert engine.poll(0.0) == []  # no time: one step a poll
    engine.abort(["long0", "unknown"])
    (partial,) = engine.poll(0.0)
    assert (partial.request_id, partial.finish) == ("long0", "aborted")
    assert (
        partial.token_ids == whole["long0"].token_ids[: len(partial.token_ids)]
        and 9 <= len(partial.token_ids) < 20
    )
    assert partial.logprobs == pytest.approx(
        whole["long0"].logprobs[: len(partial.logprobs)], abs=1e-4
    )
    assert _drain(engine, 1)["long1"].token_ids == whole["long1"].token_ids


class ParityScorer:
    """1 for an answer whose first token is even."""

    def __init__(self) -> None:
        self._ready: list[tuple[str, list[Verdict]]] = []

    def submit(self, key: str, task: Task, rollouts: list[Rollout]) -> None:
        self._ready.append(
            (
                key,
                [Verdict(value=float(rollout.completion_ids[0] % 2 == 0)) for rollout in rollouts],
            )
        )

    def check_progress(self) -> None:
        pass

    def poll(self, timeout_s: float) -> list[tuple[str, list[Verdict]]]:
        ready, self._ready = self._ready, []
        return ready


def test_a_gate_is_refilled_while_others_write_and_the_rest_is_aborted(engine: VllmEngine) -> None:
    further = iter(Task(id=f"more{i}", prompt=f"{i}+2=") for i in range(1000))
    counter = itertools.count(1)
    resample = Resample(
        accepts=lambda group: len({v.value for v in group.verdicts}) > 1,
        draw_replacements=lambda n: numbered([next(further) for _ in range(n)], first=next(counter) * 1000),
        oversubmit=2.0,
    )
    found = collect(
        [Task(id=f"t{i}", prompt=f"{i}+1=") for i in range(6)], engine=engine, encoder=PromptEncoder(ref.make_tokenizer()),
        scorer=ParityScorer(), sampling=Sampling(max_tokens=200, ignore_eos=True), group_size=2, seed=1, deadline_s=120,
        max_length=512, resample=resample,
    )  # fmt: skip
    assert len(found.groups) == 6 and all(
        len({v.value for v in group.verdicts}) == 2 for group in found.groups
    )
    assert found.rejected and all(
        r.finish == "length" for group in found.groups for r in group.rollouts
    )
    written = sum(sum(r.mask) for group in found.groups + found.rejected for r in group.rollouts)
    assert found.tried > 6 and found.completion_tokens >= written
    assert engine.poll(0.0) == []  # nothing is left for the next step
    asked = ref.requests(ref.prompts(2, (9,)), "after", max_tokens=4)
    assert len(generate(engine, asked, 60)) == 2


def _drain(engine: VllmEngine, n: int) -> dict[str, Completion]:
    done: dict[str, Completion] = {}
    while len(done) < n:
        done |= {c.request_id: c for c in engine.poll(1.0)}
    return done


def test_an_answer_may_span_two_versions(engine: VllmEngine, learner: PreTrainedModel) -> None:
    asked = ref.requests(ref.prompts(3, (200, 8)), temperature=0.0)
    engine.submit(asked)
    for _ in range(6):
        engine.poll(0.0)
    written = len(engine._drafts["r0"].token_ids)
    old = {id: list(draft.token_ids) for id, draft in engine._drafts.items()}
    ref.perturb(learner, 1)
    publish_to(engine, learner, 1)  # the canary is scored while answers are on their way
    assert written >= 4
    for id, new in _drain(engine, 3).items():
        kept, prompt = old[id], asked[int(id[1])].prompt_ids
        assert (new.version_min, new.version_max) == (0, 1) and new.token_ids[: len(kept)] == kept
        expected = ref.greedy(learner, prompt + kept, 24 - len(kept))
        assert new.token_ids[len(kept) :] == expected  # no key or value of the old weights


def test_stop_string_and_end_of_sequence(engine: VllmEngine) -> None:
    (free,) = generate(engine, ref.requests(ref.prompts(1, (9,)), max_tokens=80), 60)
    stop = "".join(ref.CHARS[token] for token in free.token_ids[30:32])
    (cut,) = generate(engine, ref.requests(ref.prompts(1, (9,)), max_tokens=80, stop=(stop,)), 60)
    assert cut.finish == "stop" and "".join(ref.CHARS[token] for token in cut.token_ids).endswith(
        stop
    )
    for completion in generate(
        engine, ref.requests(ref.prompts(8, (9,)), max_tokens=200, ignore_eos=False), 60
    ):
        # end of sequence, and what the chat template closes a turn with
        assert (completion.finish == "stop") == (completion.token_ids[-1] in (1, 4))


def test_refusals(engine: VllmEngine, model_path: Path) -> None:
    (request,) = ref.requests(ref.prompts(1, (9,)))
    with pytest.raises(EngineError, match="'r0' needs 9 prompt .* max_length 512"):
        engine.submit([replace(request, sampling=Sampling(max_tokens=504))])
    with pytest.raises(
        EngineError, match="tensor_parallel=2 does not divide the model's 1 key-value heads"
    ):
        VllmEngine(model_path, max_length=512, tensor_parallel=2)


def test_fingerprint_is_that_of_the_checkpoint(engine: VllmEngine, model: PreTrainedModel) -> None:
    assert engine.fingerprint() == fingerprint(model.parameters())


def test_more_prompt_tokens_than_one_batch_holds(engine: VllmEngine) -> None:
    """The engine must not cut a seeded prompt in two, which crashes it on CPU."""
    asked = ref.requests(ref.prompts(60, (150,)), max_tokens=2)
    assert sum(len(request.prompt_ids) for request in asked) > 8192
    assert len(generate(engine, asked, 120)) == 60


@pytest.mark.parametrize(
    "settings", [{"top_k": 5}, {"top_k": 20, "top_p": 0.7}, {"top_k": 60, "min_p": 0.2}]
)
def test_kept_tokens_are_those_the_draw_was_from(
    engine: VllmEngine, model: PreTrainedModel, settings: dict[str, float]
) -> None:
    asked = ref.requests(ref.prompts(3, (9, 21)), keep_support=True, temperature=0.8, **settings)
    for request, completion in zip(asked, generate(engine, asked, 120), strict=True):
        ids = request.prompt_ids + completion.token_ids
        logits = ref.next_logits(model, ids)[len(request.prompt_ids) - 1 : -1] / 0.8
        parts = (logits, completion.token_ids, completion.logprobs, completion.support)
        for row, token, logprob, kept in zip(*parts, strict=True):
            drawn = Settings.of([request.sampling], row.device)
            left = truncate(row[None], drawn)[0] > -torch.inf
            assert kept == left.nonzero()[:, 0].tolist()
            assert logprob == pytest.approx(float(row[token] - row[kept].logsumexp(0)), abs=1e-4)


def test_kept_tokens_that_nothing_bounds_are_refused(engine: VllmEngine) -> None:
    [request] = ref.requests(ref.prompts(1, (9,)), keep_support=True, top_p=0.9)
    with pytest.raises(EngineError, match="only if top_k bounds their number"):
        engine.submit([request])
    [free] = ref.requests(ref.prompts(1, (9,)), "free", top_p=0.9, max_tokens=3)
    assert generate(engine, [free], 120)[0].support is None
