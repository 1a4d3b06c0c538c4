"""A filter's memory: what was rejected is tried less often, comes back when it is accepted, and costs less."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from rlcore.credit.group import group_samples, outcome
from rlcore.curriculum.filter import zero_variance
from rlcore.curriculum.prefilter import Prefilter
from rlcore.curriculum.rank_draws import RankDraws
from rlcore.curriculum.uniform import Uniform
from rlcore.errors import RecipeError
from rlcore.recipe.build import build_prefilter
from rlcore.rollout.collector import CollectedBatch
from rlcore.stages.rl import RlStage
from rlcore.types import Outcome
from tests.curriculum.test_filter import SIZE, TASKS, Taken, accuracies, gathered, waste
from tests.curriculum.worlds import category_tasks

FEW = category_tasks({"easy": 3, "hard": 3})


def of(index: int, accepted: bool) -> Outcome:
    return Outcome(
        index=index,
        category=FEW[index].category,
        rewards=(1.0, 0.0),
        abs_advantage=1.0,
        accepted=accepted,
    )


def skipping(**how) -> Prefilter:
    return Prefilter(Uniform(FEW, seed=0), FEW, seed=0, **how)


def test_the_chance_after_z_refusals() -> None:
    sampler = skipping(rate=0.3, least=0.05)
    for z in range(1, 12):
        sampler.observe([of(2, False)])
        assert sampler.chance(2) == pytest.approx(max(0.05, 0.7**z)) and sampler.chance(1) == 1
    sampler.observe([of(2, True)])
    assert sampler.chance(2) == pytest.approx(0.3 + 0.7**12)


def test_a_kind_is_remembered_together_by_its_share_in_each_step() -> None:
    sampler = skipping(by="level")
    sampler.observe([of(0, True), of(1, False), of(2, False), of(0, False)])
    assert [sampler.chance(i) for i in range(6)] == pytest.approx([0.625] * 3 + [1] * 3)
    both = skipping(by=["level", "half"])
    both.observe([of(0, False)])
    assert [both.chance(i) for i in range(6)] == [0.5, 1, 0.5, 1, 1, 1]


def test_a_task_is_drawn_as_often_as_its_chance_says() -> None:
    sampler = skipping(by="category", rate=0.8)
    sampler.observe([of(0, False)])
    drawn = Counter(FEW[i].category for i in sampler.draw(6000))
    expected = 0.2 / 1.2
    assert drawn["easy"] / 6000 == pytest.approx(
        expected, abs=4 * math.sqrt(expected * (1 - expected) / 6000)
    )
    sampler.observe([])
    walked = sampler.state_dict()["looked"]
    assert sampler.metrics()[
        "prefilter/skipped"
    ] == walked - 6000 and walked * 0.6 == pytest.approx(6000, rel=0.05)


def test_state_is_json_and_draws_go_on_as_they_were() -> None:
    first, second = skipping(), skipping(rate=0.9)
    for _ in range(4):
        first.observe([of(i, i > 3) for i in set(first.draw(5))])
    state = json.loads(json.dumps(first.state_dict()))
    second = skipping()
    second.load_state_dict(state)
    assert second.draw(40) == first.draw(40) and second.state_dict() == first.state_dict()


def steps(
    by: str | None, *, n: int = 12, told: Sequence[bool] = (True, False), seed: int = 0
) -> list[float]:
    """Waste of each of n steps: no filter at all where `by` is None, else a filter with a memory.

    told: what the memory is told of groups accepted and refused.
    """
    uniform = Uniform(TASKS, seed=seed)
    sampler = uniform if by is None else Prefilter(uniform, TASKS, by=by, seed=seed)
    given = Taken(RankDraws(sampler, TASKS))
    wasted = []
    for _ in range(n):
        found = gathered(None if by is None else zero_variance(), given, answers=16)
        assert len(found.groups) == SIZE
        wasted.append(waste(found))
        outcomes = _outcomes(found, told)
        given.draws.end_batch([given.draws.resamples])
        sampler.observe(outcomes)
    return wasted


def _outcomes(found: CollectedBatch, told: Sequence[bool]) -> list[Outcome]:
    listed = [(p, g, told[0]) for p, g in zip(found.draws, found.groups, strict=True)]
    listed += [(p, g, told[1]) for p, g in zip(found.rejected_draws, found.rejected, strict=True)]
    graded = [(draw, accuracies(group), accepted) for draw, group, accepted in listed]
    return [
        replace(outcome(draw.task_index, group, group_samples(group)), accepted=accepted)
        for draw, group, accepted in graded
    ]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def test_with_the_gate_the_waste_falls_by_more_than_half() -> None:
    """Uniform over a solved, a half-solved and an impossible category, twelve groups of sixteen in every batch, from the start."""
    plain = mean([mean(steps(None, seed=seed)) for seed in range(3)])
    by_category = mean([mean(steps("category", seed=seed)) for seed in range(3)])
    print(f"waste, by category: no filter {plain:.3f}, filter with a memory {by_category:.3f}")
    assert by_category <= 0.5 * plain


def test_memory_of_single_tasks_needs_some_epochs() -> None:
    wasted = steps("task", n=40)
    print(f"waste, by task: first steps {mean(wasted[:4]):.3f}, last steps {mean(wasted[-8:]):.3f}")
    assert mean(wasted[:4]) > 0.5 and mean(wasted[-8:]) < 0.25


def test_a_memory_that_is_told_that_all_is_admitted_saves_nothing() -> None:
    assert mean(steps("category", told=(True, True))) == pytest.approx(mean(steps(None)), abs=0.12)


def test_in_a_recipe() -> None:
    def stage(**more) -> RlStage:
        return RlStage(kind="rl", tasks="t", steps=1, rewards=[{"use": "exact"}], **more)

    uniform = Uniform(FEW, seed=0)
    made = build_prefilter(
        stage(filter="zero_variance", prefilter={"use": "greso", "by": "level"}),
        uniform,
        FEW,
        seed=0,
    )
    assert isinstance(made, Prefilter) and sorted(made.draw(6)) == list(range(6))
    with pytest.raises(
        ValueError, match="prefilter remembers what a filter rejected: set filter too"
    ):
        stage(prefilter="greso")
    with pytest.raises(RecipeError, match="goes by the column 'domain', which task easy/0 has not"):
        build_prefilter(
            stage(filter="zero_variance", prefilter={"use": "greso", "by": "domain"}),
            uniform,
            FEW,
            seed=0,
        )
    assert build_prefilter(stage(filter="zero_variance"), uniform, FEW, seed=0) is uniform
    with pytest.raises(RecipeError, match="'level' names no prefilter"):
        build_prefilter(stage(filter="zero_variance", prefilter="level"), uniform, FEW, seed=0)


@pytest.mark.parametrize("given", [[], [0], [10**9] * 4, ["a"] * 4, None, [-1] * 4])
def test_a_sampler_that_draws_something_else_is_named(given: object) -> None:
    class Odd(Uniform):
        def draw(self, n: int) -> list[int]:
            return given

    with pytest.raises(
        RecipeError,
        match=r"curriculum Odd: draw\(4\) must give a list of 4 positions from 0 to 5, not",
    ):
        Prefilter(Odd(FEW, seed=0), FEW, seed=0).draw(4)
