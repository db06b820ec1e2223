"""LedgerOrder: what is stored side by side enters the ledger in the order in which PostgreSQL asks for it.

Rules:
- Readers take a missing segment with a later one behind it for lost WAL: a standby that asks for it is
  stopped, and an operator is told to take a base backup. So what nobody has asked for yet is recorded in one
  entry with what goes before it, or behind it, and never without it.
- What PostgreSQL asks for waits for nothing: its order is the order.
- What goes before is waited for only until it is handed to the ledger, so that an entry still takes in many
  files. Whether it got there is seen when the entry is made; if not, the file is not recorded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from walarchiver.catalog import Catalog
from walarchiver.errors import Transient


@dataclass(slots=True, eq=False)
class Place:
    """A file's place in the order."""

    name: str
    behind: frozenset[str]
    """Files that must not be recorded later than this one."""
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    """Nothing that it is behind was on its way to the ledger any more."""
    passed_over: bool = False
    """It was refused because something that it is behind is not recorded."""


class LedgerOrder:
    """The order of one ledger. Lives in one event loop, but for `check` and `decided`, which belong to the
    thread that makes entries."""

    def __init__(self, batch: Callable[[], int]) -> None:
        """`batch` tells one handing over to the ledger from the next."""
        self._batch_now = batch
        self._coming: dict[str, Place] = {}
        self._waiting: set[Place] = set()
        self._batch = -1
        self._decided: set[str] = set()

    def enter(self, name: str, behind: frozenset[str]) -> Place:
        """A file is on its way: told before anything is waited for, so in the order of the calls."""
        place = Place(name, behind - {name})
        self._coming.setdefault(name, place)
        return place

    def ask(self, place: Place) -> None:
        """PostgreSQL asks for it."""
        place.behind = frozenset()
        self._move()

    async def turn(self, place: Place) -> None:
        """Wait for its turn. Who returns hands it to the ledger in the same step of the loop."""
        while not place.behind.isdisjoint(self._coming):
            place.moved.clear()
            self._waiting.add(place)
            await place.moved.wait()
        self.go(place)

    def go(self, place: Place) -> None:
        """It is handed to the ledger, or has come to its end."""
        if self._coming.get(place.name) is place:
            del self._coming[place.name]
        self._waiting.discard(place)
        self._move()

    def _move(self) -> None:
        moved = {place for place in self._waiting if place.behind.isdisjoint(self._coming)}
        self._waiting -= moved
        for place in moved:
            place.moved.set()

    # --- the ledger's thread -----------------------------------------------------------------------

    def check(self, place: Place, catalog: Catalog) -> None:
        """Whether all that it is behind is recorded, or will be by this very entry. Raises Transient."""
        if self._batch != self._batch_now():
            self._batch, self._decided = self._batch_now(), set()
        self._decided.discard(place.name)
        for name in place.behind - self._decided:
            if catalog.file(name) is None:
                place.passed_over = True
                raise Transient(f"{place.name} is not recorded before {name}, which is not archived yet")

    def decided(self, place: Place) -> None:
        """It is part of the entry that is being made."""
        self._decided.add(place.name)
