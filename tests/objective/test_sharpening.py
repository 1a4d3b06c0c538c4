"""Sharpening (arXiv 2412.01951): the self-reward against a plain forward, the optimum of its pair loss, what best of n learns."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from rlcore.errors import RecipeError
from rlcore.learner.likelihood import Likelihood
from rlcore.objective.preference import Sides, sharpen
from rlcore.recipe.optim_sections import UpdateSection
from rlcore.stages.offline import KEEP
from rlcore.stages.prefer import PreferStage
from rlcore.stages.prefer_trl import train_pairs
from rlcore.types import Group, Rollout, Task, Verdict
from tests.run.table import table

START = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
OPTIMA = {1.0: (0.658, 0.237, 0.105), 0.5: (0.781, 0.169, 0.050), 0.1: (0.996, 0.004, 0.000)}
"""beta -> the maximiser of E[log p_start] - beta KL(p to p_start)."""


def pair_losses(logp: torch.Tensor, beta: float) -> torch.Tensor:
    """The loss of every ordered pair of the three completions."""
    first, second = zip(*itertools.permutations(range(3), 2), strict=True)
    chosen, rejected = logp[list(first)], logp[list(second)]
    margin = START.log()[list(first)] - START.log()[list(second)]
    one = torch.ones_like(chosen)
    return sharpen(beta=beta)(Sides(chosen, rejected, one, one, margin)).loss


@pytest.mark.parametrize("beta", OPTIMA)
def test_minimising_it_gives_the_sharpened_policy(beta: float) -> None:
    logits = START.log().requires_grad_()
    optimiser = torch.optim.LBFGS([logits], lr=0.5, max_iter=500, tolerance_grad=1e-14, tolerance_change=1e-18)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = pair_losses(logits.log_softmax(0), beta).sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    found = logits.detach().softmax(0)
    assert found.tolist() == pytest.approx(OPTIMA[beta], abs=6e-4)
    assert closure().item() < 1e-12
    # and the objective itself is larger there than near by
    def aim(p: torch.Tensor) -> float:
        return (p * START.log() - beta * p * (p / START).log()).sum().item()

    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        noise = 0.1 * torch.randn(3, generator=generator, dtype=torch.float64)
        assert aim((found.log() + noise).softmax(0)) < aim(found)


def test_it_needs_the_margin() -> None:
    one = torch.ones(1)
    with pytest.raises(RecipeError, match="reads the margin of each pair"):
        sharpen()(Sides(one, one, one, one))


def group(policy, texts: list[str], prompt: str = "a") -> Group:
    rollouts = []
    for number, text in enumerate(texts):
        ids = [*prompt.encode(), *text.encode()]
        mask = [False] * len(prompt) + [True] * len(text)
        rollouts.append(
            Rollout.from_tokens(
                id=f"t#{number}", task_id="t", token_ids=ids, mask=mask, logprobs=[0.0] * len(ids), text=text,
                finish="stop", version=0,
            )  # fmt: skip
        )
    return Group(task=Task(id="t", prompt=prompt), rollouts=rollouts, verdicts=[Verdict(value=0.0)] * len(texts))


def by_hand(policy, prompt: str, text: str) -> float:
    ids = torch.tensor([[*prompt.encode(), *text.encode()]])
    logp = policy.model(ids).logits[0].double().log_softmax(-1)
    return sum(logp[i - 1, ids[0, i]].item() for i in range(len(prompt), ids.shape[1]))


def test_the_reward_is_the_log_probability_of_the_completion() -> None:
    policy = table()
    texts = ["b", "bcd", "xyzzy"]
    [scores] = Likelihood(policy)([group(policy, texts)])
    wanted = [by_hand(policy, "a", text) for text in texts]
    assert [score.value for score in scores] == pytest.approx(wanted, rel=1e-9)
    [scores] = Likelihood(policy, per_token=True)([group(policy, texts)])
    lengths = map(len, texts)
    assert [s.value for s in scores] == pytest.approx([w / n for w, n in zip(wanted, lengths, strict=True)], rel=1e-9)


def test_per_token_does_not_prefer_the_empty_completion() -> None:
    policy = table()
    [summed] = Likelihood(policy)([group(policy, ["", "b", "bc"])])
    assert summed[0].value == 0.0 == max(score.value for score in summed)
    [means] = Likelihood(policy, per_token=True)([group(policy, ["", "b", "bc"])])
    assert means[0].value is None and None not in [score.value for score in means[1:]]


def test_a_stage_trains_on_the_margins_of_its_rows(tmp_path: Path) -> None:
    """One pair, until its loss is 0: the gap of log-probabilities is (1 + 1/beta) times the margin."""
    policy = table()
    gap = by_hand(policy, "a", "b") - by_hand(policy, "a", "c")
    side = ("b", "c") if gap > 0 else ("c", "b")
    row = {"prompt_ids": [97], "chosen_ids": [ord(side[0])], "rejected_ids": [ord(side[1])], "margin": abs(gap)}
    optim = UpdateSection(use="sgd", lr=0.02, clip_norm=1e6)
    stage = PreferStage(
        kind="prefer", data="-", pairs="given", steps=200, batch_size=1, method="sharpen", beta=0.5, optim=optim
    )
    train_pairs(policy, [row], stage, seed=0, processes=1, log=lambda metrics: None)
    sharpened = by_hand(policy, "a", side[0]) - by_hand(policy, "a", side[1])
    assert sharpened == pytest.approx(3 * abs(gap), rel=1e-3)


def test_best_of_n_moves_mass_onto_the_mode_right_or_wrong() -> None:
    """Rounds of: draw 8, keep the likeliest, fit by maximum likelihood."""
    generator = torch.Generator().manual_seed(1)
    p = START.clone()
    masses = []
    for _ in range(3):
        drawn = torch.multinomial(p, 400 * 8, replacement=True, generator=generator).view(400, 8)
        likeliest = torch.stack([row[p[row].argmax()] for row in drawn])
        p = torch.bincount(likeliest, minlength=3).double() / 400
        masses.append(p[0].item())
    assert masses == sorted(masses) and masses[-1] > 0.99
    # accuracy is that mass where the mode is the right answer, and what is left of the others' where it is not
    assert 1 - masses[-1] < START[1:].sum()


def test_what_is_kept_of_a_task() -> None:
    rollouts = group(None, ["aaaa", "bb", "cc", "d"]).rollouts
    values = [1.0, 1.0, 1.0, 0.0]
    scored = [(rollout, Verdict(value=value)) for rollout, value in zip(rollouts, values, strict=True)]
    kept = {name: [rollout.text for rollout in keep(scored)] for name, keep in KEEP.items()}
    assert kept == {
        "all": ["aaaa", "bb", "cc", "d"],
        "correct": ["aaaa", "bb", "cc"],
        "incorrect": ["d"],
        "shortest": ["bb"],
        "best": ["aaaa"],
    }
    assert KEEP["shortest"](scored[3:]) == [] == KEEP["best"]([])
    negative = [(rollout, Verdict(value=-float(i))) for i, rollout in enumerate(rollouts)]
    assert [r.text for r in KEEP["best"](negative[::-1])] == ["aaaa"]
