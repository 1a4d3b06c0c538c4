"""Addresses of this machine."""

from __future__ import annotations

import socket


def address_towards(host: str, port: int) -> str:
    """This machine's address as another machine sees it. Raises `OSError` if that one is not known by its name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # nothing is sent: the system chooses the interface
        probe.connect((host, port))
        return str(probe.getsockname()[0])
