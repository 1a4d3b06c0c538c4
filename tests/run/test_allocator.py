"""Freed blocks of a MiB or more go back to the system, also between blocks that stay."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
import torch
from rlcore.bench.measure import resident
from rlcore.run.allocator import free_large_blocks_at_once, give_back_freed_memory

if sys.argv[1] == "at once":
    free_large_blocks_at_once()
freed = torch.ones(7 * 2**20)  # glibc raises its threshold to what is freed, here 28 MiB
del freed
before = resident("VmRSS")
large, small = [], []
for _ in range(100):
    large.append(torch.ones(2**19))  # 2 MiB
    small.append(torch.ones(2**14))  # 64 KiB, which keep the places between
del large[::2]
print((resident("VmRSS") - before) / 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="settings of glibc")
def test_what_is_freed_between_blocks_that_stay_is_no_longer_resident() -> None:
    def resident_mib(when: str) -> float:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, when], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return float(done.stdout)

    held = 50 * 2 + 100 / 16
    assert resident_mib("at once") == pytest.approx(held, abs=10)
    assert resident_mib("later") > held + 80  # all 100 blocks
