"""How fast a step was: tokens per second, and how much of the devices' peak the learner used."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from rlcore.learner.policy import Policy
from rlcore.pretrained import head_size, layer_configs
from rlcore.types import Sample

PEAK_TFLOPS = {
    "B200": 2250.0,
    "GH200": 989.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "H20": 148.0,
    "A100": 312.0,
    "A10G": 70.0,
    "A10": 125.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
}
"""Dense bfloat16 TFLOP/s by a word of the device's name, from the vendor's data sheets.

The longest name that fits counts.
"""


@dataclass(frozen=True, slots=True)
class SampleFacts:
    """Sums over the samples of one rank and step; small, so that ranks can exchange them."""

    trained_tokens: int
    """Tokens of the stream `policy` in the loss."""
    abs_advantage: float
    """Sum of their |advantage|."""
    sequence_tokens: int
    """All tokens of all samples, prompts too: what the learner's forward pass reads."""
    squared_tokens: int
    """Sum of the samples' squared lengths, which the cost of attention grows with."""
    loss_tokens: int
    """Tokens in the loss, of every stream."""


def sample_facts(samples: Iterable[Sample]) -> SampleFacts:
    trained_tokens = 0
    abs_advantage = 0.0
    sequence_tokens = 0
    squared_tokens = 0
    loss_tokens = 0
    for sample in samples:
        length = len(sample.token_ids)
        sequence_tokens += length
        squared_tokens += length**2
        loss_tokens += sum(sample.mask)
        if sample.stream != "policy":
            continue
        for is_trained, advantage in zip(sample.mask, sample.advantages, strict=True):
            if is_trained:
                trained_tokens += 1
                abs_advantage += abs(advantage)
    return SampleFacts(
        trained_tokens=trained_tokens,
        abs_advantage=abs_advantage,
        sequence_tokens=sequence_tokens,
        squared_tokens=squared_tokens,
        loss_tokens=loss_tokens,
    )


def advantage_metrics(facts: Sequence[SampleFacts]) -> dict[str, float]:
    """Mean |advantage| over the trained tokens of all ranks; empty where no token was trained."""
    tokens = sum(fact.trained_tokens for fact in facts)
    if tokens == 0:
        return {}
    return {"advantage/abs_mean": sum(fact.abs_advantage for fact in facts) / tokens}


@dataclass(frozen=True, slots=True)
class Throughput:
    """Turns token counts and seconds into metrics; made once a stage with `throughput`."""

    parameters: int
    attention_width: int
    """Heads times the size of a head, of all layers together."""
    frozen: bool
    """Whether only an adapter is trained: the base then needs no gradient of its weights."""
    peak_flops: float | None
    """Of all devices of the learner together, per second; None: unknown."""

    def flops(self, facts: Sequence[SampleFacts]) -> float:
        """Floating-point operations of one forward and backward pass over the samples.

        6 * parameters a token (2 forward, 4 backward; 2 of the backward are for the weights), and
        6 * width * length^2 a sequence for causal attention (half of the full matrix):
        PaLM, arXiv 2204.02311, appendix B. Recomputation, the reference model and other forward
        passes do not count. A prefix that several samples share counts in each of them, so the
        shared layout raises the utilisation.
        """
        tokens = sum(fact.sequence_tokens for fact in facts)
        squared = sum(fact.squared_tokens for fact in facts)
        per_token = (4 if self.frozen else 6) * self.parameters
        return per_token * tokens + 6 * self.attention_width * squared

    def metrics(
        self,
        facts: Sequence[SampleFacts],
        times: Mapping[str, float],
        *,
        generated_tokens: int | None = None,
        epochs: int = 1,
    ) -> dict[str, float]:
        """`tokens_per_s/*` and `mfu` of one step.

        facts: of all ranks. times: `Stopwatch.times()`, of which `time/total` and `time/learn` are
        read. generated_tokens: completion tokens of all ranks, None for stages that generate
        nothing. epochs: passes over the samples.
        """
        seconds = times["time/total"]
        trained = epochs * sum(fact.loss_tokens for fact in facts)
        metrics = {"tokens_per_s/trained": trained / seconds}
        if generated_tokens is not None:
            metrics["tokens_per_s/generated"] = generated_tokens / seconds
        if self.peak_flops is not None and trained > 0:
            achieved = epochs * self.flops(facts) / times["time/learn"]
            metrics["mfu"] = achieved / self.peak_flops
        return metrics


def throughput(
    policy: Policy,
    accelerator: Accelerator,
    *,
    peak_tflops: float | None = None,
) -> Throughput:
    """peak_tflops: of one device (`run.peak_tflops`); None: looked up by the device's name."""
    config = policy.model.config.get_text_config()
    widths = [layer.num_attention_heads * head_size(layer) for layer in layer_configs(config)]
    if peak_tflops is None:
        peak_tflops = known_peak_tflops(policy, accelerator.device)
    peak_flops = None
    if peak_tflops is not None:
        peak_flops = peak_tflops * 1e12 * accelerator.num_processes
    return Throughput(
        parameters=_multiplied_parameters(policy),
        attention_width=sum(widths),
        frozen=policy.adapter is not None,
        peak_flops=peak_flops,
    )


def known_peak_tflops(policy: Policy, device: torch.device) -> float | None:
    """The table's value for the device; None on a CPU, and where the model is in float32."""
    if device.type != "cuda" or policy.arithmetic not in (torch.bfloat16, torch.float16):
        return None
    return peak_of(torch.cuda.get_device_name(device))


def peak_of(device_name: str) -> float | None:
    fitting = [name for name in PEAK_TFLOPS if re.search(rf"\b{name}\b", device_name)]
    return PEAK_TFLOPS[max(fitting, key=len)] if fitting else None


def _multiplied_parameters(policy: Policy) -> int:
    """All parameters but an input embedding of its own: that is looked up, not multiplied."""
    embedding = policy.model.get_input_embeddings().weight
    head = policy.model.get_output_embeddings().weight
    if embedding is head:
        return policy.num_parameters
    return policy.num_parameters - embedding.numel()
