"""The sections in order of worth: what is wrong comes before what is slow."""

from __future__ import annotations

from rlcore.bench.device.case import Section

_HERE = "rlcore.bench.device"

SECTIONS = (
    Section(
        "correctness",
        f"{_HERE}.correctness",
        150,
        "a CUDA GPU; FlashAttention in bfloat16 from compute capability 8.0, FlashAttention 3 on 9.0 with flash_attn_interface",
    ),
    Section("learner", f"{_HERE}.learner", 300, "a CUDA GPU of 80 GB; TRL for the comparison"),
    Section("engine", f"{_HERE}.engine", 300, "a CUDA GPU of 40 GB, vLLM"),
    Section(
        "step",
        f"{_HERE}.step",
        400,
        "a CUDA GPU of 80 GB, vLLM, TRL; two GPUs for weights over NCCL",
    ),
    Section("gap", f"{_HERE}.gap", 200, "a CUDA GPU of 40 GB, vLLM"),
    Section("instruct", f"{_HERE}.instruct", 300, "a CUDA GPU, vLLM, SmolLM2-135M-Instruct"),
)
