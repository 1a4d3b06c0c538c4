"""A section whose time ends in the middle of its cases."""

import time

from rlcore.bench.device.case import Case


def cases(tiny):
    yield Case("quick", lambda: {})
    yield Case("slow", lambda: time.sleep(600))
