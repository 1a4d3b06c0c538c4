"""Step values from the answers of the same group, against their definition written out in another way."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from rlcore.credit.estimator import Cost
from rlcore.credit.group import group_credit
from rlcore.credit.siblings import Siblings
from rlcore.credit.split import delimiter, fixed
from rlcore.credit.vine import vine
from rlcore.errors import RecipeError
from rlcore.recipe.build_credit import build_credit, build_step_values
from rlcore.types import Group, StepValues, Verdict
from tests.credit.chains import GOOD, LOST, group, valued
from tests.credit.test_step_schemes import stage

EACH_TOKEN = {"split": fixed(n=1), "decode": str}


def drawn(seed: int, *, answers: int = 12) -> Group:
    """Answers of two to six tokens out of three, with rewards that are no function of the tokens."""
    rng = random.Random(seed)
    made = group(
        [[rng.choice([1, 2, 3]) for _ in range(rng.randint(2, 6))] for _ in range(answers)]
    )
    return replace(
        made, verdicts=[Verdict(value=rng.choice([0.0, 0.25, 1.0])) for _ in made.rollouts]
    )


def sibling_values(of: Group) -> dict[str, StepValues]:
    """Values of the steps, one token each, of all completions."""
    values, _, _ = valued(Siblings(**EACH_TOKEN, completions="all"), [of])
    return values


def brute_force(answers: list[list[int]], rewards: list[float]) -> list[list[float]]:
    """Q of each answer: for each of its beginnings but the last, the rewards of all longer answers that begin so."""
    table = []
    for answer, reward in zip(answers, rewards, strict=True):
        row = []
        for i in range(len(answer)):
            same = [
                r
                for other, r in zip(answers, rewards, strict=True)
                if len(other) > i and other[:i] == answer[:i]
            ]
            row.append(sum(same) / len(same))
        table.append([*row, reward])
    return table


@pytest.mark.parametrize("seed", range(20))
def test_values_are_the_mean_rewards_of_answers_that_begin_alike(seed: int) -> None:
    of = drawn(seed)
    found = sibling_values(of)
    rewards = [verdict.value for verdict in of.verdicts]
    wanted = brute_force([rollout.completion_ids for rollout in of.rollouts], rewards)
    for rollout, row, reward in zip(of.rollouts, wanted, rewards, strict=True):
        values = found[rollout.id]
        assert values.values == pytest.approx(row)
        assert sum(values.advantages) == pytest.approx(reward - sum(rewards) / len(rewards))


def test_the_order_of_the_answers_changes_nothing() -> None:
    of = drawn(3)
    order = random.Random(0).sample(range(12), 12)
    turned = replace(
        of, rollouts=[of.rollouts[i] for i in order], verdicts=[of.verdicts[i] for i in order]
    )
    first, second = sibling_values(of), sibling_values(turned)
    assert first.keys() == second.keys()
    for id, values in first.items():
        assert second[id].values == pytest.approx(values.values)


def test_advantages_of_all_answers_at_a_branch_add_up_to_nothing() -> None:
    """The baseline of a state is the mean of what follows it, so a state pushes its steps neither up nor down together."""
    of = drawn(5)
    found = sibling_values(of)
    answers = {rollout.id: rollout.completion_ids for rollout in of.rollouts}
    states = {tuple(answer[:i]) for answer in answers.values() for i in range(len(answer))}
    for state in states:
        i = len(state)
        here = [
            found[id].advantages[i]
            for id, answer in answers.items()
            if len(answer) > i and tuple(answer[:i]) == state
        ]
        assert sum(here) == pytest.approx(0, abs=1e-12)


def test_a_wrong_answer_is_pushed_down_where_it_left_the_right_one_and_nowhere_else() -> None:
    of = group([[GOOD] * 4, [GOOD] * 4, [GOOD, GOOD, LOST, GOOD], [LOST, GOOD, GOOD, LOST]])
    found = sibling_values(of)
    assert (
        found["chain#2"].values == pytest.approx([1 / 2, 2 / 3, 2 / 3, 0, 0])
        and found["chain#2"].pit() == 2
    )
    assert found["chain#3"].advantages == pytest.approx([-1 / 2, 0, 0, 0])
    assert found["chain#0"].advantages == pytest.approx([1 / 6, 0, 1 / 3, 0])
    negatives, _, _ = valued(Siblings(**EACH_TOKEN), [of])
    assert set(negatives) == {"chain#2", "chain#3"}


TEXTS = ("a2=2;b3=5;c1=6", "x2=2;y3=5;z1=7", "k2=9;l3=5;m1=6", "k2=2;l3=?;m1=6")


def test_a_state_is_told_by_what_the_expression_matches() -> None:
    """Letters differ in every answer; results after = are the states.

    Where nothing matches, all text so far is.
    """
    of = group([[ord(c) for c in text] for text in TEXTS])
    of = replace(of, verdicts=[Verdict(value=value) for value in (1.0, 0.0, 0.5, 0.25)])
    siblings = Siblings(
        split=delimiter(at=";"),
        decode=lambda ids: "".join(map(chr, ids)),
        state=r"=\d+",
        completions="all",
    )
    found, cost, continuations = valued(siblings, [of])
    values = {id: steps.values for id, steps in found.items()}
    start, two = 1.75 / 4, 1.25 / 3
    wanted = [
        [start, two, 0.5, 1.0],
        [start, two, 0.5, 0.0],
        [start, 0.5, 0.5, 0.5],
        [start, two, 0.25, 0.25],
    ]
    for i, row in enumerate(wanted):
        assert values[f"chain#{i}"] == pytest.approx(row)
    assert cost == Cost(completions=4, informative=4) and continuations == []
    with pytest.raises(RecipeError, match="not a regular expression"):
        Siblings(**EACH_TOKEN, state="(")


def test_answers_without_a_score_count_nowhere() -> None:
    of = group([[GOOD] * 3, [GOOD, LOST, GOOD], [GOOD] * 3])
    of = replace(of, verdicts=[*of.verdicts[:2], Verdict(value=None, status="crashed")])
    found = sibling_values(of)
    assert set(found) == {"chain#0", "chain#1"} and found["chain#0"].values == pytest.approx(
        [0.5, 0.5, 1.0, 1.0]
    )


def exact_gradients(error: list[float], size: int) -> tuple[list[float], list[float]]:
    """Mean over all possible groups of what vine on siblings, and the group's mean, push step i
    up by: d/d logit of "right".

    A policy of L binary steps, right with probability 1 - error[i]; only all right earns 1.
    """
    steps = len(error)
    chains = list(itertools.product([GOOD, LOST], repeat=steps))
    chance = {c: 1.0 for c in chains}
    for c in chains:
        for token, e in zip(c, error, strict=True):
            chance[c] *= e if token == LOST else 1 - e
    pushes = {name: [0.0] * steps for name in ("siblings", "mean")}
    mean = group_credit(baseline="mean", zero_variance="keep")
    for members in itertools.product(chains, repeat=size):
        p = 1.0
        for c in members:
            p *= chance[c]
        of = group([list(c) for c in members])
        [of], _ = Siblings(**EACH_TOKEN, completions="all")([of])
        for name, credit in (("siblings", vine(mean)), ("mean", mean)):
            for sample, c in zip(credit([of])[0], members, strict=True):
                for i, token in enumerate(c):
                    pushes[name][i] += (
                        p / size * sample.advantages[1 + i] * ((token == GOOD) - (1 - error[i]))
                    )
    return pushes["siblings"], pushes["mean"]


def test_the_expected_gradient_points_where_that_of_the_group_does() -> None:
    """Two steps, groups of three, all of them enumerated. True gradient of step i: value x error.
    The group's mean gives it times (size - 1) / size, as its baseline holds the answer itself;
    siblings no more than that, and less the fewer reach the step."""
    error, size = [0.3, 0.6], 3
    siblings, mean = exact_gradients(error, size)
    true = [0.7 * 0.4 * e for e in error]
    assert mean == pytest.approx([t * (size - 1) / size for t in true])
    assert siblings[0] == pytest.approx(mean[0])
    assert 0.4 * true[1] < siblings[1] < mean[1]


def test_a_recipe_asks_for_siblings_and_writes_nothing() -> None:
    chosen = stage(scheme={"use": "vine", "normalise": True}, use="siblings")

    def refuse(prefixes: object, left_s: float) -> list[Group]:
        raise AssertionError("nothing is to be continued")

    estimator = build_step_values(chosen.credit.steps, chosen, refuse, str)
    of = group([[GOOD] * 4, [GOOD] * 4, [GOOD, GOOD, LOST, GOOD], [LOST] * 4])
    groups, cost = estimator([of])
    [samples] = build_credit(chosen.credit)(groups)
    by_id = {sample.id: sample.advantages[1:] for sample in samples}
    spread = (1 / 3) ** 0.5 + 1e-4  # of rewards 1, 1, 0, 0, over n - 1
    assert by_id["chain#2"] == pytest.approx([(2 / 3 - 1 / 2) / spread, 0, -(2 / 3) / spread, 0])
    assert cost.tokens == 0 and isinstance(groups[0].step_values["chain#0"], StepValues)
