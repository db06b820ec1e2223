"""Time and chance for tests: a clock that stands still until told, and seeded randomness.

`SteppingClock.wait` can stand in for a sleep: it moves the clock and returns at once.
"""

from __future__ import annotations

import random
import threading
import time

NOON_US = 1_795_348_800_000_000
"""2026-11-22 12:00:00 UTC."""


class SteppingClock:
    """A Clock that moves only when told; thread-safe."""

    def __init__(self, now_us: int = NOON_US) -> None:
        self._lock = threading.Lock()
        self._now_us = now_us
        self._monotonic_s = 1000.0
        self.waits: list[float] = []

    def now_us(self) -> int:
        with self._lock:
            return self._now_us

    def monotonic_s(self) -> float:
        with self._lock:
            return self._monotonic_s

    def advance(self, seconds: float) -> None:
        with self._lock:
            self._now_us += round(seconds * 1_000_000)
            self._monotonic_s += seconds

    def jump(self, seconds: float) -> None:
        """Somebody sets the host's clock; no time passes."""
        with self._lock:
            self._now_us += round(seconds * 1_000_000)

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.advance(seconds)
        return False


class RealClock:
    """The host's clock as a Clock, for tests against real servers."""

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def monotonic_s(self) -> float:
        return time.monotonic()


class SeededRandom:
    """A Random that gives the same run for the same seed; thread-safe enough for tests."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)

    def token(self, length: int) -> bytes:
        return self._random.randbytes(length)

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)
