"""What one optimiser step promises."""

import math
import random
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from rlcore.credit import demonstration_sample
from rlcore.errors import LearnerError
from rlcore.learner.update import Learner
from rlcore.objective import objective
from rlcore.types import Sample


def make_samples(n=7, seed=0, version=0, has_behaviour=True, stream="policy"):
    rng = random.Random(seed)
    samples = []
    for i in range(n):
        prompt, answer = rng.randint(1, 9), rng.randint(1, 15)
        total = prompt + answer
        samples.append(
            Sample(
                id=f"s{i}",
                token_ids=[rng.randrange(256) for _ in range(total)],
                mask=[False] * prompt + [True] * answer,
                advantages=[rng.uniform(-1, 1)] * total,
                logprobs=[-5.0 - rng.random()] * total if has_behaviour else None,
                version=version,
                stream=stream,
            )
        )
    return samples


def make_learner(policy, name="dapo", made=None, **settings):
    settings = {"lr": 1e-2, "total_updates": 100} | settings
    return Learner(policy, made or objective(name), accelerator=Accelerator(cpu=True), **settings)


def parameters(learner):
    return torch.cat([p.detach().flatten() for p in learner.policy.module.parameters()])


def after(policy, *batches, **settings):
    learner = make_learner(policy, **settings)
    reports = [learner.update(batch) for batch in batches]
    return parameters(learner), reports


@pytest.mark.parametrize("name", ["grpo", "dapo", "gspo"])
def test_blind_to_micro_batches_and_order(make_policy, name):
    samples = make_samples()
    whole, [report] = after(make_policy(), samples, name=name, version=1)
    for changed in (samples, samples[::-1]):
        for budget in (1, 20, 40):
            other, [again] = after(
                make_policy(), changed, name=name, version=1, micro_batch_tokens=budget
            )
            assert (other - whole).abs().max() < 1e-9  # AdamW's first update divides by |gradient|
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


def test_two_runs_are_bit_identical(make_policy):
    batches = [make_samples(seed=s) for s in range(3)]
    runs = [after(make_policy("float32"), *batches, micro_batch_tokens=30) for _ in range(2)]
    assert torch.equal(runs[0][0], runs[1][0]) and runs[0][1] == runs[1][1]


def test_resume_continues_bit_for_bit(make_policy):
    batches = [make_samples(seed=s) for s in range(4)]
    settings = {"schedule": "cosine", "warmup_steps": 2, "total_updates": 4}
    want, reports = after(make_policy("float32"), *batches, **settings)
    first = make_learner(make_policy("float32"), **settings)
    for batch in batches[:2]:
        first.update(batch)
    second = make_learner(make_policy("float32", seed=9), **settings)
    second.policy.module.load_state_dict(first.policy.module.state_dict())
    second.load_state_dict(first.state_dict())
    assert [second.update(batch) for batch in batches[2:]] == reports[2:]
    assert torch.equal(parameters(second), want) and second.updates == 4


def test_on_policy_samples_anchor_on_the_forward_itself(make_policy):
    """Recorded log-probabilities far off clip everything off-policy, and nothing on-policy; the report shows them either way."""
    samples = make_samples(version=3)
    on, [on_report] = after(make_policy(), samples, version=3)
    off, [off_report] = after(make_policy(), samples, version=4)
    assert on_report.clip_frac == 0 < off_report.clip_frac
    assert on_report.kl == off_report.kl > 0 and on_report.ratio_max == off_report.ratio_max != 1
    assert not torch.equal(on, off)
    _, [unrecorded] = after(make_policy(), make_samples(has_behaviour=False), version=9)
    assert (unrecorded.kl, unrecorded.ratio_max, unrecorded.clip_frac) == (None, None, 0)
    _, [unmasked] = after(make_policy(), samples, version=4, name="reinforce")
    assert unmasked.clip_frac is None and unmasked.kl > 0


def test_report_against_scores(make_policy):
    policy, samples = make_policy(), make_samples(4)
    learner = make_learner(policy)
    drifts = [
        score - sample.logprobs[i + 1]
        for sample, scores in zip(
            samples, learner.policy.score([s.token_ids for s in samples]), strict=True
        )
        for i, score in enumerate(scores)
        if sample.mask[i + 1]
    ]
    report = learner.update(samples)
    assert report.ratio_max == pytest.approx(max(map(math.exp, drifts)))
    assert report.kl == pytest.approx(sum(math.exp(d) - 1 - d for d in drifts) / len(drifts))
    assert (report.tokens, report.sequences, report.lr) == (len(drifts), 4, 0.01)
    assert 0 < report.entropy < math.log(262) and report.loss == report.losses["policy"]


def test_updates_are_counted_and_an_empty_one_is_none(make_policy):
    learner = make_learner(make_policy(), schedule="linear")
    before = parameters(learner)
    empty = learner.update([])
    nothing_trained = learner.update(
        [Sample(id="x", token_ids=[1, 2], mask=[False, False], advantages=[0.0, 0.0])]
    )
    assert empty == nothing_trained and empty.tokens == 0 and learner.updates == 0
    assert (empty.loss, empty.grad_norm, empty.entropy, empty.kl, empty.clip_frac) == (None,) * 5
    assert torch.equal(before, parameters(learner))
    assert learner.update(make_samples()).lr == 0.01
    assert learner.updates == 1 and learner.version == 0  # the caller counts publishes
    assert not torch.equal(before, parameters(learner))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_touches_nothing(make_policy, value):
    learner = make_learner(make_policy())
    learner.update(make_samples())
    before = parameters(learner)
    poison = Sample(id="bad", token_ids=[1, 2], mask=[False, True], advantages=[0.0, value])
    with pytest.raises(LearnerError, match="is not finite .* was not applied"):
        learner.update([*make_samples(), poison])
    assert torch.equal(before, parameters(learner)) and learner.updates == 1
    assert learner.update(make_samples()).tokens > 0


def test_streams_have_their_own_counts(make_policy):
    """A mixed batch is the sum of the two losses, each over its own tokens."""
    rl, demos = (
        make_samples(3, version=1),
        make_samples(4, seed=5, has_behaviour=False, stream="demonstration"),
    )
    mixed = objective("dapo") + objective("sft", stream="demonstration")
    _, [both] = after(
        make_policy(), [*demos[:2], *rl, *demos[2:]], made=mixed, version=1, micro_batch_tokens=40
    )
    _, [only_rl] = after(make_policy(), rl, made=mixed, version=1)
    _, [only_demos] = after(
        make_policy(), demos, made=objective("sft", stream="demonstration"), version=1
    )
    assert (
        both.losses["policy"] == pytest.approx(only_rl.losses["policy"])
        and only_rl.losses["sft"] == 0
    )
    assert both.losses["sft"] == pytest.approx(only_demos.loss)
    assert both.sequences == 7 and both.tokens == only_rl.tokens + only_demos.tokens
    with pytest.raises(
        LearnerError, match="sample 's0' is of stream 'demonstration', which no term"
    ):
        make_learner(make_policy()).update(demos)


def test_score_keeps_order_and_needs_no_gradient(make_policy):
    learner = make_learner(make_policy(), micro_batch_tokens=8)
    sequences = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10], [3, 1]]
    scores = learner.policy.score(sequences)
    assert [len(one) for one in scores] == [2, 0, 5, 1]
    for sequence, one in zip(sequences, scores, strict=True):
        assert learner.policy.score([sequence])[0] == pytest.approx(one, abs=1e-12)


def test_the_temperature_of_the_samples_scales_the_trained_distribution(make_policy):
    warm_samples = make_samples()
    cold_samples = [replace(sample, temperature=0.5) for sample in warm_samples]
    _, [cold] = after(make_policy(), cold_samples)
    _, [warm] = after(make_policy(), warm_samples)
    assert cold.entropy < warm.entropy
    greedy_samples = [replace(sample, temperature=0.0) for sample in warm_samples]
    assert after(make_policy(), greedy_samples)[1] == [warm]  # recorded at 1, as vLLM does


def test_kl_to_the_reference_starts_at_zero_and_pulls_back(make_policy):
    samples = make_samples()
    learner = make_learner(make_policy(), made=objective("grpo", kl=0.5), clip_norm=1e9)
    assert learner.update(samples).losses["kl"] == pytest.approx(0, abs=1e-15)
    assert learner.update(samples).losses["kl"] != 0
    assert not any(p.requires_grad for p in learner._reference.parameters())


def test_sft_loss_is_the_negative_log_likelihood(make_policy):
    learner = make_learner(make_policy(), "sft")
    demo = demonstration_sample("d", [1, 2], [3, 4, 5])
    scores = learner.policy.score([demo.token_ids])[0][1:]
    assert learner.update([demo]).loss == pytest.approx(-sum(scores) / 3)
