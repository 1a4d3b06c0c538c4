"""Methods by name: groups with rewards -> credit -> gradient, against the publication's formula in float64."""

import math
import subprocess
import sys

import pytest
import torch
from native_losses import (
    cispo,
    clipped,
    dapo,
    dppo,
    dr_grpo,
    dro,
    gmpo,
    grpo,
    gspo,
    gspo_token,
    kimi,
    luspo,
    reinforce,
    rloo,
    sapo,
    topr,
    unclipped,
    vespo,
)

from rlcore.errors import RecipeError
from rlcore.objective import PRESETS, Counts, Tokens
from rlcore.objective.method_keys import in_place_of, method_defaults, with_method
from rlcore.objective.methods import METHODS
from rlcore.recipe.build_credit import build_credit
from rlcore.recipe.build_learner import build_objective
from rlcore.stages.rl import RlStage
from rlcore.types import Group, Rollout, Task, Verdict

STAGE = {
    "kind": "rl",
    "tasks": "t",
    "steps": 1,
    "group_size": 4,
    "rewards": [{"use": "exact"}],
    "sampling": {"max_tokens": 20},
}
REWARDS = [[1.0, 0.0, 0.0, 1.0], [0.2, 0.9, 0.4, 0.1], [0.5, 0.5, 0.5, 0.5]]
LENGTHS = [[3, 6, 2, 4], [5, 1, 7, 3], [4, 2, 3, 5]]
SPREAD = 0.4


def stage_of(**keys):
    section = with_method(STAGE | keys)
    section.pop("method")
    return RlStage.model_validate(section)


def groups():
    """Three groups of four rollouts; the third has equal rewards."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for number, (rewards, lengths) in enumerate(zip(REWARDS, LENGTHS, strict=True)):
        rollouts = []
        for i, length in enumerate(lengths):
            old = -3 * torch.rand(length, generator=generator, dtype=torch.float64)
            rollouts.append(
                Rollout.from_tokens(
                    id=f"{number}#{i}",
                    task_id=str(number),
                    token_ids=[7] * (2 + length),
                    mask=[False] * 2 + [True] * length,
                    logprobs=[0.0, 0.0, *old.tolist()],
                )
            )
        verdicts = [Verdict(value=value) for value in rewards]
        task = Task(id=str(number), prompt="")
        made.append(Group(task=task, rollouts=rollouts, verdicts=verdicts))
    return made


def policy_logp():
    """Log-probabilities of the trained policy by rollout id, away from those of the old one."""
    generator = torch.Generator().manual_seed(1)
    logp = {}
    for group in groups():
        for rollout in group.rollouts:
            old = torch.tensor(rollout.logprobs[2:], dtype=torch.float64)
            logp[rollout.id] = old + SPREAD * torch.randn(
                len(old), generator=generator, dtype=torch.float64
            )
    return logp


def engine_gradient(stage):
    """d loss / d log-probability of every token by rollout id, through credit and objective of the stage."""
    made = build_credit(stage.credit)(groups())
    samples = [sample for group in made for sample in group]
    aim = build_objective(stage.objective, max_tokens=stage.sampling.max_tokens)
    live = policy_logp()
    logp, old, advantage, row = [], [], [], []
    for number, sample in enumerate(samples):
        logp.append(live[sample.id])
        old += sample.logprobs[2:]
        advantage += sample.advantages[2:]
        row += [number] * len(live[sample.id])
    flat = torch.cat(logp).requires_grad_()
    old, advantage = (torch.tensor(x, dtype=torch.float64) for x in (old, advantage))
    one = torch.ones_like(old)
    row = torch.tensor(row)
    nothing = torch.zeros_like(row, dtype=torch.bool)
    tokens = Tokens(flat, old, old, None, one, advantage, one, row, len(samples), marked=nothing)
    counts = Counts(len(row), len(samples))
    loss = sum(term(tokens, counts) for term in aim.terms if term.stream == "policy")
    pieces = torch.autograd.grad(loss, flat)[0].split([len(x) for x in logp])
    return {sample.id: piece for sample, piece in zip(samples, pieces, strict=True)}


def mean(rewards, everything):
    return [r - sum(rewards) / len(rewards) for r in rewards]


def mean_std(rewards, everything):
    centred = mean(rewards, everything)
    std = math.sqrt(sum(c * c for c in centred) / (len(centred) - 1))
    return [c / (std + 1e-4) for c in centred]


def leave_one_out(rewards, everything):
    return [r - (sum(rewards) - r) / (len(rewards) - 1) for r in rewards]


def whitened(centre):
    """(A - mean) / std over all tokens of the step."""

    def advantages(rewards, everything):
        values, weights = [], []
        for group, lengths in zip(REWARDS, LENGTHS, strict=True):
            values += centre(group)
            weights += lengths
        total = sum(weights)
        average = sum(v * w for v, w in zip(values, weights, strict=True)) / total
        squares = sum(w * (v - average) ** 2 for v, w in zip(values, weights, strict=True))
        std = math.sqrt(squares / total)
        return [(value - average) / std for value in centre(rewards)]

    return advantages


def length_weighted(rewards, everything):
    lengths = LENGTHS[REWARDS.index(list(rewards))]
    weighted = sum(r * n for r, n in zip(rewards, lengths, strict=True))
    return [r - weighted / sum(lengths) for r in rewards]


def batch_std(rewards, everything):
    flat = torch.tensor(REWARDS, dtype=torch.float64)
    return [value / (flat.std().item() + 1e-4) for value in mean(rewards, everything)]


def over_mean(rewards, everything):
    return [r * len(rewards) / sum(rewards) - 1 for r in rewards]


def over_pairs(rewards, everything):
    """Pass@2 training: GRPO's advantages of all pairs, averaged over those a completion is in."""
    n = len(rewards)
    pairs = [{i, j} for i in range(n) for j in range(i)]
    earned = torch.tensor(
        [float(max(rewards[i] for i in pair) >= 1) for pair in pairs], dtype=torch.float64
    )
    if earned.std() == 0:
        return [0.0] * n
    of_pairs = (earned - earned.mean()) / earned.std(correction=0)
    return [
        of_pairs[[i in pair for pair in pairs]].mean().item() for i in range(n)
    ]


def best_of_two(rewards, everything):
    """Twice the mean of what each adds to the other."""
    n = len(rewards)
    return [
        2 * sum(max(r, other) - other for j, other in enumerate(rewards) if j != i) / (n - 1)
        for i, r in enumerate(rewards)
    ]


PAIRS = {
    name: {"credit": {"baseline": {"use": baseline, "k": 2}}}
    for name, baseline in (("pass_at_k", "pass_at_k"), ("pkpo", "max_at_k"))
}
"""Sets of two in groups of four; one set of four says little."""

PAPERS = {
    "opo": (rloo, length_weighted, False),
    "gpg": (reinforce, mean, False),
    "lite_ppo": (clipped, batch_std, True),
    "max_rl": (rloo, over_mean, False),
    "dro": (dro, mean, True),
    "gmpo": (gmpo, mean_std, False),
    "topr": (topr, mean, False),
    "dppo": (dppo, mean_std, False),
    "m2po": (unclipped, mean_std, False),
    "clip_cov": (clipped, mean_std, False),
    "kl_cov": (unclipped, mean_std, False),  # what it marks: test_selection.py
    "pkpo": (rloo, best_of_two, False),
    "pass_at_k": (grpo, over_pairs, False),
    "grpo": (grpo, mean_std, False),
    "dr_grpo": (dr_grpo, mean, False),
    "dapo": (dapo, mean_std, False),
    "rloo": (rloo, leave_one_out, False),
    "reinforce_pp": (clipped, whitened(list), True),
    "reinforce_pp_baseline": (clipped, whitened(lambda r: mean(r, None)), True),
    "kimi": (kimi, mean, True),
    "gspo": (gspo, mean_std, False),
    "gspo_token": (gspo_token, mean_std, False),
    "luspo": (luspo, mean_std, False),
    "cispo": (cispo, mean_std, False),
    "sapo": (sapo, mean_std, False),
    "vespo": (vespo, mean_std, False),
    "reinforce": (reinforce, mean, False),
    "luffy": (clipped, mean_std, False),
    "hpt": (grpo, mean_std, False),
}
"""Method -> the paper's loss, its advantages, and whether the group of equal rewards counts."""


def paper_gradient(name, advantages=None, counts_equal=None):
    loss, published, keeps = PAPERS[name]
    advantages = advantages or published
    keeps = keeps if counts_equal is None else counts_equal
    chosen = [
        group
        for group, r in zip(groups(), REWARDS, strict=True)
        if keeps or any(abs(value) > 1e-12 for value in advantages(r, None))
    ]
    live = policy_logp()
    width = max(map(max, LENGTHS))
    ids, lp, old, a, on = [], [], [], [], []
    for group in chosen:
        values = advantages([verdict.value for verdict in group.verdicts], None)
        for rollout, value in zip(group.rollouts, values, strict=True):
            n = len(live[rollout.id])
            ids.append(rollout.id)
            lp.append(torch.nn.functional.pad(live[rollout.id], (0, width - n)))
            recorded = torch.tensor(rollout.logprobs[2:], dtype=torch.float64)
            old.append(torch.nn.functional.pad(recorded, (0, width - n)))
            a.append(torch.full((width,), value, dtype=torch.float64))
            on.append((torch.arange(width) < n).double())
    lp, old, a, on = (torch.stack(x) for x in (lp, old, a, on))
    lp.requires_grad_()
    loss(lp, old, lp.detach(), a, on, on.sum(), len(ids)).backward()
    return {id: grad[mask.bool()] for id, grad, mask in zip(ids, lp.grad, on, strict=True)}


def difference(got, want):
    if got.keys() != want.keys():
        return math.inf
    gap = sum(((got[id] - want[id]) ** 2).sum() for id in want)
    return (gap / sum((want[id] ** 2).sum() for id in want)).sqrt().item()


@pytest.mark.parametrize("name", PAPERS)
def test_a_method_gives_the_gradient_of_its_publication(name):
    stage = stage_of(method=name, **PAIRS.get(name, {}))
    assert difference(engine_gradient(stage), paper_gradient(name)) < 1e-6
    other = mean if PAPERS[name][1] is mean_std else mean_std
    assert difference(engine_gradient(stage), paper_gradient(name, other)) > 1e-2


def test_dr_grpo_has_its_baseline_and_its_constant_length():
    stage = stage_of(method="dr_grpo")
    assert stage.objective == "dr_grpo" and stage.credit.baseline == "mean"
    longer = stage_of(method="dr_grpo", sampling={"max_tokens": 40})
    short, long = engine_gradient(stage), engine_gradient(longer)
    assert difference({id: 2 * grad for id, grad in long.items()}, short) < 1e-12


def test_dapo_samples_dynamically():
    stage = stage_of(method="dapo")
    assert stage.filter == "zero_variance" and stage.resample.max_gen_batches > 1
    assert stage_of(method="dapo", filter=None).filter is None


def test_every_piece_can_be_replaced():
    stage = stage_of(
        method="dr_grpo",
        objective={"use": "dapo", "clip_high": 0.3},
        credit={"zero_variance": "keep"},
    )
    assert stage.objective == {"use": "dapo", "clip_high": 0.3}
    assert stage.credit.baseline == "mean" and stage.credit.zero_variance == "keep"
    whole = stage_of(method="rloo", credit={"baseline": "mean_std"})
    assert whole.credit.baseline == "mean_std" and whole.objective == "rloo"


def test_an_objective_alone_replaces_the_loss_and_nothing_else():
    stage = stage_of(objective="dr_grpo")
    assert stage.credit.baseline == "mean_std"
    got = engine_gradient(stage)
    assert difference(got, paper_gradient("dr_grpo", mean_std)) < 1e-6
    assert difference(got, paper_gradient("dr_grpo")) > 1e-2


def test_without_a_method_it_is_grpo_and_the_stages_own_defaults():
    plain = RlStage.model_validate(STAGE)
    assert stage_of() == plain == stage_of(method="grpo")


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "kimi"])
def test_equal_rewards_leave_the_averages_or_count(name):
    keep = stage_of(method=name, credit={"zero_variance": "keep"})
    assert difference(engine_gradient(keep), paper_gradient(name, counts_equal=True)) < 1e-6
    drop = stage_of(method=name, credit={"zero_variance": "drop"})
    assert difference(engine_gradient(drop), paper_gradient(name, counts_equal=False)) < 1e-6


def test_the_same_section_twice_is_the_same_section():
    once = with_method(STAGE | {"method": "dapo", "credit": {"baseline": "mean"}})
    assert with_method(once) == once
    changed = method_defaults("dapo")
    changed["credit"]["baseline"] = "none"
    assert method_defaults("dapo")["credit"]["baseline"] == "mean_std"


def test_a_stage_says_what_it_puts_in_place_of_its_methods_pieces():
    def said(**keys):
        return in_place_of(RlStage(**STAGE | {"kind": "rl"} | keys).model_dump())

    assert said() == said(method="dapo") == said(method="ppo") == []
    assert said(method="ppo", objective={"use": "ppo", "kl": 0.1}) == []
    assert said(method="ppo", objective="grpo") == ["objective grpo (ppo: ppo)"]
    assert said(method="dapo", credit={"baseline": "mean"}, filter=None) == [
        "baseline mean (dapo: mean_std)",
        "filter none (dapo: zero_variance)",
    ]


def test_null_takes_back_the_objective_of_a_recipe():
    assert with_method(STAGE | {"method": "ppo", "objective": None})["objective"] == "ppo"


def test_every_method_names_a_preset_and_a_source():
    # those with a critic are in test_actor_critic_methods.py, those with a teacher in test_distillation.py
    elsewhere = {name for name, method in METHODS.items() if method.baseline in ("critic", "zero")}
    assert set(PAPERS) == set(METHODS) - elsewhere
    for method in METHODS.values():
        assert method.objective in PRESETS and method.source


@pytest.mark.parametrize(
    ("name", "message"),
    [("drgrpo", "no method 'drgrpo'; did you mean 'dr_grpo'"), (3, "name of a publication")],
)
def test_unknown_methods_are_met_with_a_sentence(name, message):
    with pytest.raises(RecipeError, match=message):
        with_method(STAGE | {"method": name})


def test_methods_need_no_torch():
    code = "import sys, rlcore.objective.method_keys as m; m.method_defaults('dapo'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
