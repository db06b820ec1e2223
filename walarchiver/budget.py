"""A budget of bytes held in memory: whoever wants to hold some waits until they are free."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Held:
    """What one caller holds of a budget, and can give back before its time."""

    def __init__(self, budget: ByteBudget, count: int) -> None:
        self._budget = budget
        self._count = count

    def keep(self, count: int) -> None:
        """Give back all but `count`; what was given back is not taken again."""
        if count < self._count:
            spare, self._count = self._count - count, count
            self._budget.give_back(spare)


class ByteBudget:
    """Bounds what all callers of one event loop hold at once.

    A caller that wants more than the whole budget gets it alone. First come, first served, so a
    large one is not starved by small ones. Giving back never waits, so no cancellation loses bytes.
    """

    def __init__(self, bytes_max: int) -> None:
        self._free = self._max = bytes_max
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def hold(self, count: int) -> AsyncIterator[Held]:
        """Hold `count` bytes from entry to exit."""
        wanted = min(count, self._max)
        if self._waiting or self._free < wanted:
            await self._wait(wanted)
        else:
            self._free -= wanted
        held = Held(self, wanted)
        try:
            yield held
        finally:
            held.keep(0)

    async def _wait(self, wanted: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((wanted, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back(wanted)  # it was granted in the very moment of the cancellation
            elif (wanted, turn) in self._waiting:
                self._waiting.remove((wanted, turn))
                self._grant()
            raise

    def give_back(self, count: int) -> None:
        """For `Held`: these bytes are free again."""
        self._free += count
        self._grant()

    def _grant(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            wanted, turn = self._waiting.popleft()
            self._free -= wanted
            if turn.done():  # cancelled, and not yet woken to leave the queue
                self._free += wanted
            else:
                turn.set_result(None)
