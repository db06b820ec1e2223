"""Buffers: memory that WAL is read into, used again and again.

Rules:
- Fresh memory costs as much as reading into it: the system clears every page. So a few buffers are kept.
- Never more are kept than there are threads that fill them; how many are in use at once is the caller's
  business (`budget.py`).
- A buffer's content is that of whoever had it last. Who gives it back uses it no more.
"""

from __future__ import annotations

import threading

SMALL_BYTES = 1 << 20
"""Smaller ones are not kept."""


class Buffers:
    """A few buffers of any size. Thread-safe."""

    def __init__(self, kept_max: int) -> None:
        self._kept_max = kept_max
        self._kept: list[bytearray] = []
        self._lock = threading.Lock()

    def take(self, size: int) -> bytearray:
        """A buffer of just this size, with anything in it."""
        with self._lock:
            for index, buffer in enumerate(self._kept):
                if len(buffer) == size:
                    return self._kept.pop(index)
        return bytearray(size)

    def give_back(self, buffer: bytearray) -> None:
        """Keep it for the next caller; the one kept longest makes room."""
        if len(buffer) < SMALL_BYTES:
            return
        with self._lock:
            self._kept.append(buffer)
            del self._kept[: -self._kept_max]
