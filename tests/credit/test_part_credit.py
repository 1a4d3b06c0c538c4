"""Each reward against its own group before the sum (GDPO): agreement with a tensor form of it, and what it is for."""

from __future__ import annotations

import pytest
import torch

from rlcore import Group, Rollout, Task, Verdict
from rlcore.credit import group_credit, normalised_parts
from rlcore.errors import RecipeError, RewardError
from rlcore.recipe.build_credit import build_credit, credit_weights
from rlcore.recipe.credit_sections import CreditSection
from rlcore.stages.rl import RlStage


def group(parts: dict[str, list[float | None]], tokens: int = 2, id: str = "t") -> Group:
    rows = [dict(zip(parts, row, strict=True)) for row in zip(*parts.values(), strict=True)]
    rollouts = [
        Rollout.from_tokens(
            id=f"{id}/{i}", task_id=id, token_ids=[1] * (tokens + 1), mask=[False] + [True] * tokens,
            logprobs=[0.0] * (tokens + 1), text="", finish="stop", version=0,
        )
        for i in range(len(rows))
    ]  # fmt: skip
    failed = Verdict(value=None, status="crashed")
    return Group(
        task=Task(id=id, prompt="p"),
        rollouts=rollouts,
        verdicts=[
            failed if None in row.values() else Verdict(value=99.0, parts=row) for row in rows
        ],
    )


def advantages(groups, **settings):
    credit = build_credit(
        CreditSection(normalise_parts=True, zero_variance="keep", **settings),
        weights={"a": 1.0, "b": 0.5},
    )
    return [sample.advantages[-1] for samples in credit(groups) for sample in samples]


def reference(groups, whiten: bool) -> torch.Tensor:
    """The same in tensors, after TRL's `normalize_then_sum`."""
    rewards = torch.tensor(
        [[[v.parts["a"], v.parts["b"]] for v in g.verdicts] for g in groups], dtype=torch.float64
    )
    scaled = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
    total = (scaled * torch.tensor([1.0, 0.5], dtype=torch.float64)).sum(-1).flatten()
    return (total - total.mean()) / total.std(unbiased=False) if whiten else total


GROUPS = [
    group({"a": [1.0, 0.0, 0.0, 1.0], "b": [120.0, -3.0, 40.0, 7.0]}, id="t1"),
    group({"a": [0.0, 0.0, 0.0, 1.0], "b": [5.0, 5.5, 6.0, 9.0]}, id="t2"),
]


def test_sums_equal_the_reference():
    assert advantages(GROUPS, baseline="none") == pytest.approx(
        reference(GROUPS, False).tolist(), abs=1e-12
    )
    assert advantages(GROUPS, baseline="global") == pytest.approx(
        reference(GROUPS, True).tolist(), abs=1e-12
    )
    planted = reference(GROUPS, False) * 1.01
    assert advantages(GROUPS, baseline="none") != pytest.approx(planted.tolist(), abs=1e-3)


def test_the_scale_of_a_part_does_not_matter_and_its_weight_does():
    larger = [
        group({"a": [1.0, 0.0, 0.0, 1.0], "b": [1000 * b + 7 for b in (120.0, -3.0, 40.0, 7.0)]})
    ]
    assert advantages(larger, baseline="none") == pytest.approx(
        advantages(GROUPS[:1], baseline="none"), abs=1e-4
    )


def test_sums_that_collapse_stay_apart():
    """The paper's case: (1, 0) and (0, 1) sum alike; alone in their group's parts they differ when one part is rarer."""
    rare = group({"a": [1.0, 0.0, 0.0, 0.0], "b": [0.0, 1.0, 1.0, 0.0]})
    values = [
        s.advantages[-1]
        for s in normalised_parts(group_credit(baseline="none"), {"a": 1.0, "b": 1.0})([rare])[0]
    ]
    assert values[0] > values[1] == values[2] > values[3]


def test_a_constant_part_counts_nothing_and_failures_stay_out():
    flat = group({"a": [1.0, 0.0, None], "b": [0.1 + 0.2, 0.1 + 0.2, 5.0]})
    assert advantages([flat], baseline="none") == pytest.approx([0.7071, -0.7071], abs=1e-3)
    assert advantages([group({"a": [1.0], "b": [2.0]})], baseline="none") == [0.0]


def test_a_missing_part_is_met_with_a_sentence():
    with pytest.raises(
        RewardError, match="needs 'b' of every completion; one of task t has only: a"
    ):
        advantages([group({"a": [1.0, 0.0]})], baseline="none")


def stage(**keys) -> RlStage:
    return RlStage.model_validate(
        {
            "kind": "rl",
            "tasks": "t",
            "steps": 1,
            "rewards": [{"use": "exact", "weight": 2.0}],
            **keys,
        }
    )


def test_recipes_say_it():
    assert credit_weights(stage()) is None
    assert credit_weights(stage(credit={"normalise_parts": True})) == {"exact": 2.0}
    with pytest.raises(RecipeError, match="needs `aggregate: sum`"):
        credit_weights(stage(credit={"normalise_parts": True}, aggregate="unless_unfinished"))
    with pytest.raises(RecipeError, match="mixed-in demonstration"):
        credit_weights(stage(credit={"normalise_parts": True, "demonstrations": "mixed"}))
