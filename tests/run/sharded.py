"""Run in each process: the `rlcore` command with the model sharded by accelerate's FSDP2 plugin.

On a GPU `accelerate launch --use_fsdp --fsdp_version 2` does this; on CPU accelerate leaves the plugin out, so it is put in here.
"""

import os
import sys

from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from rlcore import weight_files
from rlcore.cli.main import main
from rlcore.learner.reference import ShardedReference
from rlcore.learner.update import Learner
from rlcore.run import driver as train

plugin = None


def put_in():
    global plugin
    plugin = plugin or FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        cpu_ram_efficient_loading=True,
    )
    AcceleratorState._shared_state |= {
        "distributed_type": DistributedType.FSDP,
        "fsdp_plugin": plugin,
    }


def sharding(**settings):
    made = Accelerator(**settings)
    # what `accelerate launch --use_fsdp` sets without a word: only the first process is to read weights
    os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}
    put_in()
    return made


def prepare(self, *parts, prepare=Accelerator.prepare):
    put_in()  # a later stage's engine may have made accelerate look at the machine again
    return prepare(self, *parts)


def update(self, samples, update=Learner.update):
    assert all(isinstance(p, DTensor) for p in self.policy.module.parameters())
    # each layer is gathered by itself: the engine says which classes they are
    assert all(isinstance(layer, FSDPModule) for layer in self.policy.model.get_decoder().layers)
    # under an adapter the reference is the model without it
    is_sharded = self._reference is None or isinstance(self._reference, ShardedReference)
    assert is_sharded or self.policy.adapter
    return update(self, samples)


weight_files.FILE_BYTES = 20_000  # the tiny model takes several files
train.Accelerator = sharding
Accelerator.prepare = prepare
Learner.update = update
sys.exit(main(sys.argv[1:]))
