"""A section in which nothing is wrong."""

from rlcore.bench.device.case import Case


def cases(tiny):
    yield Case("one", lambda: {"tiny": tiny})
    yield Case("two", lambda: {})
