"""Step values by continuation: they find planted errors, add up, and keep to their budget."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from math import comb

import pytest

from rlcore.credit.monte_carlo import MonteCarlo, best_of
from rlcore.credit.siblings import Siblings
from rlcore.credit.split import fixed
from rlcore.errors import RecipeError
from rlcore.types import Group, Prefix, Verdict
from tests.credit.chains import (
    GOOD,
    LOST,
    SLIP,
    chance,
    group,
    interleaved,
    tabular,
    valued,
)

CHAINS = 100


def monte_carlo(
    steps: int, *, error: float = 0.05, seed: int = 0, **settings: object
) -> MonteCarlo:
    return MonteCarlo(
        continue_=tabular(steps, error=error, seed=seed), split=fixed(n=1), decode=lambda ids: "", max_tokens=steps, **settings
    )  # fmt: skip


def planted(steps: int) -> list[tuple[Group, int]]:
    """Groups of one right answer and one with an error at a known step."""
    rng, made = random.Random(5), []
    for i in range(CHAINS):
        at = rng.randrange(steps)
        made.append(
            (
                group(
                    [[GOOD] * steps, [GOOD] * at + [LOST] + [GOOD] * (steps - at - 1)], f"chain{i}"
                ),
                at,
            )
        )
    return made


def found(steps: int, **settings: object) -> float:
    """Share of chains whose planted step has the lowest advantage and is the first pit."""
    chains = planted(steps)
    estimator = monte_carlo(steps, start="rollouts", **settings)
    values, _, _ = valued(estimator, [group for group, _ in chains])
    hits = 0
    for made, at in chains:
        steps_of = values[f"{made.rollouts[1].id}"]
        hits += steps_of.advantages.index(min(steps_of.advantages)) == at == steps_of.pit()
    return hits / CHAINS


def test_a_planted_error_is_found() -> None:
    assert found(6, rollouts=16) >= 0.95
    assert found(6, rollouts=16, best_of=5) >= 0.95


def test_one_rollout_a_step_is_not_enough() -> None:
    assert found(6, rollouts=1, error=0.2) < 0.9  # the check above can fail


def test_the_first_pit_is_where_recovery_ends_not_where_the_answer_first_slips() -> None:
    answer = [GOOD, SLIP, GOOD, LOST, GOOD]
    found, _, _ = valued(monte_carlo(5, rollouts=64), [group([answer, [GOOD] * 5])])
    values = found["chain#0"]
    assert values.pit() == 3 and values.advantages[1] < -0.25
    wanted = [1.0, *(chance(answer[:i], 5, 0.05) for i in range(1, 5)), 0.0]
    assert values.values == pytest.approx(wanted, abs=0.2)


def test_advantages_add_up_to_reward_less_the_prompts_value() -> None:
    made = [group for group, _ in planted(8)]
    for settings in ({}, {"search": "bisect"}, {"search": "until_dead"}):
        estimator = monte_carlo(
            8, rollouts=16, error=0.2, start="rollouts", completions="all", **settings
        )
        for values in valued(estimator, made)[0].values():
            exact = settings == {}  # values are sixteenths, which floats hold
            wanted = values.values[-1] - values.values[0]
            assert sum(values.advantages) == (wanted if exact else pytest.approx(wanted, abs=1e-12))
            for j in range(len(values.spans)):
                assert sum(values.advantages[:j]) == pytest.approx(
                    values.filled[j] - values.values[0], abs=1e-12
                )


def test_bisection_finds_the_pit_of_the_full_scan_with_a_third_of_the_prefixes() -> None:
    steps, made = 16, [group for group, _ in planted(16)]
    scan, bisection = (
        monte_carlo(steps, rollouts=16),
        monte_carlo(steps, rollouts=16, search="bisect", seed=1),
    )
    whole, full_cost, _ = valued(scan, made)
    quick, cost, _ = valued(bisection, made)
    same = sum(whole[id].pit() == quick[id].pit() for id in whole)
    assert same >= 0.9 * CHAINS
    assert cost.prefixes < full_cost.prefixes / 3


def test_stopping_when_dead_spends_nothing_after_the_pit() -> None:
    answer = [GOOD, GOOD, LOST, GOOD, GOOD, GOOD]
    walk = monte_carlo(6, rollouts=8, search="until_dead")
    found, cost, _ = valued(walk, [group([answer, [GOOD] * 6])])
    values = found["chain#0"]
    assert (
        cost.prefixes == 3 and values.values[4:6] == [None, None] and values.filled[3:] == [0.0] * 4
    )
    assert values.pit() == 2


@pytest.mark.parametrize(("n", "k"), [(5, 5), (8, 5), (6, 3), (4, 1)])
def test_the_best_of_k_is_estimated_without_bias(n: int, k: int) -> None:
    for q in (0.05, 0.2, 0.5, 0.9):
        share = [comb(n, c) * q**c * (1 - q) ** (n - c) for c in range(n + 1)]
        mean = sum(p * best_of(n, c, k) for c, p in enumerate(share))
        assert mean == pytest.approx(1 - (1 - q) ** k, abs=1e-12)
        if k > 1:  # the plain way is biased, so the check can tell
            plain = sum(p * (1 - (1 - c / n) ** k) for c, p in enumerate(share))
            assert abs(plain - (1 - (1 - q) ** k)) > 1e-5
    with pytest.raises(ValueError, match="cannot be estimated from 3 attempts"):
        best_of(3, 1, 4)


def test_negatives_are_valued_unless_all_are_asked_for_and_a_share_is_of_each_group() -> None:
    made = group(
        [[GOOD] * 4, [LOST, *[GOOD] * 3], [GOOD, LOST, GOOD, GOOD], [GOOD, GOOD, LOST, GOOD]]
    )

    def ids(**settings: object) -> set[str]:
        return set(valued(monte_carlo(4, **settings), [made])[0])

    assert ids() == {"chain#1", "chain#2", "chain#3"}
    assert ids(completions="positives") == {"chain#0"}
    assert ids(completions="all") == {f"chain#{i}" for i in range(4)}
    assert len(ids(share=0.4)) == 2


def test_siblings_give_the_prompts_value_without_the_answers_own_reward() -> None:
    made = group([[GOOD] * 3, [GOOD] * 3, [LOST, GOOD, GOOD]])
    values, _, _ = valued(monte_carlo(3, completions="all"), [made])
    assert values["chain#2"].values[0] == 1.0 and values["chain#0"].values[0] == 0.5
    found, _, _ = valued(monte_carlo(3, rollouts=16), [group([[LOST, GOOD, GOOD]])])
    alone = found["chain#0"]
    assert (
        0.5 < alone.values[0] < 1.0
    )  # nobody to compare with: continuations of the empty prefix take their place
    few, _, _ = valued(monte_carlo(3, rollouts=16, best_of=3), [made])
    assert 0.5 < few["chain#2"].values[0] <= 1.0


def test_equal_prefixes_are_continued_once() -> None:
    estimate = monte_carlo(4)
    answers = [[GOOD, GOOD, LOST, GOOD], [GOOD, GOOD, GOOD, LOST], [GOOD] * 4]
    _, cost, _ = valued(estimate, [group(answers)])
    assert cost.prefixes == 4  # two shared ones, one more of each answer


def test_tokens_stay_below_the_total_and_answers_without_values_are_left_out() -> None:
    made = [group([[GOOD] * 6, [GOOD, LOST, *[GOOD] * 4]], f"g{i}") for i in range(10)]
    full = monte_carlo(6, rollouts=4)
    _, full_cost, _ = valued(full, made)
    half = monte_carlo(6, rollouts=4, total_tokens=full_cost.tokens // 2)
    values, cost, _ = valued(half, made)
    assert len(values) == 5 and cost.tokens <= full_cost.tokens // 2 and cost.left_out == 25
    assert valued(monte_carlo(6, total_tokens=3), made)[0] == {}


def test_a_round_after_the_deadline_is_not_begun() -> None:
    calls: list[int] = []
    slow = monte_carlo(6, search="until_dead", deadline_s=0.05)
    inner = slow.continue_

    def late(prefixes: Sequence[Prefix], left_s: float) -> list[Group]:
        import time

        calls.append(len(prefixes))
        time.sleep(0.1)
        return inner(prefixes, left_s)

    slow.continue_ = late
    found, cost, _ = valued(slow, [group([[GOOD] * 6, [GOOD] * 5 + [LOST]])])
    values = found["chain#1"]
    assert calls == [1] and values.values[2] is None and cost.left_out == 1
    assert sum(values.advantages) == pytest.approx(-1.0)


def test_continuations_that_failed_give_no_value() -> None:
    estimate = monte_carlo(4)

    def nothing(prefixes: Sequence[Prefix], left_s: float) -> list[Group]:
        return [Group(task=prefix.task, rollouts=[], verdicts=[]) for prefix in prefixes]

    estimate.continue_ = nothing
    assert valued(estimate, [group([[GOOD] * 4, [LOST, GOOD, GOOD, GOOD]])])[0] == {}


def test_completions_that_passed_by_the_first_reward_are_no_negatives() -> None:
    """With an aggregate that ranks, a right completion with a low reward-model score has a low value, and still passed."""
    of = group([[GOOD] * 4, [LOST] * 4])
    ranked = [
        Verdict(value=-0.3, parts={"math": 1.0, "model": -2.0}),
        Verdict(value=-0.9, parts={"math": 0.0, "model": 3.0}),
    ]
    of = replace(of, verdicts=ranked)
    assert set(valued(monte_carlo(4), [of])[0]) == {"chain#1"}
    assert set(valued(monte_carlo(4, completions="positives"), [of])[0]) == {"chain#0"}


def test_equal_prefixes_of_two_groups_of_a_task_are_continued_once() -> None:
    wrong = [[GOOD, GOOD, LOST, GOOD], [GOOD] * 4]
    results, cost = monte_carlo(4)([group(wrong), group(wrong)])
    assert cost.prefixes == 3 and cost.completions == 2
    assert sorted(len(result.continuations) for result in results) == [0, 3]
    assert results[0].step_values == results[1].step_values


def test_a_call_leaves_nothing_behind() -> None:
    estimator = monte_carlo(4)
    of = [group([[GOOD, LOST, GOOD, GOOD], [GOOD] * 4])]
    first, first_cost = estimator(of)
    second, second_cost = estimator(of)
    assert first == second and first_cost == second_cost
    assert of[0].step_values == {} and of[0].continuations == ()


def test_rollouts_of_several_turns_are_refused() -> None:
    for estimator in (monte_carlo(4), Siblings(split=fixed(n=1), decode=str)):
        with pytest.raises(RecipeError, match="only single-turn rollouts, and rollout 'chain#1'"):
            estimator([interleaved()])
