"""Time and chance: the only module that asks the operating system for either.

Rules:
- Everything else gets a `Clock` and a `Random` (walarchiver.ports) handed in, so tests decide both.
- Tokens come from the operating system's generator for secrets; jitter does too, for want of a seed.
"""

from __future__ import annotations

import os
import random
import time
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError


class SystemClock:
    """This host's clock."""

    __slots__ = ()

    def now_us(self) -> int:
        """Microseconds since 1970-01-01 UTC; jumps when the host's clock is set."""
        return time.time_ns() // 1000

    def monotonic_s(self) -> float:
        """Seconds that never run backwards; only differences mean anything."""
        return time.monotonic()


class SystemRandom:
    """The operating system's generator; safe to use from several threads."""

    __slots__ = ("_generator",)

    def __init__(self) -> None:
        self._generator = random.SystemRandom()

    def token(self, length: int) -> bytes:
        """`length` unpredictable bytes, fit for secrets."""
        return os.urandom(length)

    def uniform(self, low: float, high: float) -> float:
        """A number between `low` and `high`, for jitter."""
        return self._generator.uniform(low, high)


def host_timezone() -> str:
    """IANA name of this host's zone, for showing times to people; UTC when it cannot be told."""
    for name in (
        os.environ.get("TZ", "").lstrip(":"),
        os.path.realpath("/etc/localtime").partition("zoneinfo/")[2],
    ):
        try:
            if name:
                return ZoneInfo(name).key
        except (ZoneInfoNotFoundError, ValueError, OSError):
            continue
    return "UTC"
