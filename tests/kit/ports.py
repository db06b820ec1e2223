"""Ports to be listened on later."""

from __future__ import annotations

import random
import socket


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has, and that no outgoing connection is given meanwhile."""
    while True:
        with socket.socket() as trial:
            try:
                trial.bind(("127.0.0.1", port := random.randrange(10_000, 12_000)))
            except OSError:
                continue
            return port
