"""How much of a base backup may be under way at once, in bytes.

Rules:
- Plain bytes: a number of buffers that are filled again and again. Sealed ones: a count of bytes, as parts
  of one size become bodies of very different ones.
- A part that is being sealed counts twice its size, compressed and sealed; from then on what its body has.
- One part always may go on, so that a bound that is too small makes things slow and not stand still.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

PUTS_MAX = 8
WAITING_BYTES_MAX = 64 << 20
"""Bodies that are on their way to the store, or wait for it: enough for `PUTS_MAX` that compressed."""


@dataclass(frozen=True, slots=True)
class Room:
    """How much may be under way at once."""

    workers: int
    """Threads that seal."""
    plain: int
    """Buffers of plain bytes, the one that is being filled included."""
    sealed_bytes: int
    """Of parts that are being sealed or are not durable yet."""

    @classmethod
    def within(cls, memory: int, part_bytes: int, workers: int) -> Room:
        """What fits into `memory`; one of each at least."""
        plain = max(1, min(workers + 1, (memory // part_bytes - 1) // 2))
        sealing = max(1, min(workers, plain))
        left = max(part_bytes, memory - plain * part_bytes)
        return cls(sealing, plain, min(left, 2 * sealing * part_bytes + WAITING_BYTES_MAX))


class SealedBytes:
    """Counts bytes up to a bound; who would exceed it waits. Thread-safe."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0
        self._changed = threading.Condition()

    @property
    def held(self) -> int:
        return self._held

    def take(self, count: int) -> None:
        """Wait for room; whoever comes while nothing is held goes in."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + count <= self._most)
            self._held += count

    def give(self, count: int) -> None:
        """Back, of what was taken."""
        with self._changed:
            self._held -= count
            self._changed.notify_all()
