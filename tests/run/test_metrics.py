"""What was not measured is left out of the metrics: never a 0 that nobody counted."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from rlcore.learner.policy import load_policy
from rlcore.run.dead_states import dead_states, loss_meaning
from rlcore.run.metrics import (
    GroupFacts,
    learner_metrics,
    rollout_metrics,
    staleness_counts,
    staleness_metrics,
)
from rlcore.run.throughput import (
    Throughput,
    advantage_metrics,
    known_peak_tflops,
    peak_of,
    sample_facts,
    throughput,
)
from rlcore.types import Rollout, Sample, StepReport
from tests.families.configs import make_model

NOTHING = StepReport(
    loss=None,
    losses={},
    grad_norm=None,
    lr=1e-3,
    entropy=None,
    kl=None,
    ratio_max=None,
    clip_frac=None,
    tokens=0,
    sequences=2,
)


def facts(values: list[float | None], **parts: list[float | None]) -> GroupFacts:
    n = len(values)
    return GroupFacts(
        values=values,
        parts=[{name: column[i] for name, column in parts.items()} for i in range(n)],
        statuses=["ok" if value is not None else "unscorable" for value in values],
        failure="",
        lengths=[4] * n,
        distinct_words=[3] * n,
        finishes=["stop"] * n,
        prompt_tokens=3 * n,
    )


def sample(advantages: list[float], *, prompt: int = 2, stream: str = "policy") -> Sample:
    length = prompt + len(advantages)
    return Sample(
        id="a",
        token_ids=list(range(length)),
        mask=[position >= prompt for position in range(length)],
        advantages=[9.0] * prompt + advantages,
        stream=stream,
    )


def rollout(versions: list[int]) -> Rollout:
    n = len(versions)
    return Rollout.from_tokens(
        id="r",
        task_id="t",
        token_ids=list(range(n + 2)),
        mask=[False, False] + [True] * n,
        logprobs=[0.0] * (n + 2),
        versions=[0, 0, *versions],
    )


def test_a_reward_that_scored_nothing_has_no_mean() -> None:
    metrics = rollout_metrics(
        [facts([1.0, 0.0, None], math=[1.0, 0.0, None], judge=[None, None, None])]
    )
    assert metrics["reward/math"] == 0.5
    assert "reward/judge" not in metrics
    assert metrics["reward/frac_unscored"] == pytest.approx(1 / 3)
    assert metrics["reward/mean"] == 0.5


def test_only_groups_of_two_scored_completions_have_a_variance() -> None:
    groups = [facts([1.0, 1.0]), facts([1.0, 0.0]), facts([1.0, None]), facts([None, None])]
    assert rollout_metrics(groups)["reward/frac_zero_std"] == 0.5
    alone = rollout_metrics([facts([1.0]), facts([0.0])])
    assert "reward/frac_zero_std" not in alone
    assert dead_states(alone | {"tokens/trained": 9}) == []
    [sentence] = dead_states(alone | {"tokens/trained": 0})
    assert "advantage of 0" in sentence


def test_where_all_rewards_are_equal_a_scheme_may_still_teach() -> None:
    equal = rollout_metrics([facts([0.0, 0.0])]) | {"tokens/trained": 4}
    assert dead_states(equal | {"tokens/frac_wasted": 0.5}) == []
    assert "nothing was learned" in dead_states(equal | {"tokens/frac_wasted": 1.0})[0]


def test_a_step_of_cut_completions_says_where_one_ends() -> None:
    cut = {"completions/frac_truncated": 1.0}
    [sentence] = dead_states(cut, "Completions end at <|eos|> (258)")
    assert sentence.endswith("(an sft stage). Completions end at <|eos|> (258)")
    assert dead_states(cut | {"completions/frac_truncated": 0.9}, "Completions end") == []


def test_a_step_without_a_token_reports_only_what_is_known() -> None:
    assert learner_metrics(NOTHING) == {"lr": 1e-3, "tokens/trained": 0}


def test_the_advantage_is_averaged_over_trained_tokens_of_all_ranks() -> None:
    first = sample_facts([sample([1.0, -1.0]), sample([7.0], stream="text")])
    second = sample_facts([sample([-4.0])])
    assert advantage_metrics([first, second]) == {"advantage/abs_mean": 2.0}
    assert advantage_metrics([sample_facts([sample([7.0], stream="text")])]) == {}
    assert first.loss_tokens == 3
    assert first.sequence_tokens == 4 + 3
    assert first.squared_tokens == 16 + 9


def test_staleness_over_the_tokens_of_all_ranks() -> None:
    counts = [staleness_counts([rollout([5, 5, 4])], 5), staleness_counts([rollout([2])], 5)]
    assert counts == [{0: 2, 1: 1}, {3: 1}]
    assert staleness_metrics(counts) == {
        "staleness/mean": 1.0,
        "staleness/max": 3,
        "staleness/frac_0": 0.5,
        "staleness/frac_1": 0.25,
        "staleness/frac_3": 0.25,
    }
    assert staleness_metrics([{}, {}]) == {}


def test_tokens_per_second_and_utilisation() -> None:
    measure = Throughput(parameters=1000, attention_width=16, frozen=False, peak_flops=1e6)
    step = [sample_facts([sample([1.0, 1.0, 1.0])])]
    flops = 6 * 1000 * 5 + 6 * 2 * 8 * 25
    metrics = measure.metrics(step, {"time/total": 2.0, "time/learn": 0.5}, generated_tokens=40)
    assert metrics == {
        "tokens_per_s/trained": 1.5,
        "tokens_per_s/generated": 20.0,
        "mfu": pytest.approx(flops / 0.5 / 1e6),
    }


def test_the_width_of_attention_is_that_of_each_layer(tmp_path: Path) -> None:
    make_model("gemma4_text", tmp_path)
    policy = load_policy(path=str(tmp_path))
    assert throughput(policy, Accelerator(cpu=True)).attention_width == 4 * (256 + 512)


def test_the_flops_of_a_model_are_those_that_torch_counts() -> None:
    """Of the matrix products, without attention: torch counts them on the real backward pass."""
    from torch.utils.flop_counter import FlopCounterMode

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = {
        "model_type": "qwen2",
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        **sizes,
    }
    policy = load_policy(config=config | {"tie_word_embeddings": False}, tokenizer="bytes")
    measure = throughput(policy, Accelerator(cpu=True), peak_tflops=1e-6)
    model = policy.model
    model.set_attn_implementation("sdpa")
    ids = torch.arange(40)[None]
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids).logits.sum().backward()
    products = counter.get_flop_counts()["Global"]
    counted = sum(value for key, value in products.items() if "mm" in str(key))
    expected = measure.flops([SimpleNamespace(sequence_tokens=40, squared_tokens=0)])
    assert expected == pytest.approx(counted, rel=0.1)


def test_the_peak_is_looked_up_by_whole_words() -> None:
    assert peak_of("NVIDIA H100 80GB HBM3") == 989
    assert peak_of("NVIDIA H100 PCIe") == 756
    assert peak_of("NVIDIA A10G") == 70
    assert peak_of("NVIDIA RTX A1000") is None
    assert peak_of("Some New GPU") is None
    assert (
        known_peak_tflops(SimpleNamespace(arithmetic=torch.bfloat16), torch.device("cpu"))
        is None
    )


def test_only_losses_that_mislead_are_explained() -> None:
    assert "does not measure progress" in loss_meaning("rl")
    assert loss_meaning("sft") is None
