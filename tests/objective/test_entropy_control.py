"""Adaptive entropy: the rule, what it does to the gradient, and that a checkpoint keeps it."""

import pytest
from accelerate import Accelerator
from test_presets_end_to_end import tiny
from test_selection import make

from rlcore.errors import RecipeError
from rlcore.learner.update import Learner
from rlcore.objective import objective
from rlcore.objective.entropy_control import EntropyControl


def test_the_coefficient_follows_the_papers_rule():
    control = EntropyControl(0.2, delta=0.1, most=0.25)
    used = []
    for entropy in (0.5, 0.2, 0.1, 0.1, 0.1, 0.3, 0.1):
        used.append(control.coefficient)
        control.observe(entropy)
    # 0.5 > target: c stays at its least; then c = 0.1, 0.2, 0.25, 0.25; 0.3 > target: 0.15, unused
    assert used == pytest.approx([0.0, 0.0, 0.1, 0.2, 0.25, 0.25, 0.0])
    assert control.coefficient == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": 0.0}, "a target and a delta above 0"),
        ({"target": 0.2, "start": 2.0}, "0 <= least <= start <= most"),
        ({"traget": 0.2}, "no parameter 'traget'; did you mean 'target'"),
        ({"delta": 0.1}, "adaptive entropy needs a value for target"),
    ],
)
def test_values_without_a_meaning_are_refused(settings, message):
    with pytest.raises(RecipeError, match=message):
        objective("grpo", entropy=settings)


def learner():
    made = objective("grpo", entropy={"target": 9.0, "delta": 0.5})
    return Learner(tiny(0), made, accelerator=Accelerator(cpu=True), lr=1e-3, total_updates=9)


def test_a_checkpoint_keeps_it_and_the_updates_go_on_bit_for_bit():
    samples = make(count=4, length=4)
    whole = learner()
    reports = [whole.update(samples) for _ in range(4)]
    assert [r.losses["entropy"] for r in reports[:2]] == [0.0, -0.5 * reports[1].entropy]
    first = learner()
    for _ in range(2):
        first.update(samples)
    state = first.state_dict()
    weights = {name: p.clone() for name, p in first.policy.module.state_dict().items()}
    second = learner()
    second.policy.module.load_state_dict(weights)
    second.load_state_dict(state)
    assert second.objective.controls["entropy"].coefficient == 1.0
    for report in reports[2:]:
        assert second.update(samples) == report
    forgetful = learner()
    forgetful.policy.module.load_state_dict(weights)
    forgetful.load_state_dict(state)
    forgetful.objective.controls["entropy"].level = 0.0
    assert forgetful.update(samples) != reports[2]


def test_an_update_that_was_not_applied_says_nothing():
    one = learner()
    one.update([])
    assert not one.objective.controls["entropy"].is_low
