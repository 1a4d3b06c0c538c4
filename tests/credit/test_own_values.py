"""Step values from a function of the user's own, a process reward model say, through the words of a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlcore.errors import RecipeError
from rlcore.recipe.build_credit import build_credit, build_step_values
from rlcore.types import Group
from tests.credit.chains import GOOD, LOST, SLIP, group
from tests.credit.test_step_schemes import stage

FILE = """
def values(rollout, spans, *, spoiled=3):
    ids = rollout.completion_ids
    return [0.0 if spoiled in ids[: span.end] else 0.8 for span in spans]

def with_prompt(rollout, spans):
    return [0.3, *(None for _ in spans)]

def too_few(rollout, spans):
    return [0.5] * (len(spans) - 1)

def words(rollout, spans):
    return ["good"] * len(spans)

def no_prompt(rollout, spans):
    return [None] * (len(spans) + 1)

def broken(rollout, spans):
    return spans.nothing
"""
CHAINS = [[GOOD, GOOD, LOST, GOOD], [GOOD, GOOD, GOOD], [LOST, GOOD]]


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "my_values.py"
    path.write_text(FILE)
    return str(path)


def estimated(place: str, **keys: object) -> Group:
    chosen = stage(use=place, **keys)
    estimator = build_step_values(chosen.credit.steps, chosen, lambda *_: [], str)
    [valued], cost = estimator([group(CHAINS)])
    assert cost.tokens == cost.prefixes == 0 and cost.completions == len(valued.step_values)
    return valued


def test_values_stand_after_their_steps_between_group_mean_and_reward(file: str) -> None:
    valued = estimated(f"{file}:values", scheme={"use": "per_step"}, completions="all")
    values = {id: steps.values for id, steps in valued.step_values.items()}
    third = pytest.approx(1 / 3)
    assert values == {
        "chain#0": [third, 0.8, 0.8, 0.0, 0.0],
        "chain#1": [third, 0.8, 0.8, 1.0],  # the last is the completion's own reward
        "chain#2": [third, 0.0, 0.0],
    }
    steps = valued.step_values["chain#0"]
    assert steps.pit() == 2, "the step with the planted error"
    assert sum(steps.advantages) == pytest.approx(0 - 1 / 3), "they telescope"


def test_parameters_reach_the_function_and_negatives_are_the_default(file: str) -> None:
    assert estimated(f"{file}:values").step_values.keys() == {"chain#0", "chain#2"}
    valued = estimated(f"{file}:values", spoiled=SLIP)
    assert valued.step_values["chain#0"].values[1:] == [0.8, 0.8, 0.8, 0.0]


def test_a_value_of_the_prompt_takes_the_place_of_the_mean(file: str) -> None:
    valued = estimated(f"{file}:with_prompt")
    assert valued.step_values["chain#0"].values == [0.3, None, None, None, 0.0]


def test_credit_reads_them(file: str) -> None:
    keys = {"use": f"{file}:values", "completions": "all", "scheme": {"use": "per_step", "mix": 1.0}}
    chosen = stage(**keys)
    [samples] = build_credit(chosen.credit)([estimated(**{"place": keys.pop("use"), **keys})])
    first = next(sample for sample in samples if sample.id == "chain#0")
    trained = [a for a, m in zip(first.advantages, first.mask, strict=True) if m]
    assert trained[2] < min(trained[0], trained[1], trained[3]), "the spoiling step is blamed most"


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        ("too_few", "must give a value for each of the 4 steps"),
        ("words", "must give a value for each of the 4 steps"),
        ("no_prompt", "gave None for the prompt"),
        ("broken", r"raised AttributeError.*my_values.py:"),
        ("valuess", "did you mean 'values'"),
    ],
)
def test_what_is_wrong_with_a_function_is_said(file: str, function: str, sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        estimated(f"{file}:{function}")


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"spoilt": 1}, "did you mean 'spoiled'"),
        ({"keep": "all"}, "keep has no effect"),
        ({"completions": "some"}, "not 'some'"),
    ],
)
def test_what_is_wrong_with_its_keys_is_said(file: str, keys: dict, sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        estimated(f"{file}:values", **keys)
