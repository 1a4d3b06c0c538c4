"""What passed is decided by the first reward, also where the aggregate gives right completions low values."""

from __future__ import annotations

import pytest

from rlcore.credit.group import group_samples, outcome
from rlcore.curriculum.bands import Bands
from rlcore.curriculum.category_sampler import pass_rate
from rlcore.curriculum.prioritised import Prioritised
from rlcore.curriculum.uniform import Uniform
from rlcore.types import Group, Outcome, Verdict
from tests.credit.chains import GOOD, LOST, group
from tests.curriculum.worlds import category_tasks

TASKS = category_tasks({"a": 4})


def ranked() -> Group:
    """One wrong and two right completions, shaped by a reward model as in Qwen2.5-Math, and one without a score."""
    verdicts = [
        Verdict(value=-1.2, parts={"math": 0.0, "model": 3.0}),
        Verdict(value=-0.1, parts={"math": 1.0, "model": -2.0}),
        Verdict(value=0.3, parts={"math": 1.0, "model": 0.5}),
        Verdict(value=None, status="crashed", parts={"math": 1.0, "model": None}),
    ]
    of = group([[LOST], [GOOD], [GOOD], [GOOD]])
    return Group(task=of.task, rollouts=of.rollouts, verdicts=verdicts)


def test_an_outcome_holds_rewards_and_first_rewards_of_the_scored_rollouts() -> None:
    of = ranked()
    result = outcome(2, of, group_samples(of))
    assert result.rewards == (-1.2, -0.1, 0.3) and result.scores == (0.0, 1.0, 1.0)
    assert pass_rate([result]) == pytest.approx(2 / 3)
    plain = Outcome(index=0, category="a", rewards=(1.0, 0.0), abs_advantage=0.0)
    assert pass_rate([plain]) == 0.5


def test_samplers_read_the_first_rewards() -> None:
    rewards, scores = (-0.3, -0.1), (1.0, 1.0)
    solved = Outcome(index=1, category="a", rewards=rewards, scores=scores, abs_advantage=0.1)
    bands = Bands(TASKS, seed=0)
    bands.observe([solved])
    assert bands.band(1) == "easy"
    prioritised = Prioritised(TASKS, seed=0)
    prioritised.observe([solved])
    assert prioritised.weight(1) == 0.05
    uniform = Uniform(TASKS, seed=0)
    uniform.observe([solved])
    assert uniform.metrics()["curriculum/a/pass_rate"] == 1.0
