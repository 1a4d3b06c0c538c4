"""Run in two processes: gradients of a model sharded over two ranks (FSDP2), the second without samples, equal the whole one's; so do
log-probabilities of other numbers of texts on each.

By hand: torchrun --nproc_per_node 2 sharded_gradient.py OUT
"""

import sys

import torch
import torch.distributed as dist
from test_update import make_samples
from tiny_model import TINY
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from rlcore.learner.pack import idle_micro_batch, pack
from rlcore.learner.policy import load_policy


def gradients(policy, batches):
    for batch in batches:
        logp, _ = policy.module(
            batch.token_ids, batch.positions, batch.lengths, batch.source, batch.target
        )
        (logp * batch.advantage).sum().backward()
    grads = {name: p.grad for name, p in policy.module.named_parameters()}
    return {
        name: grad.full_tensor() if isinstance(grad, DTensor) else grad
        for name, grad in grads.items()
    }


if __name__ == "__main__":
    dist.init_process_group("gloo")
    batches = pack(make_samples(), max_tokens=1000)
    whole, sharded = (
        load_policy(config=TINY, tokenizer="bytes", dtype="float64") for _ in range(2)
    )
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in sharded.model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(sharded.module, mesh=mesh)
    assert all(isinstance(p, DTensor) for p in sharded.module.parameters())
    want = gradients(whole, batches)
    got = gradients(sharded, batches if dist.get_rank() == 0 else [idle_micro_batch()])
    for name, grad in want.items():
        assert torch.allclose(got[name] * dist.get_world_size(), grad, rtol=1e-12, atol=1e-14), name
    # one rank has six micro-batches to read and the other has one: both go through the layers six times
    texts = [[5 + i, 7, 11 + i, 13] for i in range(6)][: 6 if dist.get_rank() == 0 else 1]
    for read, expected in zip(
        sharded.read(texts, max_tokens=4), whole.read(texts, max_tokens=4), strict=True
    ):
        for ours, theirs in zip(read, expected, strict=True):
            assert torch.allclose(torch.tensor(ours), torch.tensor(theirs), rtol=1e-12), (ours, theirs)
    given = dict(sharded.weights())
    assert all(torch.equal(given[name], tensor) for name, tensor in whole.weights())
    sharded.save(sys.argv[1])
    dist.destroy_process_group()
