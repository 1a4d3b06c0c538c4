"""Two processes that share the samples of a step end where one process with all of them does."""

from dataclasses import astuple
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from two_process_step import SHARES, run
from two_process_updates import run as run_updates

from rlcore.learner.policy import load_policy
from tests.run.whole import finish, start

HERE = Path(__file__).parent


def flat(report):
    """Its numbers; what was not measured is None and left out."""
    values = [
        x
        for value in astuple(report)
        for x in (value.values() if isinstance(value, dict) else [value])
    ]
    return [x for x in values if x is not None]


def test_two_processes_equal_one(tmp_path):
    finish(start(tmp_path, script=HERE / "two_process_step.py", processes=2))
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in range(2)]
    alone = run([(0, max(end for _, end in share)) for share in SHARES], Accelerator(cpu=True))
    assert [result["processes"] for result in (*ranks, alone)] == [2, 2, 1]
    assert torch.equal(ranks[0]["tensors"], ranks[1]["tensors"])
    assert ranks[0]["reports"] == ranks[1]["reports"]
    assert (
        len(alone["tensors"]) == 3 * 2 + 1
    )  # the last step is empty: no gradient, parameters as before
    assert torch.equal(ranks[0]["tensors"][-1], ranks[0]["tensors"][-2])
    for got, want in zip(ranks[0]["tensors"], alone["tensors"], strict=True):
        assert (got - want).abs().max() < 1e-12 * max(1, want.abs().max())
    for got, want in zip(ranks[0]["reports"], alone["reports"], strict=True):
        assert flat(got) == pytest.approx(flat(want), rel=1e-10)


def test_the_updates_of_a_step_do_not_depend_on_the_number_of_processes(tmp_path):
    """Minibatches and epochs by groups and by sequences, old log-probabilities of either source, stale groups on one rank."""
    finish(start(tmp_path, script=HERE / "two_process_updates.py", processes=2))
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in range(2)]
    single = run_updates(Accelerator(cpu=True))
    assert [result["processes"] for result in (*ranks, single)] == [2, 2, 1]
    assert torch.equal(ranks[0]["tensors"], ranks[1]["tensors"])
    assert ranks[0]["reports"] == ranks[1]["reports"]
    assert [report.updates for report in single["reports"]] == [8, 8, 8, 1]
    assert single["reports"][-1].off_policy_tokens > 0 < single["reports"][-1].forward_only_tokens
    for got, want in zip(ranks[0]["tensors"], single["tensors"], strict=True):
        assert (got - want).abs().max() < 1e-7 * max(1, want.abs().max())
    for got, want in zip(ranks[0]["reports"], single["reports"], strict=True):
        for field in ("loss", "grad_norm", "entropy", "old_kl", "ratio_max", "tokens", "updates"):
            assert getattr(got, field) == pytest.approx(getattr(want, field), rel=1e-6)


def test_a_sharded_model_has_the_same_gradient_and_checkpoint(tmp_path, make_policy):
    finish(start(tmp_path, script=HERE / "sharded_gradient.py", processes=2))
    saved = load_policy(path=str(tmp_path), dtype="float64")
    assert all(
        torch.equal(tensor, dict(saved.weights())[name]) for name, tensor in make_policy().weights()
    )
