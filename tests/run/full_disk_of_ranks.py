"""Run in each process: the `rlcore` command on a disk that refuses step 4's checkpoint, in whichever thread it is written."""

import errno
import os
import sys

from rlcore.cli.main import main

fsync = os.fsync


def refuse(handle):
    if "step_000004" in os.readlink(f"/proc/self/fd/{handle}"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    fsync(handle)


os.fsync = refuse
sys.exit(main(sys.argv[1:]))
