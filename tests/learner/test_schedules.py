"""Learning-rate factors: numbers worked out by hand from the formulas, and what every schedule must keep."""

import itertools
import random

import pytest

from rlcore.learner.optim import Schedule

FALLING = [
    {"name": "linear"},
    {"name": "cosine"},
    {"name": "rex"},
    {"name": "rex", "rex_d": 0.9},
    *(
        {"name": "wsd", "decay_shape": shape, "decay_share": 0.4, "floor": 0.1}
        for shape in ("linear", "sqrt", "inverse_linear")
    ),
]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("constant", [0.5, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1, 1, 0.8535534, 0.5, 0.1464466]),
    ],
)
def test_factors(name, expected):
    schedule = Schedule(name=name, total=6, warmup=2)
    assert [schedule(step) for step in range(6)] == pytest.approx(expected)


def test_no_warmup_and_beyond_the_end():
    assert Schedule(name="linear", total=10)(0) == 1
    assert Schedule(name="linear", total=10)(15) == Schedule(name="cosine", total=10)(15) == 0


@pytest.mark.parametrize(
    ("d", "expected"),
    [
        (0.5, [1, 0.857, 0.667, 0.4, 0.182, 0]),
        (0.9, [1, 0.968, 0.909, 0.769, 0.526, 0]),
        (0.0, None),
    ],
)
def test_rex(d, expected):
    x = [0, 0.25, 0.5, 0.75, 0.9, 1]
    schedule = Schedule(name="rex", total=100, rex_d=d)
    assert [schedule(round(100 * at)) for at in x] == pytest.approx(
        expected or [1 - at for at in x], abs=5e-4
    )


@pytest.mark.parametrize(
    ("shape", "floor", "expected"),
    [
        ("inverse_linear", 0.1, [1, 0.308, 0.182, 0.129, 0.1]),
        ("sqrt", 0.0, [1, 0.5, 0.293, 0.134, 0]),
        ("linear", 0.2, [1, 0.8, 0.6, 0.4, 0.2]),
    ],
)
def test_wsd_decays_within_its_window(shape, floor, expected):
    schedule = Schedule(
        name="wsd", total=200, warmup=10, decay_shape=shape, decay_share=0.2, floor=floor
    )
    assert [schedule(step) for step in range(10, 161)] == [1.0] * 151
    assert [schedule(step) for step in (160, 170, 180, 190, 200)] == pytest.approx(
        expected, abs=5e-4
    )


def test_extending_a_wsd_run_changes_nothing_before_its_decay():
    short, long = (
        Schedule(name="wsd", total=total, warmup=5, decay_share=0.1) for total in (100, 300)
    )
    assert [short(step) for step in range(91)] == [long(step) for step in range(91)]


@pytest.mark.parametrize("settings", FALLING)
def test_falls_without_a_jump_from_the_peak_to_the_floor(settings):
    schedule = Schedule(total=1000, warmup=10, **({"floor": 0.05} | settings))
    factors = [schedule(step) for step in range(9, 1001)]
    assert factors[0] == 1 and factors[-1] == pytest.approx(schedule.floor)
    assert all(0 <= a - b < 0.1 for a, b in itertools.pairwise(factors))


def test_a_decay_settles_the_hills_and_does_not_move_the_river():
    """River valley of arXiv 2410.05192: x flows at a constant slope, y is a noisy hill of curvature 1."""
    slope, noise, steps = 0.02, 1.0, 400
    rng = random.Random(0)

    def descend(schedule, start, noises):
        x, y = start
        for step, kick in enumerate(noises):
            lr = 0.5 * schedule(step)
            x, y = x + lr * slope, y - lr * (y + noise * kick)
        return x, y

    decayed, bouncing = [], []
    for _ in range(200):
        kicks = [rng.gauss(0, 1) for _ in range(steps)]
        flat = Schedule(name="constant", total=steps)
        wsd = Schedule(name="wsd", total=steps, decay_share=0.1)
        at_decay = descend(wsd, (0.0, 3.0), kicks[:360])
        assert at_decay == descend(flat, (0.0, 3.0), kicks[:360])
        assert at_decay[0] == pytest.approx(360 * 0.5 * slope)  # whatever the noise
        decayed.append(descend(wsd, (0.0, 3.0), kicks)[1] ** 2 / 2)
        bouncing.append(descend(flat, (0.0, 3.0), kicks)[1] ** 2 / 2)
        # the river has come half as far again as the window at the peak rate
        end = descend(wsd, (0.0, 3.0), kicks)[0]
        assert end == pytest.approx(0.5 * slope * (360 + sum((40 - i) / 40 for i in range(40))))
    # of a stationary AR(1), lr^2 / (1 - (1 - lr)^2) = 1/3 of the noise's variance
    assert sum(bouncing) / 200 == pytest.approx(1 / 6, rel=0.25)
    assert sum(decayed) < 0.35 * sum(bouncing)
