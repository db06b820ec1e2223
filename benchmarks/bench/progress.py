"""Progress on standard error, with the seconds since the start."""

from __future__ import annotations

import sys
import time

_BEGAN = time.monotonic()


def elapsed_s() -> float:
    """Seconds since the program began."""
    return time.monotonic() - _BEGAN


def say(line: str) -> None:
    """One line for whoever watches."""
    print(f"bench {elapsed_s():6.1f} s: {line}", file=sys.stderr, flush=True)
