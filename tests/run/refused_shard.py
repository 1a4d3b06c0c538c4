"""Run in each process: `sharded.py` where the second process cannot write its part of step 4's checkpoint."""

import os
import runpy
from pathlib import Path

from safetensors import SafetensorError

from rlcore.learner import shard_files

save_file = shard_files.save_file


def refuse(tensors, path, metadata):
    if os.environ["RANK"] == "1" and "step_000004" in str(path):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    save_file(tensors, path, metadata)


shard_files.save_file = refuse
runpy.run_path(str(Path(__file__).with_name("sharded.py")), run_name="__main__")
