"""Presets that leave out tokens by comparing a whole step: what they keep, and that the cut into parts does not matter."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from test_presets_end_to_end import tiny

from rlcore.errors import RecipeError
from rlcore.learner.update import Learner
from rlcore.learner.updates import run_updates
from rlcore.objective import objective
from rlcore.objective.correction import require_correction
from rlcore.recipe.check import check
from rlcore.recipe.load import load
from rlcore.types import Sample
from tests.run.whole import write_recipe


def make(count=40, length=12, seed=0, spread=0.4):
    """Samples with two log-probabilities a token: of the engine and of the trainer."""
    draw = random.Random(seed)
    samples = []
    for i in range(count):
        behaviour = [0.0] * 2 + [math.log(draw.uniform(0.01, 1)) for _ in range(length)]
        old = [0.0] * 2 + [value + draw.gauss(0, spread) for value in behaviour[2:]]
        samples.append(
            Sample(
                id=f"s{i}",
                token_ids=[draw.randrange(256) for _ in range(2 + length)],
                mask=[False] * 2 + [True] * length,
                advantages=[draw.gauss(0, 2)] * (2 + length),
                logprobs=behaviour,
                old_logprobs=old,
                version=0,
            )
        )
    return samples


def kept(before, after):
    """Which trained tokens still have their advantage, flat."""
    flags = []
    for old, new in zip(before, after, strict=True):
        assert (old.id, old.mask, old.logprobs) == (new.id, new.mask, new.logprobs)
        for was, now, trained in zip(old.advantages, new.advantages, old.mask, strict=True):
            if trained:
                assert now in (was, 0.0)
                flags.append(now == was)
    return np.array(flags)


def column(samples, name):
    return np.array(
        [
            value
            for s in samples
            for value, on in zip(getattr(s, name), s.mask, strict=True)
            if on
        ]
    )


def in_parts(select, samples, cuts):
    """The selection in several processes: played twice, so that each hears what the others say."""
    parts = [samples[a:b] for a, b in zip((0, *cuts), (*cuts, len(samples)), strict=True)]
    said = [[] for _ in parts]
    for words, part in zip(said, parts, strict=True):
        select(part, lambda items, words=words: words.append(list(items)) or words[-1])
    # The draw of clip_cov depends on the sums, which only the second round knows.
    for _ in range(2):
        heard = [[x for words in said for x in words[turn]] for turn in range(len(said[0]))]
        said = [[] for _ in parts]
        result = []
        for words, part in zip(said, parts, strict=True):

            def gather(items, words=words, heard=heard):
                words.append(list(items))
                return heard[len(words) - 1]

            result += select(part, gather)
    return result


@pytest.mark.parametrize("threshold", [0.04, 0.1, 1.0])
def test_m2po_keeps_the_most_tokens_whose_second_moment_is_small(threshold):
    samples = make()
    distance = np.abs(column(samples, "old_logprobs") - column(samples, "logprobs"))
    mask = kept(samples, objective("m2po", threshold=threshold).select(samples, list))
    assert (distance[mask] ** 2).mean() <= threshold
    if threshold == 1.0:
        assert mask.all()
        return
    assert 0 < (~mask).sum() < len(mask) and distance[mask].max() < distance[~mask].min()
    one_more = np.append(distance[mask], distance[~mask].min())
    assert (one_more**2).mean() > threshold


def test_m2po_measures_what_the_trainer_recomputed():
    samples = [replace(sample, old_logprobs=None) for sample in make()]
    assert kept(samples, objective("m2po").select(samples, list)).all()


def test_m2po_keeps_the_nearest_where_all_have_moved_far():
    samples = [
        replace(s, old_logprobs=[v + 1 + i / 9 for v in s.logprobs])
        for i, s in enumerate(make(count=3))
    ]
    assert kept(samples, objective("m2po").select(samples, list)).tolist() == [True] * 12 + [False] * 24


def test_clip_cov_leaves_out_as_many_of_the_large_covariances():
    samples = make()
    advantage, logp = column(samples, "advantages"), column(samples, "old_logprobs")
    covariance = (advantage - advantage.mean()) * (logp - logp.mean())
    in_band = (covariance > 1) & (covariance < 5)
    some = kept(samples, objective("clip_cov", fraction=0.05).select(samples, list))
    assert (~some).sum() == int(0.05 * len(some)) < in_band.sum()
    assert in_band[~some].all()
    every = kept(samples, objective("clip_cov", fraction=1.0).select(samples, list))
    assert (~every == in_band).all()
    one = kept(samples, objective("clip_cov").select(samples, list))
    assert (~one).sum() == 1
    wide = kept(samples, objective("clip_cov", fraction=1.0, least=2.0).select(samples, list))
    assert (~wide).sum() < (~every).sum()


def test_kl_cov_marks_the_largest_covariances_and_changes_nothing_else():
    samples = make()
    advantage, logp = column(samples, "advantages"), column(samples, "old_logprobs")
    covariance = (advantage - advantage.mean()) * (logp - logp.mean())
    for fraction, number in ((0.05, 24), (1e-9, 1), (1.0, 480)):
        marked = objective("kl_cov", fraction=fraction).select(samples, list)
        assert [replace(sample, marked=None) for sample in marked] == samples
        chosen = np.array(
            [
                mark
                for s in marked
                for mark, on in zip(s.marked or [False] * len(s.mask), s.mask, strict=True)
                if on
            ]
        )
        assert chosen.sum() == number
        assert chosen.all() or covariance[chosen].min() > covariance[~chosen].max()


def test_kl_cov_holds_marked_tokens_from_the_second_update_on():
    samples = [replace(s, old_logprobs=None, version=1) for s in make(count=8, length=5)]
    made = objective("kl_cov", fraction=0.5, beta=3.0)
    without = replace(made, select=None)
    for minibatches, differs in ((1, False), (2, True)):
        one = gradient(samples, made, micro_batch_tokens=4096, minibatches=minibatches)
        other = gradient(samples, without, micro_batch_tokens=4096, minibatches=minibatches)
        assert (((one - other).norm() / other.norm()).item() > 1e-2) == differs
        cut = gradient(samples, made, micro_batch_tokens=16, minibatches=minibatches)
        assert ((one - cut).norm() / one.norm()).item() < 1e-10


@pytest.mark.parametrize(
    "made",
    [objective("m2po"), objective("clip_cov", fraction=0.05), objective("kl_cov", fraction=0.05)],
    ids=["m2po", "clip_cov", "kl_cov"],
)
def test_the_choice_is_the_same_in_any_number_of_processes(made):
    samples = make()
    want = made.select(samples, list)
    assert in_parts(made.select, samples, (7, 21)) == want
    assert in_parts(made.select, samples, (0, 40)) == want
    assert made.select(samples, list) == want  # and again
    alone = [x for part in (samples[:7], samples[7:]) for x in made.select(part, list)]
    assert alone != want


def test_demonstrations_and_text_are_left_alone():
    other = replace(make(count=1)[0], id="d", stream="demonstration")
    plain = replace(make(count=1)[0], id="e", logprobs=None)
    for name in ("m2po", "clip_cov", "kl_cov"):
        result = objective(name).select([other, plain, *make(count=5)], list)
        assert result[:2] == [other, plain]


def gradient(samples, made, *, micro_batch_tokens, minibatches=1):
    policy = tiny(0)
    learner = Learner(
        policy,
        made,
        accelerator=Accelerator(cpu=True),
        lr=1e-3,
        total_updates=9,
        version=1,
        clip_norm=1e9,
        micro_batch_tokens=micro_batch_tokens,
    )
    grads = []
    learner._optimizer.optimizer.register_step_pre_hook(
        lambda *_: grads.extend(p.grad.flatten() for p in policy.module.parameters())
    )
    run_updates(learner, [(i, [s]) for i, s in enumerate(samples)], minibatches=minibatches, seed=0)
    return torch.cat(grads)


def test_the_gradient_is_blind_to_micro_batches_and_the_selection_acts():
    draw = random.Random(3)
    samples = [replace(s, old_logprobs=None) for s in make(count=8, length=5)]
    scores = tiny(0).score([s.token_ids for s in samples])
    samples = [
        replace(s, logprobs=[0.0, 0.0, *(x + draw.gauss(0, 0.4) for x in score[1:])])
        for s, score in zip(samples, scores, strict=True)
    ]
    for made in (
        objective("m2po"),
        objective("clip_cov", fraction=0.2, least=0.1, most=99.0),
    ):
        whole = gradient(samples, made, micro_batch_tokens=4096)
        cut = gradient(samples[::-1], made, micro_batch_tokens=16)
        assert ((whole - cut).norm() / whole.norm()).item() < 1e-10
        without = gradient(samples, replace(made, select=None), micro_batch_tokens=4096)
        assert ((whole - without).norm() / whole.norm()).item() > 1e-2


def test_shared_keys_keep_the_selection():
    for made in (
        objective("m2po", kl=0.1, entropy=0.1, dual_clip=3.0),
        objective("clip_cov", correction={"kind": "token_mask", "high": 2.0}),
        objective("m2po") + objective("sft", stream="demonstration"),
    ):
        assert made.select is not None


def test_what_compares_stale_tokens_says_what_it_needs():
    for old_logprobs, staleness in (("engine", 2), ("trainer", 0)):
        with pytest.raises(RecipeError, match="needs max_staleness above 0 and old_logprobs: trainer"):
            require_correction(
                objective("m2po"), old_logprobs=old_logprobs, max_staleness=staleness
            )
    for name in ("m2po", "dppo"):  # their ratio is taken to the policy that wrote the tokens
        require_correction(objective(name), old_logprobs="trainer", max_staleness=2)
    with pytest.raises(RecipeError, match="needs a correction of stale tokens"):
        require_correction(objective("clip_cov"), old_logprobs="trainer", max_staleness=2)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("m2po", {"threshold": 0.0}, "threshold is 0, but must be above 0"),
        ("clip_cov", {"fraction": 1.5}, "fraction is 1.5, but must be above 0 and at most 1"),
        ("gmpo", {"clip_low": -1.0}, "bounds of 0 or more"),
        ("dppo", {"divergence": "js"}, "divergence"),
    ],
)
def test_values_without_a_meaning_are_refused(name, params, message):
    with pytest.raises(RecipeError, match=message):
        objective(name, **params)


def test_a_stage_without_rollout_batches_says_so(tmp_path):
    stages = (
        "stages=[{kind: sample, tasks: demonstrations, num_samples: 2, rewards: [{use: exact}], sampling: {max_tokens: 4}}, "
        "{kind: offline, data: sample, steps: 1, objective: clip_cov}]"
    )
    with pytest.raises(RecipeError, match="comparing those of a rollout batch, which this stage has none of"):
        check(load(str(write_recipe(tmp_path)), [stages]))


def test_sets_larger_than_a_group_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="sets of 4 completions, but a group has 3"):
        load(str(write_recipe(tmp_path)), ["stages.rl.method=pkpo", "stages.rl.group_size=3"])
    with pytest.raises(RecipeError, match="a completion is compared with nothing"):
        load(str(write_recipe(tmp_path)), ["stages.rl.method=opo", "stages.rl.group_size=1"])
