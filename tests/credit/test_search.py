"""Searches from the last step back, and a limit on prefixes: the pit they name, what they pay, and what they miss."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from rlcore.credit.continuations import with_continuations
from rlcore.credit.estimator import Estimator
from rlcore.credit.group import group_credit
from rlcore.credit.monte_carlo import MonteCarlo
from rlcore.credit.per_step import per_step
from rlcore.credit.search import SEARCHES
from rlcore.credit.split import fixed
from rlcore.credit.step_values import without_zeros
from rlcore.errors import RecipeError
from rlcore.recipe.build_credit import build_step_values
from rlcore.recipe.load import load
from rlcore.types import Group, Prefix, Verdict
from tests.credit.chains import GOOD, LOST, group, reward, rollout, tabular, valued

STEPS, ROLLOUTS = 8, 4


def with_pit(at: int) -> Group:
    return group([[GOOD] * at + [LOST] + [GOOD] * (STEPS - at - 1), [GOOD] * STEPS], f"pit{at}")


def estimate(
    continue_: Callable[[Sequence[Prefix], float], list[Group]], **settings: object
) -> MonteCarlo:
    settings = {"rollouts": ROLLOUTS, "search": "backwards", **settings}
    return MonteCarlo(
        continue_=continue_, split=fixed(n=1), decode=lambda ids: "", max_tokens=STEPS, **settings
    )


def rarely(p: float) -> Callable[[Sequence[Prefix], float], list[Group]]:
    """A `Continue` whose every step but the last is right, and the last with probability p."""

    def finish(prefix: Prefix, k: int) -> list[int]:
        last = GOOD if random.Random(f"{prefix.id}/{k}").random() < p else LOST
        return [
            *prefix.rollout.completion_ids[: prefix.length],
            *[GOOD] * (STEPS - prefix.length - 1),
            last,
        ]

    def continue_(prefixes: Sequence[Prefix], left_s: float) -> list[Group]:
        answers = [[finish(prefix, k) for k in range(prefix.n)] for prefix in prefixes]
        return [
            Group(
                task=prefix.task,
                rollouts=[rollout(tokens, f"{prefix.id}~{k}") for k, tokens in enumerate(texts)],
                verdicts=[Verdict(value=reward(tokens)) for tokens in texts],
            )
            for prefix, texts in zip(prefixes, answers, strict=True)
        ]

    return continue_


@pytest.mark.parametrize("at", range(STEPS))
def test_backwards_pays_for_what_follows_the_pit_and_names_it(at: int) -> None:
    search = estimate(tabular(STEPS, error=0.0))
    found, cost, _ = valued(search, [with_pit(at)])
    values = found[f"pit{at}#0"]
    lengths = range(
        max(at, 1), STEPS
    )  # of the prefixes continued: dead ones, and the one before the pit
    assert values.pit() == at and cost.prefixes == len(lengths)
    assert cost.tokens == ROLLOUTS * sum(STEPS - length for length in lengths)
    assert values.values == [1.0, *[None] * (at - 1), *[1.0] * min(at, 1), *[0.0] * (STEPS - at)]


def test_a_late_pit_costs_less_than_bisection_and_an_early_one_more() -> None:
    def tokens(at: int, search: str) -> int:
        made = estimate(tabular(STEPS, error=0.0), search=search)
        values, cost, _ = valued(made, [with_pit(at)])
        assert values[f"pit{at}#0"].pit() == at
        return cost.tokens

    late, early = STEPS - 1, 0
    assert [tokens(late, search) for search in ("backwards", "bisect", "all", "until_dead")] == [
        4,
        28,
        112,
        112,
    ]
    assert [tokens(early, search) for search in ("backwards", "bisect", "all", "until_dead")] == [
        112,
        68,
        112,
        28,
    ]


def test_where_right_ends_are_rare_one_costs_the_least_at_the_last_prefix() -> None:
    made = [group([[GOOD] * (STEPS - 1) + [LOST], [LOST] * STEPS], f"late{i}") for i in range(400)]
    prices = {}
    for search in ("backwards", "bisect"):
        one = estimate(rarely(0.05), search=search, prefixes=1, rollouts=16)
        _, cost, continuations = valued(one, made)
        right = sum(verdict.value for _, of in continuations for verdict in of.verdicts)
        prices[search] = cost.tokens / right
    # the second answer of each group is lost for good, so a right end costs twice the tokens of a continuation over its chance
    assert prices["backwards"] == pytest.approx(2 * 1 / 0.05, rel=0.2)
    assert prices["bisect"] == pytest.approx(2 * 4 / 0.05, rel=0.2)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("limit", range(1, STEPS + 1))
def test_no_more_prefixes_of_an_answer_than_the_limit(search: str, limit: int) -> None:
    free, bound = (
        estimate(tabular(STEPS, error=0.0), search=search, prefixes=n) for n in (None, limit)
    )
    for at in range(STEPS):
        whole, free_cost, _ = valued(free, [with_pit(at)])
        part, cost, _ = valued(bound, [with_pit(at)])
        assert cost.prefixes == min(limit, free_cost.prefixes) and cost.left_out == 0
        [values] = part.values()
        assert sum(value is not None for value in values.values[1:-1]) == cost.prefixes
        if cost.prefixes == free_cost.prefixes:
            assert part == whole
    if limit == 2 and search == "all":
        assert [i for i, value in enumerate(values.values) if value is not None] == [
            0,
            2,
            6,
            STEPS,
        ]  # evenly spaced


def test_the_prompt_s_own_continuations_are_not_counted_by_the_limit() -> None:
    search = estimate(tabular(STEPS, error=0.0), prefixes=1, start="rollouts")
    found, cost, _ = valued(search, [with_pit(STEPS - 1)])
    [values] = found.values()
    assert values.values[0] == 1.0 and values.values[-2] == 1.0 and cost.prefixes == 2


def test_a_right_answer_costs_its_last_prefix() -> None:
    search = estimate(tabular(STEPS, error=0.0), completions="positives")
    found, cost, _ = valued(search, [with_pit(2)])
    values = found["pit2#1"]
    assert cost.tokens == ROLLOUTS and values.values[-2:] == [1.0, 1.0]


def test_an_answer_without_any_right_end_costs_its_tokens_and_nothing_else() -> None:
    """Its group is all wrong, its values are 0, its continuations all wrong: no sample of them is left to be counted."""
    dead = group([[GOOD] * (STEPS - 1) + [LOST], [LOST] * STEPS], "dead")
    for p in (0.0, 0.5, 1.0):
        search = estimate(rarely(p), prefixes=1)
        compared = group_credit(baseline="mean_std", zero_variance="keep")
        credit = with_continuations(per_step(compared), compared, "all")
        groups, cost = search([dead])
        [samples] = without_zeros(credit)(groups)
        grown = [sample for sample in samples if "~" in sample.id]
        assert cost.tokens == 2 * ROLLOUTS and cost.informative == (p > 0)
        assert [sample.id for sample in samples if "~" not in sample.id] == (
            ["dead#0"] if p else []
        )
        assert len(grown) == (
            ROLLOUTS if p == 0.5 else 0
        )  # all right or all wrong, they teach nothing
        assert all(sum(sample.mask) == 1 for sample in grown)  # only the last step is theirs


def test_a_limit_of_none_is_refused() -> None:
    with pytest.raises(RecipeError, match="prefixes"):
        steps_of_chain("prefixes=0")
    with pytest.raises(RecipeError, match="backwards"):
        steps_of_chain("search=forwards")


def steps_of_chain(override: str) -> Estimator:
    recipe = load(
        "recipes/papers/rl_on_incorrect/late.yaml", [f"stages.rl.credit.steps.{override}"]
    )
    stage = next(stage for stage in recipe.stages if stage.kind == "rl")
    return build_step_values(stage.credit.steps, stage, tabular(2, error=0.2), str)
