"""What was not measured is left out of the metrics: never a 0 that nobody counted."""

from __future__ import annotations

import pytest

from rlcore.run.metrics import GroupFacts, dead_states, learner_metrics, rollout_metrics
from rlcore.types import StepReport

NOTHING = StepReport(
    loss=None,
    losses={},
    grad_norm=None,
    lr=1e-3,
    entropy=None,
    kl=None,
    ratio_max=None,
    clip_frac=None,
    tokens=0,
    sequences=2,
)


def facts(values: list[float | None], **parts: list[float | None]) -> GroupFacts:
    n = len(values)
    return GroupFacts(
        values=values,
        parts=[{name: column[i] for name, column in parts.items()} for i in range(n)],
        statuses=["ok" if value is not None else "unscorable" for value in values],
        failure="",
        lengths=[4] * n,
        finishes=["stop"] * n,
        prompt_tokens=3 * n,
    )


def test_a_reward_that_scored_nothing_has_no_mean() -> None:
    found = rollout_metrics(
        [facts([1.0, 0.0, None], math=[1.0, 0.0, None], judge=[None, None, None])]
    )
    assert found["reward/math"] == 0.5 and "reward/judge" not in found
    assert found["reward/frac_unscored"] == pytest.approx(1 / 3) and found["reward/mean"] == 0.5


def test_only_groups_of_two_scored_answers_have_a_variance() -> None:
    found = rollout_metrics(
        [facts([1.0, 1.0]), facts([1.0, 0.0]), facts([1.0, None]), facts([None, None])]
    )
    assert found["reward/frac_zero_std"] == 0.5
    alone = rollout_metrics([facts([1.0]), facts([0.0])])
    assert "reward/frac_zero_std" not in alone and dead_states(alone | {"tokens/trained": 9}) == []
    [said] = dead_states(alone | {"tokens/trained": 0})
    assert "advantage of 0" in said


def test_where_all_rewards_are_equal_a_scheme_may_still_teach() -> None:
    equal = rollout_metrics([facts([0.0, 0.0])]) | {"tokens/trained": 4}
    assert dead_states(equal | {"tokens/frac_wasted": 0.5}) == []
    assert "nothing was learned" in dead_states(equal | {"tokens/frac_wasted": 1.0})[0]


def test_a_step_without_a_token_says_only_what_is_known() -> None:
    assert learner_metrics(NOTHING) == {"lr": 1e-3, "tokens/trained": 0}
