"""Teachers: what they score, and the divergences to them against full-vocabulary references in float64."""

import random
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from rlcore.errors import LearnerError, RecipeError
from rlcore.learner.gradient import sums_over_tokens
from rlcore.learner.teacher import PolicyTeacher, with_prompt
from rlcore.learner.update import Learner
from rlcore.objective import Counts, Tokens, objective
from rlcore.types import Sample, TeacherScores

KINDS = ("forward_kl", "reverse_kl", "jsd")
SIZE = 262  # of the byte tokenizer's vocabulary


def samples_of(n=5, seed=0, temperature=1.0, stream="policy"):
    rng = random.Random(seed)
    samples = []
    for i in range(n):
        before, after = rng.randint(1, 6), rng.randint(1, 7)
        total = before + after
        samples.append(
            Sample(
                id=f"{stream}{i}",
                token_ids=[rng.randrange(256) for _ in range(total)],
                mask=[False] * before + [True] * after,
                advantages=[0.0] * total,
                temperature=temperature,
                stream=stream,
            )
        )
    return samples


def log_softmax_of(policy, sample):
    """[n, V] at the trained tokens, by the model's own forward pass."""
    policy.model.set_attn_implementation("sdpa")
    logits = policy.model(torch.tensor([sample.token_ids])).logits[0]
    places = [i - 1 for i, on in enumerate(sample.mask) if on]
    return (logits[places] / sample.temperature).log_softmax(-1)


def merged(full, ids):
    """Probabilities [n, K + 1] of the tokens `ids` and of all others."""
    p = full.exp().gather(1, ids)
    return torch.cat([p, 1 - p.sum(1, keepdim=True)], 1)


def divergence(kind, teacher, student, k, beta=0.5):
    """[n], written from the definitions over probabilities: GKD's equations 1 to 3 on k + 1 outcomes."""
    ids = teacher.argsort(1, descending=True)[:, :k]
    p, q = merged(teacher, ids), merged(student, ids)
    if k == teacher.shape[1]:
        p, q = p[:, :-1], q[:, :-1]

    def kl(a, b):
        return (a * (a / b).log()).sum(1)

    m = beta * p + (1 - beta) * q
    return {
        "forward_kl": kl(p, q),
        "reverse_kl": kl(q, p),
        "jsd": beta * kl(p, m) + (1 - beta) * kl(q, m),
    }[kind]


def gradient(policy):
    return torch.cat([p.grad.flatten() for p in policy.module.parameters()])


def teach(teacher, samples, k):
    scores = PolicyTeacher(teacher, top_k=k, vocabulary=SIZE).score(samples)
    return [replace(s, teacher=t) for s, t in zip(samples, scores, strict=True)]


@pytest.mark.parametrize("k", [1, 5, SIZE])
@pytest.mark.parametrize(("kind", "beta"), [("forward_kl", None), ("reverse_kl", None), ("jsd", 0.3)])
def test_divergences_and_their_gradients_are_those_of_the_definitions(make_policy, kind, beta, k):
    teacher, student = make_policy(seed=1), make_policy()
    samples = teach(teacher, samples_of(temperature=0.7), k)
    aim = objective("opd", divergence=kind, **({} if beta is None else {"beta": beta}))
    learner = Learner(student, aim, accelerator=Accelerator(cpu=True), lr=1e-3, total_updates=1)
    totals, _ = learner.accumulate(samples)

    other, other_teacher = make_policy(), make_policy(seed=1)
    tokens = sum(sum(sample.mask) for sample in samples)
    loss = 0
    for sample in samples:
        p = log_softmax_of(other_teacher, sample).detach()
        loss = loss + divergence(kind, p, log_softmax_of(other, sample), k, beta or 0.5).sum() / tokens
    loss.backward()
    assert totals[1] == pytest.approx(loss.item(), rel=1e-9)
    want = gradient(other)
    assert (gradient(student) - want).norm() < 1e-8 * want.norm()


def test_over_the_whole_vocabulary_they_are_trls(make_policy):
    trl = pytest.importorskip("trl.experimental.gkd.gkd_trainer")
    loss_of = trl.GKDTrainer.generalized_jsd_loss
    teacher, student = make_policy(seed=1), make_policy()
    samples = teach(teacher, samples_of(), SIZE)
    tokens = sum(sum(sample.mask) for sample in samples)
    plain, plain_teacher = make_policy(), make_policy(seed=1)
    full = [(log_softmax_of(plain, s), log_softmax_of(plain_teacher, s)) for s in samples]
    student_logits, teacher_logits = (torch.cat(x)[None] for x in zip(*full, strict=True))
    labels = torch.zeros(1, tokens, dtype=torch.int64)
    for beta, kind in ((0.0, "forward_kl"), (1.0, "reverse_kl"), (0.5, "jsd"), (0.1, "jsd")):
        settings = {"beta": beta} if kind == "jsd" else {}
        aim = objective("opd", divergence=kind, **settings)
        learner = Learner(student, aim, accelerator=Accelerator(cpu=True), lr=1e-3, total_updates=1)
        totals, _ = learner.accumulate(samples)
        want = loss_of(student_logits, teacher_logits, labels, beta=beta)
        assert totals[1] == pytest.approx(want.item(), rel=1e-9)


def tokens_of(logits, teacher, k):
    """One token of each kind, with the policy's own probability as its weight: sums are expectations."""
    logp = logits.log_softmax(0)
    ids = teacher.argsort(descending=True)[:k]
    rows = len(logp)
    return Tokens(
        logp=logp, old=logp.detach(), behaviour=logp.detach(), reference=None, entropy=logp.detach(),
        advantage=torch.zeros_like(logp), weight=logp.detach().exp(), row=torch.arange(rows), rows=rows,
        teacher=teacher, top=logp[ids].expand(rows, k), teacher_top=teacher[ids].expand(rows, k),
    )  # fmt: skip


def expected_gradient(aim, logits, tokens_from):
    live = logits.clone().requires_grad_()
    loss = sum(term(tokens_from(live), Counts(1, 1)) for term in aim.terms)
    return torch.autograd.grad(loss, live)[0]


def test_the_reward_form_descends_the_reverse_kl_also_off_policy():
    generator = torch.Generator().manual_seed(0)
    logits, old, teacher = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    teacher, mu = teacher.log_softmax(0), old.log_softmax(0)
    live = logits.clone().requires_grad_()
    q = live.log_softmax(0)
    want = torch.autograd.grad((q.exp() * (q - teacher)).sum(), live)[0]

    def off_policy(x):
        return tokens_of(x, teacher, 6)._replace(old=mu, behaviour=mu, weight=mu.exp())

    aim = objective("opd")
    on_policy = expected_gradient(aim, logits, lambda x: tokens_of(x, teacher, 6))
    assert torch.allclose(on_policy, want, atol=1e-12)
    assert torch.allclose(expected_gradient(aim, logits, off_policy), want, atol=1e-12)
    half = expected_gradient(
        objective("opd", weight=0.5), logits, lambda x: tokens_of(x, teacher, 6)
    )
    assert torch.allclose(half, want / 2, atol=1e-12)
    composed = expected_gradient(
        objective("reinforce", teacher=0.5), logits, lambda x: tokens_of(x, teacher, 6)
    )
    assert torch.allclose(composed, want / 2, atol=1e-12)


def descend(aim, start, tokens_from, steps=250, lr=2.0):
    logits = start.clone()
    for _ in range(steps):
        logits = logits - lr * expected_gradient(aim, logits, tokens_from)
    return logits.softmax(0)


@pytest.mark.parametrize("kind", [*KINDS, "reward"])
def test_a_two_token_student_reaches_its_teacher_with_one_token_of_it(kind):
    teacher = torch.tensor([0.8, 0.2], dtype=torch.float64).log()
    start = torch.tensor([-1.0, 1.5], dtype=torch.float64)
    aim = objective("opd", divergence=kind)
    reached = descend(aim, start, lambda x: tokens_of(x, teacher, 1))
    assert torch.allclose(reached, teacher.exp(), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_top_k_reaches_the_teachers_top_and_rest_and_never_exceeds_the_full_divergence(kind):
    generator = torch.Generator().manual_seed(3)
    teacher = (2 * torch.randn(8, generator=generator, dtype=torch.float64)).log_softmax(0)
    start = torch.randn(8, generator=generator, dtype=torch.float64)
    values = []
    for k in range(1, 9):
        tokens = tokens_of(start, teacher, k)
        term = objective("opd", divergence=kind).terms[1]
        values.append(float(term.likelihood(tokens)[0]))
    assert all(b >= a - 1e-12 for a, b in zip(values, values[1:], strict=False)) and values[0] > 0.01
    best = teacher.argsort(descending=True)
    reached = descend(objective("opd", divergence=kind), start, lambda x: tokens_of(x, teacher, 3))
    assert torch.allclose(reached[best[:3]], teacher[best[:3]].exp(), atol=1e-5)


@pytest.mark.parametrize(
    ("weight", "want"),
    [(1.0, (0.278, 0.5, 0.222)), (0.5, (0.384, 0.399, 0.217)), (2.0, (0.125, 0.675, 0.2))],
)
def test_the_implicit_reward_with_a_kl_is_emulated_fine_tuning(weight, want):
    """base^M (.5, .3, .2), ft^N (.2, .6, .2), base^N (.4, .4, .2): the published sampler's distribution."""
    large, tuned, small = (
        torch.tensor(p, dtype=torch.float64).log()
        for p in ((0.5, 0.3, 0.2), (0.2, 0.6, 0.2), (0.4, 0.4, 0.2))
    )

    def tokens_from(x):
        return tokens_of(x, tuned - small, 1)._replace(reference=large)

    aim = objective("opd", divergence="implicit", weight=weight, kl=1.0, kl_kind="k2")
    reached = descend(aim, large, tokens_from)
    assert torch.allclose(reached, torch.tensor(want, dtype=torch.float64), atol=6e-4)


def test_gkd_weighs_own_completions_and_demonstrations(make_policy):
    teacher, student = make_policy(seed=1), make_policy()
    own = teach(teacher, samples_of(), 4)
    shown = teach(teacher, samples_of(3, seed=7, stream="demonstration"), 4)
    aim = objective("gkd", on_policy=0.3, divergence="forward_kl")
    learner = Learner(student, aim, accelerator=Accelerator(cpu=True), lr=1e-3, total_updates=1)
    totals, counts = learner.accumulate([*own, *shown])
    for value, part, weight in zip(totals[:2], (own, shown), (0.3, 0.7), strict=True):
        tokens = sum(sum(sample.mask) for sample in part)
        pairs = [
            (log_softmax_of(make_policy(seed=1), s), log_softmax_of(make_policy(), s)) for s in part
        ]
        want = sum(divergence("forward_kl", p, q, 4).sum().item() for p, q in pairs) / tokens
        assert value == pytest.approx(weight * want, rel=1e-9)


def test_a_teacher_reads_the_same_tokens_behind_its_own_prompt(make_policy):
    teacher = make_policy(seed=1)
    [sample] = samples_of(1, temperature=0.5)
    before = sample.mask.index(True)
    moved = with_prompt(sample, before, [9, 8, 7])
    assert moved.token_ids == [9, 8, 7, *sample.token_ids[before:]]
    [scores] = PolicyTeacher(teacher, top_k=3, vocabulary=SIZE).score([moved])
    full = log_softmax_of(make_policy(seed=1), moved)
    completion = torch.tensor(sample.token_ids[before:])
    want = full.gather(1, completion[:, None])[:, 0]
    assert torch.allclose(torch.tensor(scores.logprobs).double(), want, atol=1e-9)
    best = full.topk(3)
    assert torch.equal(scores.top_ids, best.indices)
    assert torch.allclose(scores.top_logprobs, best.values, atol=1e-9)
    [plain] = PolicyTeacher(teacher, top_k=3, vocabulary=SIZE).score([sample])
    assert not torch.allclose(plain.top_logprobs, scores.top_logprobs, atol=1e-3)


def test_tokens_that_the_student_lacks_are_left_to_the_rest(make_policy):
    teacher = make_policy(seed=1)
    samples = samples_of(2)
    narrow = PolicyTeacher(teacher, top_k=6, vocabulary=200).score(samples)
    for sample, scores in zip(samples, narrow, strict=True):
        full = log_softmax_of(make_policy(seed=1), sample)
        best = full[:, :200].topk(6)
        assert torch.equal(scores.top_ids, best.indices)
        assert torch.allclose(scores.top_logprobs, best.values, atol=1e-9)


def test_a_micro_batch_without_scores_and_one_with_them(make_policy):
    """Micro-batches of texts, which no teacher scores, beside those of completions."""
    teacher = make_policy(seed=1)
    texts = samples_of(3, seed=5, stream="text")
    aim = objective("opd", divergence="jsd", next_token=0.5)
    samples = [*teach(teacher, samples_of(), 4), *texts]
    results = []
    for budget in (8, 1000):
        learner = Learner(make_policy(), aim, accelerator=Accelerator(cpu=True), lr=1e-3,
                          total_updates=1, micro_batch_tokens=budget)  # fmt: skip
        totals, _ = learner.accumulate(samples)
        results.append((totals[:3], gradient(learner.policy)))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-9)
    assert torch.allclose(results[0][1], results[1][1], atol=1e-12)


def test_samples_that_no_teacher_scored_are_refused(make_policy):
    for divergence, scores in (("reward", None), ("jsd", TeacherScores(logprobs=[0.0]))):
        aim = objective("opd", divergence=divergence)
        learner = Learner(make_policy(), aim, accelerator=Accelerator(cpu=True), lr=1e-3, total_updates=1)
        sample = Sample(id="a", token_ids=[1, 2], mask=[False, True], advantages=[0.0, 0.0], teacher=scores)
        with pytest.raises(LearnerError, match="sample 'a' of stream 'policy' has not a teacher"):
            learner.update([sample])


def test_divergences_are_sums_over_tokens():
    for kind in (*KINDS, "reward", "implicit"):
        assert sums_over_tokens(objective("opd", divergence=kind))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"divergence": "kl"}, "there is no divergence 'kl'; use one of reward"),
        ({"weight": 0.0}, "must be above 0"),
        ({"beta": 0.5}, "beta has no effect with the divergence 'reward'"),
        ({"divergence": "jsd", "beta": 1.0}, "forward_kl and reverse_kl are the ends"),
    ],
)
def test_bad_settings_get_a_sentence(settings, sentence):
    with pytest.raises(RecipeError, match=sentence):
        objective("opd", **settings)


def test_gkd_refuses_what_demonstrations_lack():
    with pytest.raises(RecipeError, match="gkd needs a divergence that demonstrations have too"):
        objective("gkd", divergence="reward")
    with pytest.raises(RecipeError, match="for 1 use opd"):
        objective("gkd", on_policy=1.0)
