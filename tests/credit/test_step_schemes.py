"""What schemes make of step values, by hand-worked numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rlcore.credit.continuations import with_continuations
from rlcore.credit.first_pit import first_pit
from rlcore.credit.group import Credit, group_credit, outcome
from rlcore.credit.negative_only import negative_only
from rlcore.credit.per_step import per_step
from rlcore.credit.step_values import by_step, values_of, without_zeros
from rlcore.credit.vine import vine
from rlcore.errors import RecipeError
from rlcore.recipe.build_credit import build_credit, build_step_values
from rlcore.stages.rl import RlStage
from rlcore.types import Group, Prefix, Sample, Span, StepValues
from tests.credit.chains import GOOD, LOST, group, interleaved, tabular

GROUP = group([[GOOD] * 4, [GOOD, GOOD, LOST, GOOD]])
"""Rewards 1 and 0: with baseline "mean" the advantages are 0.5 and -0.5."""
WRONG = StepValues(
    rollout_id="chain#1", spans=[Span(0, 1), Span(1, 3), Span(3, 4)], values=[0.5, 0.75, 0.25, 0.0]
)
RIGHT = StepValues(rollout_id="chain#0", spans=[Span(0, 2), Span(2, 4)], values=[0.5, 0.75, 1.0])
MEAN = group_credit(baseline="mean", zero_variance="keep")


def learned(
    credit: Credit, *values: StepValues, of: Group = GROUP
) -> dict[str, list[float | None]]:
    """Advantages of the completion tokens by rollout, None where a token is not trained. values: those of the group."""
    of = replace(of, step_values={steps.rollout_id: steps for steps in values})
    return {
        sample.id: [
            a if on else None for a, on in zip(sample.advantages, sample.mask, strict=True)
        ][1:]
        for samples in credit([of])
        for sample in samples
    }


def test_values_fill_gaps_on_a_line_and_find_the_pit() -> None:
    values = StepValues(
        rollout_id="a",
        spans=[Span(i, i + 1) for i in range(4)],
        values=[1.0, None, None, 0.25, 0.0],
    )
    assert values.filled == [1.0, 0.75, 0.5, 0.25, 0.0] and values.advantages == [-0.25] * 4
    assert WRONG.advantages == [0.25, -0.5, -0.25] and WRONG.pit() == 2
    level = StepValues(rollout_id="a", spans=[Span(0, 1), Span(1, 2)], values=[0.0, 0.0, 0.0])
    assert level.pit() is None
    with pytest.raises(ValueError, match="1 spans need 2 values, not 1"):
        StepValues(rollout_id="a", spans=[Span(0, 1)], values=[0.0])


def test_per_step_mixes_the_groups_advantage_with_the_steps() -> None:
    assert learned(per_step(MEAN, mix=0.5, scale=2.0), WRONG) == {
        "chain#0": [0.5] * 4, "chain#1": [-0.25 + 0.25, -0.25 - 0.5, -0.25 - 0.5, -0.25 - 0.25],
    }  # fmt: skip
    assert learned(per_step(MEAN, mix=0.0), WRONG) == learned(MEAN)


def test_vine_asks_for_all_answers_and_uses_their_steps_alone() -> None:
    assert learned(vine(MEAN), WRONG, RIGHT) == {
        "chain#0": [0.25] * 4,
        "chain#1": [0.25, -0.5, -0.5, -0.25],
    }
    assert vine.values_of == "all"


def test_first_pit_protects_what_is_before_and_masks_what_is_after() -> None:
    pit_inside = StepValues(rollout_id="chain#1", spans=WRONG.spans, values=[0.5, 0.75, 0.0, 0.0])
    assert learned(first_pit(MEAN), pit_inside)["chain#1"] == [0.0, -0.75, -0.75, None]
    assert learned(first_pit(MEAN, protect=False), pit_inside)["chain#1"] == [
        -0.5,
        -0.75,
        -0.75,
        None,
    ]
    gentle = StepValues(rollout_id="chain#1", spans=WRONG.spans, values=[0.1, 0.1, 0.0, 0.0])
    assert learned(first_pit(MEAN), gentle)["chain#1"] == [0.0, -0.5, -0.5, None]
    assert learned(first_pit(MEAN, least_spread=0.2), gentle) == learned(MEAN)


def test_negative_only_learns_nothing_but_bad_steps() -> None:
    assert learned(negative_only(MEAN, scale=2.0), WRONG, RIGHT) == {
        "chain#1": [None, -1.0, -1.0, -0.5]
    }
    assert learned(negative_only(MEAN, least=0.3), WRONG) == {"chain#1": [None, -0.5, -0.5, None]}


def test_a_group_of_wrong_answers_still_teaches_its_steps() -> None:
    wrong = group([[GOOD, GOOD, LOST, GOOD], [LOST] * 4])
    assert group_credit(baseline="mean_std")([wrong]) == [[]]
    steps = learned(without_zeros(per_step(MEAN, mix=1.0)), WRONG, of=wrong)
    assert steps == {"chain#1": [0.25, -0.5, -0.5, -0.25]}
    assert learned(without_zeros(per_step(MEAN)), of=wrong) == {}


def test_spans_that_do_not_cover_the_trained_tokens_are_refused() -> None:
    [[sample, _]] = MEAN([GROUP])
    with pytest.raises(ValueError, match="have 3 tokens, but 4"):
        by_step(sample, StepValues(rollout_id="x", spans=[Span(0, 3)], values=[0.0, 1.0]), [1.0])


def continued() -> Group:
    prefix = Prefix(task=GROUP.task, rollout=GROUP.rollouts[1], length=2, n=3, max_tokens=2)
    kept = group([[GOOD] * 4, [GOOD, GOOD, LOST, GOOD], [GOOD] * 4], "kept")
    return replace(GROUP, continuations=((prefix, kept),))


def test_kept_continuations_are_compared_with_each_other_and_only_their_own_tokens_are_trained() -> (
    None
):
    good = pytest.approx(1 / 3)
    all_of_them = learned(with_continuations(MEAN, MEAN, "all"), of=continued())
    assert all_of_them["kept#0"] == [None, None, good, good] == all_of_them["kept#2"]
    assert all_of_them["kept#1"] == [None, None, pytest.approx(-2 / 3), pytest.approx(-2 / 3)]
    assert set(learned(with_continuations(MEAN, MEAN, "correct"), of=continued())) == {
        "chain#0",
        "chain#1",
        "kept#0",
        "kept#2",
    }
    [samples] = with_continuations(MEAN, MEAN, "all")([continued()])
    assert outcome(0, GROUP, samples) == outcome(0, GROUP, samples[:2])


def stage(**steps: object) -> RlStage:
    return RlStage.model_validate(
        {"kind": "rl", "tasks": "x", "steps": 1, "rewards": [{"use": "exact"}], "sampling": {"max_tokens": 4},
         "credit": {"baseline": "mean", "steps": {"split": {"use": "tokens", "n": 1}, **steps}}}
    )  # fmt: skip


def samples_of(chosen: RlStage, groups: Sequence[Group]) -> list[list[Sample]]:
    estimator = build_step_values(chosen.credit.steps, chosen, tabular(4, error=0.2), str)
    valued, _ = estimator(groups)
    return build_credit(chosen.credit)(valued)


def test_a_recipe_builds_each_scheme_by_name_or_place_with_its_parameters() -> None:
    for scheme in (
        "per_step",
        "vine",
        "first_pit",
        "negative_only",
        {"use": "rlcore.credit.vine:vine", "scale": 3.0},
    ):
        [samples] = samples_of(stage(scheme=scheme), [GROUP])
        assert samples and all(
            len(set(sample.advantages[1:])) > 1 for sample in samples if sample.id == "chain#1"
        )
    [kept] = samples_of(stage(keep="all", rollouts=16), [GROUP])
    assert any(sample.id.startswith("chain#1@") for sample in kept)


def test_the_scheme_of_the_docs(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs/credit.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(# my_schemes.py.*?)```", text, flags=re.DOTALL)
    (tmp_path / "my_schemes.py").write_text(code)
    [samples] = samples_of(
        stage(scheme={"use": f"{tmp_path}/my_schemes.py:last_only", "depth": 2.0}), [GROUP]
    )
    assert {s.id: s.advantages[1:] for s in samples} == {
        "chain#0": [0.5] * 4,
        "chain#1": [0.0, 0.0, 0.0, -2.0],
    }
    assert samples[1].mask == [False, False, False, False, True]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("lambda groups: credit(groups)[1:]", "must give a list of samples for each of 1 groups, not a list of 0"),
        ("lambda groups: credit(groups) * 2", "for each of 1 groups, not a list of 2"),
        ("lambda groups: credit(groups)[0]", "for each of 1 groups, not a list of 2"),
        ("lambda groups: None", "for each of 1 groups, not a NoneType"),
        ("lambda groups: [samples * 2 for samples in credit(groups)]", "must give each completion of task 'chain' once"),
        ("lambda groups: [[sample.id] for [sample, _] in credit(groups)]", "once, as a Sample, not \\[None\\]"),
        ("None", "must give a function from groups to samples, not a NoneType"),
        ("lambda groups: 1 / 0", r"raised ZeroDivisionError: division by zero \(mine.py:1\)"),
        ("lambda groups: [[by_step(credit(groups)[0][1], groups[0].step_values['chain#1'], [1.0])]]",
         "raised ValueError: the 4 steps of 'chain#1' need an advantage each, not 1"),
    ],
)  # fmt: skip
def test_a_scheme_of_ones_own_that_gives_something_else_is_named(
    tmp_path: Path, body: str, said: str
) -> None:
    (tmp_path / "mine.py").write_text(
        f"def own(credit): return {body}\nfrom rlcore.credit.step_values import by_step\n"
    )
    with pytest.raises(RecipeError, match=said):
        samples_of(stage(scheme=f"{tmp_path}/mine.py:own"), [GROUP])


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ({"use": "siblings", "search": "backwards"}, "'siblings' has no parameter 'search'"),
        ({"use": "siblings", "keep": "all"}, "keep has no effect: the estimator 'siblings'"),
        ({"use": "siblings", "share": 0.5}, "'siblings' has no parameter 'share'"),
        ({"state": "="}, "'monte_carlo' has no parameter 'state'"),
        ({"serch": "all"}, "did you mean 'search'"),
        ({"sheme": "vine"}, "did you mean 'scheme'"),
        ({"rollouts": 4, "best_of": 5}, "cannot be estimated from 4 rollouts"),
        ({"max_tokens": 4}, "'monte_carlo' has no parameter 'max_tokens'"),
    ],
)
def test_keys_that_would_do_nothing_are_refused(steps: dict, said: str) -> None:
    chosen = stage(**steps)
    with pytest.raises(RecipeError, match=said):
        build_step_values(chosen.credit.steps, chosen, tabular(4, error=0.2), str)


def test_an_estimator_of_ones_own_receives_its_parameters(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "class Estimator:\n"
        "    def __init__(self, decode, *, depth: int, width: int = 2):\n"
        "        self.depth, self.width = depth, width\n"
    )
    chosen = stage(use=f"{tmp_path}/mine.py:Estimator", depth=3)
    estimator = build_step_values(chosen.credit.steps, chosen, tabular(4, error=0.2), str)
    assert (estimator.depth, estimator.width) == (3, 2)


def test_each_process_has_an_equal_part_of_the_tokens() -> None:
    chosen = stage(total_tokens=100)
    continue_ = tabular(4, error=0.2)
    estimator = build_step_values(chosen.credit.steps, chosen, continue_, str, processes=3)
    assert estimator._total_tokens == 33


def test_the_recipe_wins_over_what_the_scheme_wants_valued(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from rlcore.credit.step_values import values_of\n"
        "@values_of('positives')\ndef decorated(credit): return credit\n"
        "def plain(credit): return credit\n"
    )

    def completions(**steps: object) -> str:
        chosen = stage(**steps)
        estimator = build_step_values(chosen.credit.steps, chosen, tabular(4, error=0.2), str)
        return estimator.completions

    assert completions(scheme="vine") == "all"
    assert completions(scheme="vine", completions="negatives") == "negatives"
    assert completions(scheme="per_step") == "negatives"
    assert completions(scheme=f"{tmp_path}/mine.py:decorated") == "positives"
    assert completions(scheme={"use": f"{tmp_path}/mine.py:plain"}, use="siblings") == "negatives"
    with pytest.raises(
        RecipeError, match="'negatives', 'positives' or 'all' completions, not 'wrong'"
    ):
        values_of("wrong")


def test_schemes_refuse_rollouts_of_several_turns_and_group_baselines_train_all_of_them(
    tmp_path: Path,
) -> None:
    of = interleaved()
    [[_, sample]] = MEAN([of])
    assert sample.mask == [False, True, True, False, False, False, True, True]
    assert sample.advantages == [0.0, -0.5, -0.5, 0.0, 0.0, 0.0, -0.5, -0.5]
    (tmp_path / "mine.py").write_text("def own(credit): return credit\n")
    for scheme in ("per_step", "vine", "first_pit", "negative_only", f"{tmp_path}/mine.py:own"):
        with pytest.raises(RecipeError, match="reasoning steps supports only single-turn rollouts"):
            build_credit(stage(scheme=scheme).credit)([of])
    prefix = Prefix(task=of.task, rollout=of.rollouts[1], length=2, n=3, max_tokens=2)
    kept = replace(of, continuations=((prefix, GROUP),))
    with pytest.raises(RecipeError, match="learning from continuations supports only single-turn"):
        with_continuations(MEAN, MEAN, "all")([kept])


def test_whitening_and_exponential_weights_come_after_the_scheme() -> None:
    chosen = stage(scheme="vine", rollouts=16)
    whitened = chosen.model_copy(
        update={"credit": chosen.credit.model_copy(update={"baseline": "global"})}
    )
    values = [
        a
        for s in samples_of(whitened, [GROUP])[0]
        for a, on in zip(s.advantages, s.mask, strict=True)
        if on
    ]
    assert sum(values) == pytest.approx(0, abs=1e-9) and sum(v * v for v in values) / len(
        values
    ) == pytest.approx(1)
    weighted = chosen.model_copy(
        update={"credit": chosen.credit.model_copy(update={"exponential": 1.0})}
    )
    assert all(
        a > 0
        for s in samples_of(weighted, [GROUP])[0]
        for a, on in zip(s.advantages, s.mask, strict=True)
        if on
    )


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ({"scheme": "per_stepp"}, "did you mean 'per_step'"),
        ({"scheme": {"use": "per_step", "mixx": 1.0}}, "no parameter 'mixx'"),
        ({"scheme": {"use": "per_step", "mix": "half"}}, "must be a valid number"),
        ({"split": {"use": "delimiter"}}, "needs a value for at"),
    ],
)
def test_bad_settings_are_met_with_a_sentence(steps: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        samples_of(stage(**steps), [GROUP])
