"""Where the processes of a run meet, anew after each restart by torchrun.

The agents of torchrun (torch 2.13) keep one store for all restarts, with the addresses that ended processes wrote
into it. A process that reads such an address before its new value was written is refused, or waits until the
time-out. So the processes of one start first agree on a name that no earlier start had, and meet under it.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed.rendezvous import register_rendezvous_handler, rendezvous

FRESH = "rlcore://"
"""The address of this meeting, for `init_process_group(init_method=...)`."""


def init_method() -> str:
    """The address under which the processes of this start meet."""
    kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return FRESH if kept else "env://"


def agree(store: dist.Store, rank: int, world_size: int, timeout: timedelta) -> str:
    """A name that the processes of this start share, and that no earlier start had.

    store: shared by all, and perhaps with the keys of earlier starts.

    The first process names a meeting. Every other one answers with a number of its own, also to a meeting of an
    earlier start, where nobody listens. The first process then lists the numbers that it heard: whoever finds its
    own number in the list is in the right meeting.
    """
    number = uuid.uuid4().hex
    if rank == 0:
        store.set("meeting", number)
        others = [f"{number}/answer/{other}" for other in range(1, world_size)]
        store.wait(others, timeout)
        numbers = [store.get(key).decode() for key in others]
        store.set(f"{number}/present", json.dumps(numbers))
        return number
    store.wait(["meeting"], timeout)
    deadline = time.monotonic() + timeout.total_seconds()
    while time.monotonic() < deadline:
        meeting = store.get("meeting").decode()
        store.set(f"{meeting}/answer/{rank}", number)
        present = f"{meeting}/present"
        if store.check([present]) and number in json.loads(store.get(present)):
            return meeting
        time.sleep(0.05)
    raise dist.DistError(f"process 0 has not come within {timeout.total_seconds():g} seconds")


def _meet(
    url: str, timeout: timedelta = timedelta(minutes=30), **options: Any
) -> Iterator[tuple[dist.Store, int, int]]:
    store, rank, world_size = next(iter(rendezvous("env://", timeout=timeout)))
    yield dist.PrefixStore(agree(store, rank, world_size, timeout), store), rank, world_size


register_rendezvous_handler("rlcore", _meet)
