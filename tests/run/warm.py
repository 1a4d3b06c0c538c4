"""What a forked command finds imported: the engine, and vLLM where it is installed."""

import atexit
import gc
import importlib.util
import os

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command does before it imports torch
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
os.environ.setdefault(
    "PYTORCH_NVML_BASED_CUDA_CHECK", "1"
)  # where there is a GPU, looking for it must not bar it from the forks

import rlcore.run.driver  # noqa: E402, F401
from rlcore.rollout.vllm_start import prepare_environment  # noqa: E402

if importlib.util.find_spec("vllm") is not None:
    prepare_environment()
    import vllm.v1.engine.llm_engine  # noqa: F401

    import rlcore.rollout.vllm_weights  # noqa: F401

# Else libraries tell at length what they leave behind when the process that is forked ends.
atexit.register(os._exit, 0)
gc.freeze()  # collections in what is forked need not look at all that is imported
