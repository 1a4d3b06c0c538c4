"""The noise that recipes/papers/rl_on_incorrect/noise.py measures, on a model and advantages where it is known."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from rlcore.credit.group import group_credit
from tests.credit.chains import group
from tests.test_rl_on_incorrect import script

noise = script("noise")
MEAN = group_credit(baseline="mean", zero_variance="keep")


def tiny() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    size = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
    }
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=5, **size))


def test_parts_of_the_advantages_make_up_the_whole_gradient() -> None:
    """And it is the derivative of the mean over answers of the mean over tokens of A log pi."""
    model, of = tiny(), group([[1, 1, 2], [1, 3], [2, 2, 1, 1]])
    credits = {"all": MEAN, "in": noise.only(MEAN, {1}, True), "out": noise.only(MEAN, {1}, False)}
    found = noise.gradients(model, of, credits)
    assert (
        torch.allclose(found["in"] + found["out"], found["all"], atol=1e-7)
        and found["in"].norm() > 0 < found["out"].norm()
    )
    loss = 0.0
    for sample in MEAN([of])[0]:
        logprobs = model(torch.tensor([sample.token_ids])).logits[0, :-1].log_softmax(-1)
        answer = logprobs.gather(-1, torch.tensor(sample.token_ids[1:])[:, None])[:, 0]
        loss = loss + (answer * torch.tensor(sample.advantages[1:])).mean() / 3
    wanted = torch.autograd.grad(loss, list(model.parameters()))
    assert torch.allclose(found["all"], torch.cat([part.flatten() for part in wanted]), atol=1e-6)


def test_equal_groups_have_a_signal_and_no_noise() -> None:
    of = group([[1, 1, 2], [1, 3], [2, 2, 1, 1]])
    model = tiny()
    signal, trace = noise.measure(model, [of] * 4, {"mean": MEAN})["mean"]
    assert signal == pytest.approx(
        float(noise.gradients(model, of, {"mean": MEAN})["mean"].square().sum()), rel=1e-4
    )
    assert abs(trace) < 1e-4 * signal
