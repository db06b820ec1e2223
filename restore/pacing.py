"""Pace: no more than so many bytes a second, so that a restore leaves something of a shared line.

A bucket that fills at the rate and holds a second's worth; whoever takes more than is in it waits for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from walarchiver.ports import Clock

BURST_S = 1.0


@dataclass
class Pace:
    """Thread-safe. `wait(seconds)` is how to wait."""

    bytes_per_s: float
    clock: Clock
    wait: Callable[[float], object]
    _free_at_s: float = float("-inf")
    """When everything taken so far is paid for."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, count: int) -> None:
        """Return when `count` bytes more may pass."""
        now_s = self.clock.monotonic_s()
        with self._lock:
            self._free_at_s = max(self._free_at_s, now_s - BURST_S) + count / self.bytes_per_s
            pause_s = self._free_at_s - now_s
        if pause_s > 0:
            self.wait(pause_s)
