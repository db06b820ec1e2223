"""Chance that is the same every time."""

from __future__ import annotations

import hashlib


class FixedChance:
    """A `Random` whose tokens follow from a label."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._drawn = 0

    def token(self, length: int) -> bytes:
        self._drawn += 1
        return hashlib.shake_256(f"{self._label} {self._drawn}".encode()).digest(length)

    def uniform(self, low: float, high: float) -> float:
        return (low + high) / 2
