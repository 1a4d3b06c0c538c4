"""An engine that lives in the learner's process is a guest there: its start and end leave the process as they found it."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from unittest import mock

import numpy as np
import torch
from transformers import CONFIG_MAPPING


def launched() -> bool:
    """Whether a launcher started this process as one of a group that has already met."""
    return (
        torch.distributed.is_available()
        and torch.distributed.is_initialized()
        and "RANK" in os.environ
    )


@contextmanager
def guest_manners() -> Iterator[None]:
    """Restore the global random states, which an engine seeds anew, and the classes that transformers reads configs
    with, some of which vLLM replaces by its own; keep the launcher's process groups, which an engine destroys when it
    ends; hide the deprecation warnings of its imports."""
    python, numpy = random.getstate(), np.random.get_state()
    config_classes = dict(CONFIG_MAPPING._extra_content)
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    keep_groups = (
        mock.patch("torch.distributed.destroy_process_group") if launched() else nullcontext()
    )
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings(), keep_groups:
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        try:
            yield
        finally:
            CONFIG_MAPPING._extra_content = config_classes
    random.setstate(python)
    np.random.set_state(numpy)
