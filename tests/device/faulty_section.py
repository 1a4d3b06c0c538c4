"""A section whose cases raise, are killed, hang, leave the process broken and stay silent; and one that cannot even be listed."""

import os
import signal
import sys
import time
from pathlib import Path

from rlcore.bench.device.case import Case, CheckError, Needs


def fine():
    return {"value": 1.5}


def wrong():
    raise CheckError("the value is 2, which must be at most 1")


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def exits():
    sys.stdout.write("last words of the process\n")
    sys.stdout.flush()
    os._exit(3)


def hangs():
    time.sleep(600)


def leaves_a_child():
    """A grandchild that outlives its parent unless the whole group is killed."""
    import subprocess

    child = subprocess.Popen(["sleep", "600"])
    Path(os.environ["CHILD_OF_A_CASE"]).write_text(str(child.pid))
    time.sleep(600)


def not_json():
    return {"value": object()}


def once():
    """Fails the first time, passes afterwards."""
    marker = Path(os.environ["PASSED_ONCE"])
    if not marker.exists():
        marker.touch()
        raise RuntimeError("the first time")
    return {}


def cases(tiny):
    yield Case("fine", fine)
    yield Case("wrong", wrong)
    yield Case("killed", killed)
    yield Case("exits", exits)
    yield Case("hangs", hangs, seconds=1.0)
    yield Case("leaves a child", leaves_a_child, seconds=2.0)
    yield Case("not JSON", not_json)
    yield Case("elsewhere", fine, Needs(packages=("no_such_package_here",)))
    yield Case("once", once)
    yield Case("last", fine)
