"""Samplers over categories and tasks, each against numbers worked out elsewhere; one battery for all of them."""

from __future__ import annotations

import json
import random
from collections import Counter

import numpy as np
import pytest

from rlcore.curriculum.aioli import Aioli, effects, step_mixture
from rlcore.curriculum.bands import Bands
from rlcore.curriculum.categories import Categories
from rlcore.curriculum.category_sampler import CategorySampler
from rlcore.curriculum.exp3 import Exp3
from rlcore.curriculum.mixture import Mixture
from rlcore.curriculum.prioritised import Prioritised
from rlcore.curriculum.rank_draws import RankDraws
from rlcore.curriculum.rs2 import Rs2
from rlcore.curriculum.skill_it import SkillIt
from rlcore.curriculum.task_sampler import CURRICULA
from rlcore.curriculum.thompson import Thompson
from rlcore.curriculum.ucb import Ucb
from rlcore.curriculum.uniform import Uniform
from rlcore.curriculum.variance import VarianceFirst
from rlcore.errors import RecipeError
from rlcore.plugin import build
from rlcore.types import Outcome, Task
from tests.curriculum.worlds import category_tasks, play

SIZES = {"easy": 30, "middle": 30, "hard": 30}
RATES = {"easy": 1.0, "middle": 0.5, "hard": 0.0}
SETTINGS: dict[str, dict] = {
    "ordered": {"by": "level"}, "rs2": {"share": 0.2}, "variance": {"by": "level01"}, "skill_it": {"every": 3},
    "bands": {"age": 5}, "aioli": {"every": 20, "sweeps": 1, "probe_steps": 2}, "sec": {"by": ["half", "category"]},
    "mixture": {"weights": {"easy": 1, "hard": 2}},
    "easy_to_hard": {"start": {"easy": 2, "middle": 1}, "end": {"hard": 1}, "hold": 2, "until": 9},
    "phases": {"phases": [{"until": 6, "weights": {"easy": 3, "hard": 1}}, {"weights": {"hard": 2, "middle": 5}}]},
    "cyclic": {"by": "score"}, "folded": {"by": "level"},
}  # fmt: skip


def tasks() -> list[Task]:
    return [
        Task(
            id=t.id,
            prompt="?",
            category=t.category,
            columns={**t.columns, "level01": t.columns["level"] / 2, "score": t.columns["level"] + 1, "tokens": 2 ** t.columns["level"]},
        )
        for t in category_tasks(SIZES)
    ]


def make(name: str, seed: int = 7):
    return build(
        {"use": name, **SETTINGS.get(name, {})}, CURRICULA, tasks(), what="curriculum", seed=seed
    )


@pytest.mark.parametrize("name", CURRICULA)
@pytest.mark.parametrize("before", [0, 1, 13])
def test_resume_goes_on_exactly(name: str, before: int) -> None:
    world = lambda task, step: RATES[task.category]  # noqa: E731
    whole = make(name)
    play(whole, tasks(), world, steps=before, batch=11)
    resumed = make(name, seed=99)
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    for step in range(8):
        a = play(whole, tasks(), world, steps=1, batch=11, seed=step)
        b = play(resumed, tasks(), world, steps=1, batch=11, seed=step)
        assert a == b and whole.metrics() == resumed.metrics()
    assert json.loads(json.dumps(whole.state_dict())) == json.loads(
        json.dumps(resumed.state_dict())
    )


@pytest.mark.parametrize("name", sorted(CURRICULA.keys() - {"buckets"}))
def test_ranks_draw_the_same_though_their_refills_differ(name: str) -> None:
    samplers = [make(name), make(name)]
    ranks = [
        RankDraws(sampler, tasks(), rank=rank, ranks=2) for rank, sampler in enumerate(samplers)
    ]
    rng = random.Random(0)
    for _ in range(6):
        resamples = [rng.randint(0, 4), rng.randint(0, 4)]
        firsts = [rank.draw_batch(7) for rank in ranks]
        assert [len(first) for first in firsts] == [4, 3]
        taken = [
            first + rank.draw_replacements(n)
            for first, rank, n in zip(firsts, ranks, resamples, strict=True)
        ]
        assert [len(t) for t in taken] == [4 + resamples[0], 3 + resamples[1]]
        told = [rank.resamples for rank in ranks]
        for rank in ranks:
            rank.end_batch(told)
        outcomes = [
            Outcome(index=i, category=tasks()[i].category, rewards=(1.0, 0.0), abs_advantage=0.7)
            for i in sorted(draw.task_index for draw in sum(taken, []))
        ]
        for sampler in samplers:
            sampler.observe(outcomes)
        assert samplers[0].state_dict() == samplers[1].state_dict()
    if name == "uniform":
        whole = Uniform(tasks(), seed=7).draw(11)
        again = [RankDraws(make(name), tasks(), rank=rank, ranks=2) for rank in range(2)]
        parts = [rank.draw_batch(7) + rank.draw_replacements(2) for rank in again]
        positions = [draw.task_index for draw in parts[0] + parts[1]]
        assert sorted(positions) == sorted(whole)  # no task is drawn twice or forgotten


@pytest.mark.parametrize("given", [[1.0], [0.0] * 3, [-1.0, 1.0, 1.0], [float("nan")] * 3])
def test_shares_that_are_no_shares_are_named(given: list[float]) -> None:
    class Odd(CategorySampler):
        def shares(self) -> list[float]:
            return given

    with pytest.raises(
        RecipeError,
        match=r"curriculum Odd: shares\(\) must give a number of 0 or more for each of 3 categories",
    ):
        Odd(tasks(), seed=0).draw(2)


def test_arms_are_a_column_or_a_product_and_are_drawn_without_replacement() -> None:
    categories = Categories(tasks(), by=["half", "level"], seed=0)
    assert (
        categories.names == ["a/0", "a/1", "a/2", "b/0", "b/1", "b/2"]
        and categories.sizes == [15] * 6
    )
    drawn = [categories.take(4) for _ in range(45)]
    assert (
        all(sorted(drawn[i : i + 15]) == list(range(31, 60, 2)) for i in (0, 15, 30))
        and drawn[:15] != drawn[15:30]
    )
    numbers = [Task(id=str(n), prompt="?", columns={"terms": n}) for n in (10, 9, 2)]
    assert Categories(numbers, by="terms", seed=0).names == ["2", "9", "10"]
    with pytest.raises(
        RecipeError, match="which task easy/0 has not; there are: category, half, level"
    ):
        Categories(category_tasks(SIZES), by="size", seed=0)


def test_a_column_is_read_without_making_the_tasks(tmp_path) -> None:
    from rlcore.tasks.dataset import dataset

    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(
            json.dumps({"prompt": f"{i}?", "kind": f"k{i % 3}", "n": i}) + "\n" for i in range(30)
        )
    )
    rows = dataset(str(path), columns={"category": "kind"}, shuffle_seed=1, limit=20)
    made = [(rows[i].category, rows[i].columns["n"]) for i in range(20)]
    assert list(zip(rows.column("category"), rows.column("n"), strict=True)) == made
    rows._make = None  # any task made from here on fails
    assert Categories(rows, by="category", seed=0).names == ["k0", "k1", "k2"]
    assert dataset(str(path)).column("category") == ["all"] * 30


def test_mixture_keeps_its_shares() -> None:
    sampler = Mixture(tasks(), weights={"easy": 1, "hard": 3}, seed=0)
    counts = Counter(tasks()[i].category for i in sampler.draw(4000))
    assert counts["middle"] == 0 and abs(counts["hard"] - 3000) < 140  # five standard errors
    with pytest.raises(RecipeError, match="names the category 'heavy'"):
        Mixture(tasks(), weights={"heavy": 1}, seed=0)
    with pytest.raises(RecipeError, match="shares of 0 or more"):
        Mixture(tasks(), weights={"easy": -1}, seed=0)


@pytest.mark.parametrize("kind", [Thompson, Ucb, Exp3])
def test_bandits_find_the_arm_that_teaches_and_follow_it_when_it_moves(kind) -> None:
    sampler = kind(tasks(), seed=0)

    def moved(task, step):
        rates = RATES if step < 60 else {"easy": 1.0, "middle": 1.0, "hard": 0.5}
        return rates[task.category]

    counts = play(sampler, tasks(), moved, steps=140, batch=16)
    first, last = (
        sum((counts[i] for i in steps), Counter()) for steps in (range(30, 60), range(110, 140))
    )
    assert max(first, key=first.get) == "middle" and first["middle"] > 0.5 * sum(first.values())
    assert max(last, key=last.get) == "hard" and last["hard"] > 0.5 * sum(last.values())
    assert sum(sampler.shares()) == pytest.approx(1)


def test_prioritised_draws_in_proportion_to_the_failures() -> None:
    sampler = Prioritised(tasks()[:4], cap=0.5, tries=16, floor=0.05, rate=1.0, seed=0)
    for _ in range(3):
        sampler.observe([Outcome(index=i, category="", rewards=(1.0,) * k + (0.0,) * (8 - k), abs_advantage=0.0)
                         for i, k in enumerate((8, 6, 2, 0))])  # fmt: skip
    assert [sampler.weight(i) for i in range(4)] == pytest.approx(
        [0.05, 0.25, 0.75, 0.5]
    )  # solved, ..., never solved: capped
    counts = Counter(sampler.draw(6000))
    assert [counts[i] / 6000 for i in range(4)] == pytest.approx(
        [w / 1.55 for w in (0.05, 0.25, 0.75, 0.5)], abs=0.03
    )
    sampler.observe([Outcome(index=3, category="", rewards=(1.0, 0.0), abs_advantage=1.0)])
    assert sampler.weight(3) == 0.5 and Prioritised(tasks(), seed=0).weight(3) == 1.0


def test_variance_first_is_a_stable_permutation() -> None:
    rates = [0.0, 0.5, 0.9, 0.5, 1.0, 0.2]
    data = [Task(id=str(i), prompt="?", columns={"rate": p, "scores": [1.0] * round(10 * p) + [0.0] * round(10 - 10 * p)})
            for i, p in enumerate(rates)]  # fmt: skip
    by_distance = sorted(range(6), key=lambda i: abs(rates[i] - 0.5))
    assert VarianceFirst(data, by="rate", seed=0).draw(12) == by_distance * 2
    assert VarianceFirst(data, by="scores", seed=0).draw(6) == by_distance == [1, 3, 5, 2, 0, 4]
    with pytest.raises(RecipeError, match="must hold scores or a pass rate"):
        VarianceFirst([Task(id="x", prompt="?", columns={"scores": "many"})], seed=0)


def test_bands_sort_tasks_by_solve_rate_and_forget_the_old() -> None:
    data = tasks()
    sampler = Bands(
        data,
        low=0.2,
        high=0.8,
        age=3,
        shares={"unseen": 0, "hard": 1, "middle": 2, "easy": 1},
        seed=0,
    )
    assert {sampler.band(i) for i in sampler.draw(90)} == {"unseen"}  # nothing else is there yet
    rates = {0: 8, 40: 4, 41: 3, 80: 0}
    outcomes = {i: (1.0,) * k + (0.0,) * (8 - k) for i, k in rates.items()}
    sampler.observe(
        [
            Outcome(index=i, category="", rewards=given, abs_advantage=0.0)
            for i, given in outcomes.items()
        ]
    )
    assert [sampler.band(i) for i in rates] == ["easy", "middle", "middle", "hard"]
    counts = Counter(sampler.draw(4000))
    assert set(counts) == set(rates) and counts[40] == pytest.approx(
        counts[41], abs=1
    )  # the one that waited longest
    assert counts[0] / 4000 == pytest.approx(0.25, abs=0.035)
    for _ in range(4):
        sampler.observe([Outcome(index=41, category="", rewards=(1.0, 0.0), abs_advantage=1.0)])
    assert [sampler.band(i) for i in rates] == ["unseen", "unseen", "middle", "unseen"]
    assert sampler.metrics() == {"curriculum/middle/frac": 1.0, "curriculum/middle/pass_rate": 0.5}
    again = Bands(data, shares={"unseen": 1}, seed=0)
    assert sorted(again.draw(90)) == list(range(90))


def test_skill_it_gives_the_numbers_of_its_note() -> None:
    data = category_tasks({"a": 5, "b": 5, "c": 5})
    sampler = SkillIt(data, graph={"a": {"b": 1}}, eta=0.5, every=1, window=1, seed=0)
    assert sampler.shares() == pytest.approx([0.452, 0.274, 0.274], abs=5e-4)
    sampler.load_learned_state(
        {"losses": [[1.0, 2.0, 0.5]], "sums": [[0.0, 0.0]] * 3, "steps": 1}
    )
    assert sampler.shares() == pytest.approx([0.528, 0.320, 0.151], abs=5e-4)
    sampler.load_learned_state(
        {"losses": [[1e4, 2e4, 0.5]], "sums": [[0.0, 0.0]] * 3, "steps": 1}
    )
    assert sum(sampler.shares()) == pytest.approx(1)
    plain = SkillIt(data, eta=0.5, every=2, seed=0)
    for _ in range(2):
        plain.observe(
            [
                Outcome(index=i, category="", rewards=r, abs_advantage=0)
                for i, r in ((0, (1.0, 0.0)), (5, (0.0,) * 4))
            ]
        )
    assert list(plain.values()) == [0.5, 1.0, 1.0] and plain.shares()[0] == min(plain.shares())
    assert SkillIt(data, eta=0.0, seed=0).shares() == pytest.approx([1 / 3] * 3)


def losses_of(**by_index: float) -> list[Outcome]:
    return [
        Outcome(index=int(name[1:]), category="", rewards=(), abs_advantage=0, loss=loss)
        for name, loss in by_index.items()
    ]


def test_skill_it_by_losses_of_demonstrations() -> None:
    """The note's numbers, of losses above 1 too; a window of two updates of two steps each, by hand."""
    data = category_tasks({"a": 5, "b": 5, "c": 5})
    sampler = SkillIt(data, graph={"a": {"b": 1}}, eta=0.5, every=1, window=1, seed=0)
    sampler.observe(losses_of(t0=0.5, t1=1.5, t5=2.0, t10=0.5))
    assert sampler.shares() == pytest.approx([0.528, 0.320, 0.151], abs=5e-4)
    assert sampler.metrics() == pytest.approx(
        {
            "curriculum/a/frac": 0.5, "curriculum/b/frac": 0.25, "curriculum/c/frac": 0.25,
            "curriculum/a/loss": 1.0, "curriculum/b/loss": 2.0, "curriculum/c/loss": 0.5,
            "curriculum/a/value": 1.0, "curriculum/b/value": 2.0, "curriculum/c/value": 0.5,
        }
    )  # fmt: skip
    slow = SkillIt(data, eta=1.0, every=2, window=2, seed=0)
    for a, b in [(3.0, 1.0), (1.0, 0.0), (0.5, 0.25), (0.5, 0.75)]:
        slow.observe(losses_of(t0=a, t5=b))
    logits = np.array([2.0 + 0.5, 0.5 + 0.5, 1.0 + 1.0])  # c was never seen: 1 twice
    assert slow.shares() == pytest.approx(np.exp(logits) / np.exp(logits).sum())


def test_aioli_by_losses_of_demonstrations() -> None:
    """A world that obeys a linear law exactly: the mixture moves as the law, divided by its sum, says."""
    data = category_tasks({"a": 40, "b": 40})
    law = np.array([[0.03, 0.01], [0.0, 0.02]])
    sampler = Aioli(data, eta=2.0, every=9, sweeps=1, probe_steps=4, smoothing=0.5, seed=0)
    loss = np.array([5.0, 4.0])
    for _ in range(9):
        mixture = np.array(sampler.shares())
        sampler.observe(losses_of(t0=loss[0], t40=loss[1]))
        loss = loss - mixture @ law
    gains = np.exp(2.0 * (law / law.sum()).sum(axis=1))
    assert sampler.values() == pytest.approx(gains / gains.sum())


def test_skill_it_helps_where_order_matters() -> None:
    """b can only be learned with a; a is soon learned itself, which would end its training without the edge."""

    def after(graph: dict | None) -> float:
        data = category_tasks({"a": 50, "b": 50})
        sampler, skill = (
            SkillIt(data, graph=graph, eta=2.0, every=5, window=1, seed=0),
            {"a": 0.2, "b": 0.0},
        )
        for step in range(60):
            (count,) = play(
                sampler, data, lambda task, _: skill[task.category], steps=1, batch=16, seed=step
            )
            skill["a"] = min(1.0, skill["a"] + 0.01 * count["a"])
            skill["b"] = min(1.0, skill["b"] + 0.002 * min(count["a"], count["b"]) * skill["a"])
        return skill["b"]

    assert after({"a": {"b": 1.0}}) > 1.2 * after(None)


def test_aioli_steps_and_recovers_a_linear_law() -> None:
    assert step_mixture([1 / 3] * 3, [0.4, 0.4, 0.2], 0.2) == pytest.approx(
        [0.3377, 0.3377, 0.3245], abs=1e-4
    )
    assert step_mixture([0.2, 0.3, 0.5], [0.4, 0.4, 0.2], 0.0) == pytest.approx([0.2, 0.3, 0.5])
    law = np.array([[0.3, 0.1, 0.0], [0.0, 0.2, 0.1], [0.0, 0.0, 0.3]])
    mixtures = 0.375 * np.eye(3) + 0.625 / 3
    noisy = mixtures @ law + np.random.default_rng(0).normal(0, 1e-4, (3, 3))
    assert np.abs(effects(mixtures @ law, mixtures) - law / law.sum()).max() < 1e-12
    assert np.abs(effects(noisy, mixtures) - law / law.sum()).max() < 0.01
    shifted = effects(mixtures @ (law - 0.1), mixtures)
    assert shifted.min() == 0 and shifted.sum() == pytest.approx(1)


def test_aioli_probes_every_arm_and_prefers_the_one_that_teaches() -> None:
    data = category_tasks({"useless": 50, "useful": 50})
    sampler = Aioli(data, eta=2.0, every=40, sweeps=2, probe_steps=3, smoothing=0.5, seed=0)
    skill, probed = {"useless": 0.0, "useful": 0.1}, []
    for step in range(40):
        probed.append(sampler.probed)
        mixture = sampler.shares()
        (count,) = play(
            sampler, data, lambda task, _: skill[task.category], steps=1, batch=64, seed=step
        )
        assert count["useful"] / 64 == pytest.approx(
            mixture[sampler.categories.names.index("useful")], abs=0.3
        )
        skill["useful"] = min(0.9, skill["useful"] + 0.002 * count["useful"])
    assert Counter(probed) == {0: 6, 1: 6, None: 28}
    assert sampler.values()[sampler.categories.names.index("useful")] > 0.6
    with pytest.raises(RecipeError, match="every > sweeps x probe_steps x categories"):
        Aioli(data, every=10, seed=0)


def test_rs2_draws_a_new_subset_each_epoch() -> None:
    walk, fresh = Rs2(tasks(), share=0.2, seed=0), Rs2(tasks(), share=0.2, replace=True, seed=0)
    epochs = [walk.draw(18) for _ in range(10)]
    assert (
        sorted(sum(epochs[:5], [])) == sorted(sum(epochs[5:], [])) == list(range(90))
        and epochs[0] != epochs[5]
    )
    drawn = [fresh.draw(18) for _ in range(5)]
    assert all(len(set(epoch)) == 18 for epoch in drawn) and len(set(sum(drawn, []))) < 90
    assert Rs2(tasks(), share=0.07, seed=0).draw(90) != sorted(range(90))


def test_metrics_name_the_sampler_s_own_categories() -> None:
    sampler = build(
        {"use": "sec", "by": ["half", "level"], "alpha": 1.0},
        CURRICULA,
        tasks(),
        what="curriculum",
        seed=0,
    )
    sampler.observe([Outcome(index=31, category="middle", rewards=(1.0, 0.0), abs_advantage=0.7),
                     Outcome(index=0, category="easy", rewards=(), abs_advantage=0.0)])  # fmt: skip
    found = sampler.metrics()
    assert found["curriculum/b/1/frac"] == 0.5 and found["curriculum/b/1/pass_rate"] == 0.5
    assert found["curriculum/b/1/value"] == 0.7 and found["curriculum/a/0/value"] == 0.0
    assert "curriculum/a/0/pass_rate" not in found
