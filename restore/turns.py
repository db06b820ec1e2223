"""Turns: so many at a time do what takes a core; who is waited for does not wait.

Fetching ahead has more threads than open bodies at a time: the others wait for the store, which may be far
away. What PostgreSQL has asked for is opened at once, and one fewer of those ahead meanwhile: more at a time
than there are cores only keeps replay, and each other, from going on.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Thread-safe. `width`: how many at a time."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._changed = threading.Condition()
        self._inside = 0

    @contextmanager
    def now(self) -> Iterator[None]:
        """Work at once, whoever else does."""
        with self._changed:
            self._inside += 1
        yield from self._within()

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Work when there is room."""
        with self._changed:
            while self._inside >= self._width:
                self._changed.wait()
            self._inside += 1
        yield from self._within()

    def _within(self) -> Iterator[None]:
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify()
