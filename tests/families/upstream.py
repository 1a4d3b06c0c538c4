"""Families that vLLM on a CPU computes otherwise than transformers, by themselves: how far, and why.

python -m tests.families.upstream             all cases, a line each
python -m tests.families.upstream CASE        one, in this process

A case is vLLM as it is installed against transformers, both on a folder that transformers wrote:
the mean difference in nats of the log-probabilities of 40 tokens. The second number of a line is
the same with the cause taken away, in vLLM, in the reference or in the config. Nothing of rlcore
takes part but for one case, which vLLM's router for CPUs does not start without it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.families.configs import OF_FAMILY, make_model

LENGTH = 40
DEADLINE_S = 300


def _nothing(*_: Any) -> None:
    pass


@dataclass(frozen=True)
class Case:
    family: str
    cause: str
    keys: dict[str, Any] = field(default_factory=dict)
    """Of the config, where the cause is taken away."""
    before: Callable[[], None] = _nothing
    """What vLLM needs to run at all."""
    in_vllm: Callable[[], None] = _nothing
    in_reference: Callable[[PreTrainedModel], None] = _nothing


def rotate_in_python() -> None:
    from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding

    RotaryEmbedding.forward_cpu = RotaryEmbedding.forward_native


def route_with_rlcore() -> None:
    from rlcore.rollout.vllm_cpu import keep_raw_weights

    keep_raw_weights()


def leave_out_per_layer_embeddings(model: PreTrainedModel) -> None:
    project = model.model.project_per_layer_inputs
    model.model.project_per_layer_inputs = lambda embeddings, _=None: project(embeddings)


def read_both_ways(model: PreTrainedModel) -> None:
    forward = model.model.forward

    def with_types(input_ids: torch.Tensor, **keywords: Any) -> Any:
        keywords["token_type_ids"] = torch.ones_like(input_ids)
        return forward(input_ids=input_ids, **keywords)

    model.model.forward = with_types


def use_plain_silu(model: PreTrainedModel) -> None:
    for module in model.modules():
        if hasattr(module, "_apply_gate") and hasattr(module, "gate_up_proj"):
            module._apply_gate = _silu


def _silu(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


ROTARY = (
    "the rotary kernel for CPUs takes heads and stride from the last two dimensions, and multi-head "
    "latent attention passes [tokens, heads, head size] (csrc/cpu/pos_encoding.cpp)"
)
CASES = {
    family: Case(family, ROTARY, in_vllm=rotate_in_python)
    for family in ("deepseek_v2", "deepseek_v3", "glm4_moe_lite")
} | {
    "gemma3n_text": Case(
        "gemma3n_text",
        "Gemma3nForCausalLM never reads its embeddings of each layer; the class for images and text does (gemma3n.py)",
        in_reference=leave_out_per_layer_embeddings,
    ),
    "jetmoe": Case(
        "jetmoe",
        "the Transformers backend makes attention of num_key_value_heads, and JetMoE passes each of them "
        "once for every expert of a token (transformers/base.py)",
        keys={"num_experts_per_tok": 1, "num_key_value_heads": 4},
    ),
    "minimax_m3_vl_text": Case(
        "minimax_m3_vl_text",
        "the Transformers backend computes experts with SiLU, whatever the model's own activation (transformers/moe.py)",
        before=route_with_rlcore,
        in_reference=use_plain_silu,
    ),
    "hrm_text": Case(
        "hrm_text",
        "vLLM reads a prompt in both directions, as HRM was trained; transformers does so only if it is "
        "given token_type_ids (hrm_text.py)",
        in_reference=read_both_ways,
    ),
}


def gap(case: Case, *, as_it_is: bool) -> float:
    """Mean difference in nats between vLLM and transformers."""
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
    from vllm import LLM, SamplingParams

    case.before()
    if not as_it_is:
        OF_FAMILY[case.family] = OF_FAMILY.get(case.family, {}) | case.keys
        case.in_vllm()
    ids = torch.randint(0, 250, (LENGTH,), generator=torch.Generator().manual_seed(1))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        make_model(case.family, folder)
        model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
        if not as_it_is:
            case.in_reference(model)
        with torch.no_grad():
            logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1]
        expected = logits.log_softmax(-1).gather(1, ids[1:, None])[:, 0]
        engine = LLM(
            str(folder),
            dtype="float32",
            max_model_len=64,
            enforce_eager=True,
            enable_prefix_caching=False,
            kv_cache_memory_bytes=64 << 20,
        )
        settings = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
        prompt = {"prompt_token_ids": ids.tolist()}
        output = engine.generate([prompt], settings, use_tqdm=False)[0]
    scored = [
        entry[token].logprob
        for entry, token in zip(output.prompt_logprobs[1:], ids[1:].tolist(), strict=True)
    ]
    return (torch.tensor(scored) - expected).abs().mean().item()


def gap_apart(name: str, *, as_it_is: bool) -> str:
    """The same in a process of its own, as a vLLM needs."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", __spec__.name, name, str(as_it_is)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env=environment,
    )
    gaps = [line for line in done.stdout.splitlines() if line.startswith("GAP ")]
    return gaps[0].removeprefix("GAP ") if gaps else f"failed: {done.stderr.strip()[-200:]}"


def main(arguments: list[str]) -> None:
    if arguments:
        name, as_it_is = arguments[0], arguments[1:] != ["False"]
        print(f"GAP {gap(CASES[name], as_it_is=as_it_is):.2g}")
        return
    for name, case in CASES.items():
        first, second = (gap_apart(name, as_it_is=as_it_is) for as_it_is in (True, False))
        print(f"{name}: {first} nat; without the cause {second}: {case.cause}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
