"""Token budgets: the published sequences, how they are stated, and what the length reward makes of them."""

from __future__ import annotations

import pytest

from rlcore.credit.group import group_samples
from rlcore.curriculum.length_budget import BUDGETS, state_budget
from rlcore.errors import RecipeError
from rlcore.plugin import build
from rlcore.recipe.build import build_budget
from rlcore.scoring.forms import RewardSpec
from rlcore.scoring.scorer import Scorer
from rlcore.stages.rl import RlStage
from rlcore.types import Group, Rollout, Task


def over(named: object, steps: int) -> list[int]:
    schedule = build(named, BUDGETS, what="budget", steps=steps)
    return [schedule(step) for step in range(steps)]


def test_train_long_think_short() -> None:
    found = over({"use": "exponential", "start": 256, "factor": 0.7, "every": 150}, 600)
    assert found == [256] * 150 + [179] * 150 + [125] * 150 + [87] * 150
    assert over({"use": "drops", "start": 256, "end": 87, "drops": 3}, 600)[::150] == [
        256,
        178,
        124,
        87,
    ]
    assert over({"use": "linear", "start": 256, "end": 87, "drops": 3}, 600)[::150] == [
        256,
        199,
        143,
        87,
    ]
    assert over({"use": "exponential", "start": 3, "factor": 0.1, "every": 1}, 5) == [3, 1, 1, 1, 1]


def test_reinforcement_mid_training() -> None:
    found = over({"use": "smooth", "start": 800, "factor": 0.2}, 1000)
    assert (
        found[0] == 800
        and found == sorted(found, reverse=True)
        and found[500] == int(800 * 0.2**0.5)
    )
    assert (
        build({"use": "smooth", "start": 800, "factor": 0.2}, BUDGETS, what="budget", steps=1000)(
            1000
        )
        == 160
    )


def test_a_schedule_of_your_own_and_bad_ones(tmp_path) -> None:
    (tmp_path / "mine.py").write_text(
        "def halves(*, start: int):\n    return lambda step: max(1, start >> step)\n"
    )
    mine = {"use": f"{tmp_path}/mine.py:halves", "start": 8}
    stage = RlStage(kind="rl", tasks="t", steps=9, rewards=[{"use": "exact"}], budget=mine)
    assert [build_budget(stage)(step) for step in range(5)] == [8, 4, 2, 1, 1]
    for own, said in (
        (
            "lambda: lambda step: 40.5",
            "must be a whole number of tokens, 1 or more; at step 0 it is 40.5",
        ),
        ("lambda: lambda step: 8 - step", "at step 8 it is 0"),
        ("lambda: lambda step: 9 // step", r"raised ZeroDivisionError: .* \(mine.py:1\)"),
        ("lambda: 40", "must give a function from a step to tokens, not a int"),
    ):
        (tmp_path / "mine.py").write_text(f"own = {own}\n")
        with pytest.raises(RecipeError, match=said):
            build_budget(stage.model_copy(update={"budget": f"{tmp_path}/mine.py:own"}))
    assert build_budget(stage.model_copy(update={"budget": 40}))(3) == 40
    with pytest.raises(RecipeError, match="budget exponential: start is -1, but must be above 0"):
        over({"use": "exponential", "start": -1, "every": 2}, 3)
    with pytest.raises(RecipeError, match="did you mean 'exponential'"):
        over({"use": "exponentail", "start": 1, "every": 2}, 3)


def test_the_prompt_states_it_and_rewards_can_read_it() -> None:
    task = Task(id="t", prompt="1+1=? {budget}", answer="2", columns={"level": 3})
    stated = state_budget(task, 87, "\nUse exactly {budget} tokens.")
    assert stated.prompt == "1+1=? {budget}\nUse exactly 87 tokens."
    assert stated.columns == {"level": 3, "budget": 87, "max_tokens": 87}
    assert state_budget(task, 87, "[{budget}] {prompt}!").prompt == "[87] 1+1=? {budget}!"
    system = {"role": "system", "content": "s"}
    chat = Task(id="c", prompt=[system, {"role": "user", "content": "q"}])
    assert state_budget(chat, 9, " ({budget})").prompt == [
        system,
        {"role": "user", "content": "q (9)"},
    ]


def test_the_length_reward_follows_the_budget_of_the_step() -> None:
    """Band: of equally right answers, those within the budget tie at the top; the same answers under a smaller one do not."""
    lengths = [4, 10, 15, 30]
    rollouts = [
        Rollout.from_tokens(id=str(n), task_id="t", token_ids=[0] + [1] * n, mask=[False] + [True] * n, logprobs=[0.0] * (n + 1), text="x",
                finish="stop", version=0)
        for n in lengths
    ]  # fmt: skip
    with Scorer([RewardSpec("length")], workers=1) as scorer:
        found = {}
        for tokens in (10, 30):
            task = state_budget(Task(id="t", prompt="?"), tokens, "")
            (verdicts,) = scorer.score([(task, rollouts)])
            found[tokens] = [verdict.value for verdict in verdicts]
            if tokens == 10:
                samples = group_samples(Group(task=task, rollouts=rollouts, verdicts=verdicts))
                advantages = [sample.advantages[-1] for sample in samples]
                assert (
                    advantages[0]
                    == advantages[1]
                    == max(advantages)
                    > advantages[2]
                    > advantages[3]
                )
    assert found == {10: [1.0, 1.0, 0.5, 0.0], 30: [1.0] * 4}
