from __future__ import annotations

import math

import pytest

from rlcore import RewardSpec, Task, Verdict
from rlcore.errors import RecipeError, RewardError
from rlcore.scoring.aggregate import aggregate, build_aggregate, part_weights
from rlcore.scoring.scorer import Scorer

MATH, JUDGE = RewardSpec("a:math"), RewardSpec("a:judge")


def aggregated(named, specs, values, **facts) -> Verdict:
    return aggregate(
        specs, [Verdict(value=value) for value in values], build_aggregate(named, specs), **facts
    )


@pytest.mark.parametrize(
    ("score", "right", "value"),
    [(-4, 0, -0.881), (0, 0, -0.5), (4, 0, -0.119), (-4, 1, 0.119), (0, 1, 0.5), (4, 1, 0.881)],
)
def test_ranked_is_the_table_of_qwen_math(score, right, value):
    verdict = aggregated(
        {"use": "ranked", "right": "math", "score": "judge"}, [MATH, JUDGE], [right, score]
    )
    assert verdict.value == pytest.approx(value, abs=5e-4) and verdict.parts == {
        "math": right,
        "judge": score,
    }
    assert verdict.value != pytest.approx(
        right + 0.5 * score, abs=5e-4
    )  # planted mistake: the plain sum


def test_ranked_is_the_sigmoid_and_never_overflows():
    specs, named = [MATH, JUDGE], {"use": "ranked", "right": "math", "score": "judge", "alpha": 0.7}
    for score in (-3.0, 0.2, 5.0):
        assert aggregated(named, specs, [1.0, score]).value == pytest.approx(
            1 / (1 + math.exp(-0.7 * score))
        )
    assert (
        aggregated(named, specs, [0.0, -1e9]).value == -1.0
        and aggregated(named, specs, [1.0, 1e9]).value == 1.0
    )
    worst_right, best_wrong = (
        aggregated(named, specs, [1.0, -50.0]).value,
        aggregated(named, specs, [0.0, 50.0]).value,
    )
    assert worst_right >= best_wrong


@pytest.mark.parametrize(
    ("right", "finished", "tokens", "value"),
    [(1, True, 9, 10), (0, True, 9, 0), (1, False, 9, -10), (0, False, 9, -10), (1, True, 4, -10)],
)
def test_unfinished_answers_get_the_penalty_of_tulu_instead(right, finished, tokens, value):
    named = {"use": "unless_unfinished", "min_tokens": 5}
    verdict = aggregated(
        named, [RewardSpec("a:math", weight=10.0)], [right], finished=finished, tokens=tokens
    )
    assert verdict.value == value, "replaced, not added: 0 would be the sum of both"
    assert verdict.parts == {"math": right}


def test_by_correctness_is_the_length_reward_of_kimi():
    specs = [MATH, RewardSpec("a:relative", weight=2.0), RewardSpec("a:style", weight=0.5)]
    named = {"use": "by_correctness", "right": "math", "only": "relative"}
    values = [
        aggregated(named, specs, [right, bonus, 1.0]).value
        for right in (1, 0)
        for bonus in (0.5, 0.0, -0.5)
    ]
    assert values == [2.5, 1.5, 0.5, 0.5, 0.5, -0.5]


def test_dimensions_of_one_reward_by_weight():
    spec = [RewardSpec("a:hpc")]
    verdict = Verdict(value=9.0, parts={"helpful": 0.9, "personal": 0.5, "creative": 0.1})

    def value(*weights):
        named = {
            "use": "sum",
            "weights": dict(
                zip(("hpc/helpful", "hpc/personal", "hpc/creative"), weights, strict=True)
            ),
        }
        return aggregate(spec, [verdict], build_aggregate(named, spec))

    assert value(1, 0, 0).value == 0.9 and value(1, 1, 2).value == pytest.approx(1.6)
    assert value(1, 0, 0).parts == {
        "hpc": 9.0,
        "hpc/helpful": 0.9,
        "hpc/personal": 0.5,
        "hpc/creative": 0.1,
    }


def test_an_aggregate_of_ones_own(plugin, rollout):
    path = plugin("""
        def product(scored, *, floor=0.0):
            return max(floor, scored.parts["right"] * scored.parts["short"]) if scored.finished else 1 / 0
    """)
    specs = [
        RewardSpec("rewards.text:exact", name="right"),
        RewardSpec("rewards.length:length", name="short", params={"max_tokens": 2}),
    ]
    rule = build_aggregate({"use": f"{path}:product", "floor": 0.25}, specs)
    with Scorer(specs, workers=1, rule=rule) as scorer:
        answers = [rollout("4", tokens=3), rollout("5", tokens=1), rollout("4", finish="length")]
        verdicts = scorer.score([(Task(id="t", prompt="p", answer="4"), answers)])[0]
    assert [verdict.value for verdict in verdicts] == [0.5, 0.25, None]
    assert (
        verdicts[2].status == "crashed"
        and "ZeroDivisionError" in verdicts[2].reason
        and verdicts[2].parts["short"] == 0.5
    )


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("rankd", "there is no aggregate 'rankd'; did you mean 'ranked'"),
        ({"right": "math"}, "names no part: add `use`"),
        ({"use": "ranked", "right": "math"}, "needs a value for score"),
        (
            {"use": "ranked", "right": "math", "score": "judge", "beta": 1.0},
            "has no parameter 'beta'",
        ),
        (
            {"use": "ranked", "right": "math", "score": "jugde"},
            "asks for a reward 'jugde'; did you mean 'judge'",
        ),
        (
            {"use": "sum", "weights": {"maths": 1.0}},
            "asks for a reward 'maths'; did you mean 'math'",
        ),
        ({"use": "math:sqrt"}, "raised TypeError"),
    ],
)
def test_an_aggregate_that_cannot_be_is_met_with_a_sentence(named, message):
    with pytest.raises(RecipeError, match=message.replace("?", r"\?")):
        build_aggregate(named, [MATH, JUDGE])


def test_what_credit_normalises():
    specs = [MATH, RewardSpec("a:style", weight=0.5), RewardSpec("a:seen", weight=0.0)]
    assert part_weights("sum", specs) == {"math": 1.0, "style": 0.5}
    assert part_weights(
        {"use": "sum", "weights": {"math": 1.0, "style/tone": 2.0, "style": 0.0}}, specs
    ) == {
        "math": 1.0,
        "style/tone": 2.0,
    }
    with pytest.raises(RecipeError, match="needs `aggregate: sum`"):
        part_weights({"use": "ranked", "right": "math", "score": "style"}, specs)


# With a reference completion (PIT)

GAP = """
    from rlcore import reward

    @reward
    def short(completion: str, answer, reference):
        return float(completion.count(answer) - reference.count(answer))

    def group(completions, answer, reference):
        rows = zip(completions, answer, reference, strict=True)
        return [float(text.count(right) - other.count(right)) for text, right, other in rows]

    class Made:
        def __call__(self, completion, answer, *, reference, **columns):
            return float(completion[0]["content"].count(answer) - reference.count(answer))

    @reward
    def blind(completion, answer, **columns):
        return 1.0
"""


@pytest.mark.parametrize("function", ["short", "group", "Made"])
def test_a_gap_reward_is_given_both_texts(function, plugin, rollout):
    spec = RewardSpec(f"{plugin(GAP)}:{function}", against="draft", name="gap")
    columns = {"draft": "good", "reference": "another column"}
    task = Task(id="t", prompt="p", answer="o", columns=columns)
    texts = [rollout("good"), rollout("so good"), rollout("bad"), rollout("x", finish="aborted")]
    with Scorer([spec], workers=1) as scorer:
        verdicts, without = scorer.score(
            [(task, texts), (Task(id="t", prompt="p", answer="o"), texts[:1])]
        )
    assert [verdict.value for verdict in verdicts] == [0.0, 1.0, -2.0, None]
    assert without[0].status == "unscorable" and "holds no text in this task" in without[0].reason


def test_a_reward_that_cannot_compare_is_refused(plugin):
    """Subtracting the reference's own score would shift the whole group, which a baseline cancels."""
    with pytest.raises(RewardError, match="no parameter `reference`"):
        Scorer([RewardSpec(f"{plugin(GAP)}:blind", against="draft")])
