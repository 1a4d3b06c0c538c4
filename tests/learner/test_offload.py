"""Optimiser states on the host: the same numbers as without, whichever side wrote them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from test_optimizers import NAMES
from test_update import make_learner, make_samples, parameters

from rlcore.learner import offload
from rlcore.learner.offload import Offloaded, _pieces
from rlcore.learner.update import Learner
from rlcore.recipe.optim_sections import OptimSection

BATCHES = range(4)


def trained(learner: Learner, seeds: range) -> list[Any]:
    return [learner.update(make_samples(seed=seed)) for seed in seeds]


def inner(learner: Learner) -> Offloaded:
    optimizer = learner._optimizer.optimizer
    assert isinstance(optimizer, Offloaded)
    return optimizer


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the small model has several."""
    monkeypatch.setattr(Offloaded.__init__, "__kwdefaults__", {"piece": 700})


@pytest.mark.parametrize("name", NAMES)
def test_the_same_updates(make_policy: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"optimizer": name, "weight_decay": 0.1, "ema": 0.5, "schedule": "linear", "total_updates": 4}
    plain = make_learner(make_policy("float32"), **settings)
    moved = make_learner(make_policy("float32"), **settings, offload=True)
    steps = []
    step = Offloaded._step
    monkeypatch.setattr(Offloaded, "_step", lambda self, part, some: steps.append(len(some)) or step(self, part, some))
    assert trained(moved, BATCHES) == trained(plain, BATCHES)
    assert torch.equal(parameters(moved), parameters(plain))
    count = len(list(moved.policy.module.parameters()))
    assert sum(steps) == 4 * count and len(steps) > 4 * 3, "every parameter once an update, in several pieces"


def test_states_are_where_the_host_keeps_them(make_policy: Any) -> None:
    """What is sent is a copy: the states of a device are let go, and the host's memory stays the same."""
    learner = make_learner(make_policy("float32"), offload=True, total_updates=4)
    trained(learner, range(1))

    def places() -> list[int]:
        (part,) = inner(learner)._parts
        states = [state[key] for state in part.state.values() for key in ("exp_avg", "exp_avg_sq")]
        kept = [value.data_ptr() for memory in inner(learner)._host.values() for value in memory.values()]
        assert sorted(value.data_ptr() for value in states) == sorted(kept)
        return kept

    before = places()
    trained(learner, range(1, 3))
    assert places() == before


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("first", "second"), [(True, False), (False, True), (True, True)])
def test_either_goes_on_from_what_the_other_saved(make_policy: Any, name: str, first: bool, second: bool) -> None:
    settings = {"optimizer": name, "schedule": "linear", "total_updates": 4}
    whole = make_learner(make_policy("float32"), **settings)
    reports = trained(whole, BATCHES)
    before = make_learner(make_policy("float32"), **settings, offload=first)
    trained(before, BATCHES[:2])
    after = make_learner(make_policy("float32", seed=9), **settings, offload=second)
    after.policy.module.load_state_dict(before.policy.module.state_dict())
    after.load_state_dict(before.state_dict())
    assert trained(after, BATCHES[2:]) == reports[2:]
    assert torch.equal(parameters(after), parameters(whole))


def test_moments_alone_are_taken_too(make_policy: Any) -> None:
    own = {"lr": 0.03, "betas": (0.8, 0.9), "total_updates": 4}
    before = make_learner(make_policy("float32"), lr=0.01, total_updates=2)
    trained(before, BATCHES[:2])
    ends = []
    for offloaded in (False, True):
        after = make_learner(make_policy("float32"), **own, offload=offloaded)
        after.policy.module.load_state_dict(before.policy.module.state_dict())
        after.take_moments(copy.deepcopy(before.state_dict()))  # torch's optimisers go on in the tensors that they load
        ends.append(trained(after, BATCHES[2:]))
        assert after._optimizer.param_groups[0]["betas"] == (0.8, 0.9)
    assert ends[0] == ends[1]


def test_a_piece_that_is_left_out_is_found(make_policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above would see it."""
    monkeypatch.setattr(offload, "_pieces", lambda some, most: list(_pieces(some, most))[1:])
    moved = make_learner(make_policy("float32"), offload=True, total_updates=4)
    plain = make_learner(make_policy("float32"), total_updates=4)
    assert trained(moved, BATCHES) != trained(plain, BATCHES)


def test_pieces() -> None:
    sizes = [3, 3, 9, 1, 2, 3]
    pieces = list(_pieces([torch.zeros(size) for size in sizes], 6))
    assert [[tensor.numel() for tensor in piece] for piece in pieces] == [[3, 3], [9], [1, 2, 3]]
    assert list(_pieces([], 6)) == []


def test_states_of_bitsandbytes_stay_on_the_device() -> None:
    assert OptimSection(offload=True).settings()["offload"] is True
    with pytest.raises(ValueError, match="offload does not go with adamw8bit"):
        OptimSection(use="adamw8bit", offload=True)
