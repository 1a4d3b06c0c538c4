"""A section that fails before it says what its cases are, as one whose import fails."""


def cases(tiny):
    raise OSError("a library of the driver is missing")
