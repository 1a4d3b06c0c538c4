"""The weighted vote against the majority vote, against a count by hand and against all subsets."""

from __future__ import annotations

import random
from itertools import combinations

import pytest

from rlcore.measures import weighted_vote
from rlcore.measures.majority import majority_at_k
from rlcore.measures.weighted_vote import weighted_vote_at_k
from rlcore.recipe.check import check
from rlcore.recipe.load import load
from rlcore.run.evaluation import TaskScores, accuracy_metrics


@pytest.mark.parametrize("weight", [1.0, 0.1, 1 / 3])
def test_equal_scores_reduce_the_sum_to_the_majority_vote(weight: float) -> None:
    draw = random.Random(0)
    for _ in range(30):
        n = draw.randint(1, 8)
        answers = [draw.choice(["a", "b", "c", None]) for _ in range(n)]
        rights = [float(answer == "a") for answer in answers]
        for k in range(1, n + 1):
            found = weighted_vote_at_k(answers, [weight] * n, rights, k)
            assert found == pytest.approx(majority_at_k(answers, rights, k), abs=1e-12)


def test_sum_and_max_by_hand() -> None:
    answers, weights, rights = ["9", "9", "9", "5"], [0.2, 0.2, 0.2, 0.5], [0.0, 0.0, 0.0, 1.0]
    assert weighted_vote_at_k(answers, weights, rights, 4, rule="sum") == 0.0  # 0.6 against 0.5
    assert weighted_vote_at_k(answers, weights, rights, 4, rule="max") == 1.0  # 0.2 against 0.5
    # of the subsets of three, one has only the wrong answer; in the others 0.4 stands against 0.5
    assert weighted_vote_at_k(answers, weights, rights, 3, rule="sum") == 0.75
    # equal weights of two answers share the decision; without a vote nothing is right
    assert weighted_vote_at_k(["a", "b"], [0.3, 0.3], [1.0, 0.0], 2) == 0.5
    assert weighted_vote_at_k(["a", "b"], [0.0, 0.0], [1.0, 0.0], 2) == 0.5
    assert weighted_vote_at_k([None, None], [1.0, 1.0], [1.0, 1.0], 2) == 0.0


@pytest.mark.parametrize("rule", ["sum", "max"])
def test_it_is_the_mean_over_all_subsets(rule: str) -> None:
    draw = random.Random(1)
    combine = {"sum": sum, "max": max}[rule]
    for _ in range(20):
        n, k = 6, draw.randint(1, 6)
        answers = [draw.choice("abc") for _ in range(n)]
        weights = [draw.randrange(8) / 8 for _ in range(n)]  # sums of eighths are exact
        rights = [float(answer == "b") for answer in answers]
        values = []
        for subset in combinations(range(n), k):
            total = {answer: combine(weights[i] for i in subset if answers[i] == answer) for answer in {answers[i] for i in subset}}
            best = [answer for answer in total if total[answer] == max(total.values())]
            values.append(best.count("b") / len(best))
        assert weighted_vote_at_k(answers, weights, rights, k, rule=rule) == pytest.approx(sum(values) / len(values))


def test_many_subsets_are_drawn_and_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(2)
    answers = [draw.choice("abc") for _ in range(12)]
    weights = [draw.random() for _ in answers]
    rights = [float(answer == "a") for answer in answers]
    exact = weighted_vote_at_k(answers, weights, rights, 6)
    monkeypatch.setattr(weighted_vote, "MAX_SUBSETS", 600)
    drawn = weighted_vote_at_k(answers, weights, rights, 6)
    assert drawn == weighted_vote_at_k(answers, weights, rights, 6)
    assert drawn == pytest.approx(exact, abs=0.06) and drawn != exact


def test_what_is_no_vote_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 0, not -0.5"):
        weighted_vote_at_k(["a"], [-0.5], [1.0], 1)
    with pytest.raises(ValueError, match="needs at least 3 completions"):
        weighted_vote_at_k(["a", "b"], [1.0, 1.0], [1.0, 0.0], 3)
    with pytest.raises(ValueError, match="do not fit"):
        weighted_vote_at_k(["a", "b"], [1.0], [1.0, 0.0], 1)


def test_an_evaluation_has_both_votes_beside_the_majority() -> None:
    """A completion whose reward failed has no weight and takes no part; a task without k of them is left out."""
    one = TaskScores("all", [0.0, 0.0, 1.0, 0.0], ["9", "9", "5", "9"], weights=[0.2, 0.2, 0.5, None])
    two = TaskScores("all", [1.0, 1.0], ["1", "1"], weights=[1.0, None])
    metrics = accuracy_metrics([one, two], ks=[2, 3], has_votes=True)
    assert metrics["vote_sum@3"] == metrics["vote_max@3"] == 1.0
    assert metrics["vote_sum@2"] == pytest.approx(2 / 3)  # two of the three subsets hold the right one
    assert metrics["maj@2"] == pytest.approx((0.25 + 1) / 2)
    assert "vote_sum@3" in metrics["intervals"]
    plain = accuracy_metrics([TaskScores("all", [1.0, 0.0], ["1", "2"])], ks=[2], has_votes=True)
    assert not any(key.startswith("vote") for key in plain)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ("weigh_by=judge", "there is no reward 'judge'"),
        ("weigh_by=exact", "nothing says how they are read: set vote_by"),
    ],
)
def test_what_cannot_weigh_is_refused(keys: str, sentence: str) -> None:
    recipe = load("quickstart", ["stages.before.num_samples=4", "stages.before.sampling.temperature=1.0", f"stages.before.{keys}"])
    with pytest.raises(Exception, match="stages.before.weigh_by") as error:
        check(recipe)
    assert sentence in str(error.value)
