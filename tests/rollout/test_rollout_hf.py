"""The transformers back end against transformers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import rollout_reference as ref
import torch
from transformers import PreTrainedModel

from rlcore.errors import EngineError, ModelError
from rlcore.rollout.engine import generate
from rlcore.rollout.hf import HfEngine
from rlcore.rollout.hf_draw import Settings, draw
from rlcore.types import Completion, Sampling


def drain(engine: HfEngine, n: int) -> dict[str, Completion]:
    done: dict[str, Completion] = {}
    while len(done) < n:
        done |= {c.request_id: c for c in engine.poll(1.0)}
    return done


def test_logprobs_equal_teacher_forcing(hf: HfEngine, model: PreTrainedModel) -> None:
    asked = ref.requests(ref.prompts(6, (3, 17, 40)), temperature=0.7)
    for request, completion in zip(asked, generate(hf, asked, 60), strict=True):
        logits = ref.next_logits(model, request.prompt_ids + completion.token_ids)[
            len(request.prompt_ids) - 1 : -1
        ]
        tokens = torch.tensor(completion.token_ids)[:, None]
        expected, at_1 = ((logits / t).log_softmax(-1).gather(1, tokens)[:, 0] for t in (0.7, 1.0))
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-5, rtol=0)
        assert (
            torch.tensor(completion.logprobs) - at_1
        ).abs().max() > 1e-2  # forgetting the temperature would show


def test_greedy_equals_generate(hf: HfEngine, model: PreTrainedModel) -> None:
    asked = ref.requests(ref.prompts(5, (4, 30, 11)), temperature=0.0)
    for request, completion in zip(asked, generate(hf, asked, 60), strict=True):
        assert completion.token_ids == ref.greedy(model, request.prompt_ids, 24)
        assert completion.finish == "length"


def test_answers_do_not_depend_on_the_rest_of_the_batch(model_path: Path) -> None:
    asked = ref.requests(ref.prompts(12, (5, 60, 23)), ignore_eos=False, max_tokens=60)
    together = generate(HfEngine(model_path, max_length=512), asked, 60)
    in_waves = generate(HfEngine(model_path, max_length=512, max_sequences=5), asked[::-1], 60)[
        ::-1
    ]
    alone = [
        generate(HfEngine(model_path, max_length=512), [request], 60)[0] for request in asked[:3]
    ]
    assert [c.token_ids for c in together] == [c.token_ids for c in in_waves]
    assert [c.token_ids for c in together[:3]] == [c.token_ids for c in alone]
    assert (
        len({c.finish for c in together}) == 2
    )  # rows left the batch early, so the batch was made smaller on the way
    assert (
        generate(HfEngine(model_path, max_length=512), asked, 60) == together
    )  # the same set: bit for bit
    other_seed = generate(HfEngine(model_path, max_length=512), [replace(asked[0], seed=7)], 60)[0]
    assert other_seed.token_ids != together[0].token_ids


@pytest.mark.parametrize(("top_k", "top_p"), [(5, 1.0), (0, 0.6), (8, 0.8)])
def test_truncated_logprobs_are_renormalised(
    hf: HfEngine, model: PreTrainedModel, top_k: int, top_p: float
) -> None:
    asked = ref.requests(ref.prompts(3, (9, 21)), top_k=top_k, top_p=top_p)
    for request, completion in zip(asked, generate(hf, asked, 60), strict=True):
        logits = ref.next_logits(model, request.prompt_ids + completion.token_ids)[
            len(request.prompt_ids) - 1 : -1
        ]
        for row, token, logprob in zip(
            logits, completion.token_ids, completion.logprobs, strict=True
        ):
            kept = _kept(row, top_k or len(row), top_p)
            assert token in kept
            assert logprob == pytest.approx(float(row[token] - row[kept].logsumexp(0)), abs=1e-5)


def _kept(row: torch.Tensor, top_k: int, top_p: float) -> list[int]:
    """Largest k, then the smallest set of them that reaches p; one token after another, as the definition says."""
    candidates = sorted(range(len(row)), key=lambda i: -float(row[i]))[:top_k]
    probabilities = row[candidates].softmax(0).tolist()
    kept, mass = [], 0.0
    for token, probability in zip(candidates, probabilities, strict=True):
        kept.append(token)
        mass += probability
        if mass >= top_p:
            break
    return kept


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([2.0, 0.5, -1.0, 1.0, -torch.inf]).repeat(20_000, 1)
    uniforms = torch.rand(20_000, generator=torch.Generator().manual_seed(3))

    def chi_square(temperature: float) -> float:
        settings = Settings.of(
            [Sampling(max_tokens=1, temperature=temperature)] * 20_000, logits.device
        )
        tokens = draw(logits, settings, uniforms).tokens
        expected = 20_000 * logits[0].softmax(0)
        assert not (tokens == 4).any()
        return float(((tokens.bincount(minlength=5) - expected)[:4] ** 2 / expected[:4]).sum())

    assert chi_square(1.0) < 16.3  # 3 degrees of freedom, p = 0.001
    assert chi_square(1.1) > 100  # a slightly wrong distribution is far out


def test_extreme_uniforms_never_pick_an_impossible_token() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, 1.0, -torch.inf]] * 2)
    tokens, logprobs, _ = draw(
        logits, Settings.of([Sampling(max_tokens=1)] * 2, logits.device), torch.tensor([0.0, 1.0])
    )
    assert tokens.tolist() == [1, 2] and logprobs.isfinite().all()


def test_prefix_is_continued(hf: HfEngine) -> None:
    (whole,) = generate(hf, ref.requests(ref.prompts(1, (20,)), temperature=0.0), 60)
    (request,) = ref.requests(ref.prompts(1, (20,)), temperature=0.0, max_tokens=14)
    (rest,) = generate(hf, [replace(request, prefix_ids=whole.token_ids[:10])], 60)
    assert rest.token_ids == whole.token_ids[10:]
    torch.testing.assert_close(rest.logprobs, whole.logprobs[10:], atol=1e-5, rtol=0)


def test_abort_gives_back_what_was_written(model_path: Path) -> None:
    hf = HfEngine(model_path, max_length=512, max_sequences=2)
    asked = ref.requests(ref.prompts(3, (5,)), max_tokens=200)
    whole = generate(hf, asked, 60)
    hf.submit(asked)
    for _ in range(7):
        assert hf.poll(0.0) == []  # no time: one token a poll
    hf.abort(["r0", "r2", "unknown"])
    aborted = drain(hf, 2)
    assert aborted["r0"].finish == aborted["r2"].finish == "aborted"
    assert aborted["r0"].token_ids == whole[0].token_ids[:7] and aborted["r2"].token_ids == []
    (other,) = drain(hf, 1).values()
    assert other.token_ids == whole[1].token_ids and other.finish == "length"


def test_stop_string_and_end_of_sequence(hf: HfEngine) -> None:
    (free,) = generate(hf, ref.requests(ref.prompts(1, (9,)), max_tokens=80), 60)
    stop = "".join(ref.CHARS[token] for token in free.token_ids[30:32])
    (cut,) = generate(hf, ref.requests(ref.prompts(1, (9,)), max_tokens=80, stop=(stop,)), 60)
    text = "".join(ref.CHARS[token] for token in cut.token_ids)
    assert cut.finish == "stop" and text.endswith(stop) and text.count(stop) == 1
    assert cut.token_ids == free.token_ids[: len(cut.token_ids)]
    for completion in generate(
        hf, ref.requests(ref.prompts(8, (9,)), max_tokens=200, ignore_eos=False), 60
    ):
        # <eos> and the <|im_end|> of the chat template
        ends = [token in (1, 4) for token in completion.token_ids]
        assert (completion.finish == "stop") == ends[-1] and not any(ends[:-1])


def test_load_serves_new_weights_even_in_the_middle_of_an_answer(
    hf: HfEngine, model_path: Path
) -> None:
    learner = ref.open_model(model_path)
    ref.perturb(learner, 1)
    asked = ref.requests(ref.prompts(2, (33, 8)), temperature=0.0)
    before = generate(hf, asked, 60)
    hf.submit(asked)
    for _ in range(5):
        hf.poll(0.0)
    hf.load(learner.named_parameters(), 1)
    across = drain(hf, 2)
    for request, old in zip(asked, before, strict=True):
        new = across[request.id]
        assert (new.version_min, new.version_max) == (0, 1) and (
            old.version_min,
            old.version_max,
        ) == (0, 0)
        assert new.token_ids[:5] == old.token_ids[:5]
        assert new.token_ids[5:] == ref.greedy(
            learner, request.prompt_ids + new.token_ids[:5], 19
        )  # no stale cache
    assert hf.score([[5, 6, 7, 8]])[0].logprobs == pytest.approx(
        ref.score(learner, [[5, 6, 7, 8]])[0], abs=1e-5
    )


def test_refusals(hf: HfEngine, tmp_path: Path) -> None:
    first, second = ref.requests(ref.prompts(2, (9,)))
    hf.submit([first])
    with pytest.raises(EngineError, match="'r0' is already being written"):
        hf.submit([first])
    with pytest.raises(EngineError, match="'r1' needs 9 prompt .* max_length 512"):
        hf.submit([replace(second, sampling=Sampling(max_tokens=504))])
    with pytest.raises(EngineError, match="model.norm.weight"):
        hf.load([("model.norm.weight", torch.zeros(3))], 1)
    with pytest.raises(ModelError, match="the path does not exist"):
        HfEngine(tmp_path / "nowhere", max_length=8)
