"""Addresses of this machine."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit


def address_towards(url: str) -> str:
    """This machine's address as the machine of a URL sees it. Raises `OSError` if that one is not known by its name."""
    parts = urlsplit(url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # nothing is sent: the system chooses the interface
        probe.connect((parts.hostname or "", parts.port or 80))
        return str(probe.getsockname()[0])
