"""A budget of bytes held in memory: whoever wants to hold some waits until they are free."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class ByteBudget:
    """Bounds what all callers of one event loop hold at once.

    A caller that wants more than the whole budget gets it alone. First come, first served, so a
    large one is not starved by small ones.
    """

    def __init__(self, bytes_max: int) -> None:
        self._free = self._max = bytes_max
        self._turn = asyncio.Lock()
        self._freed = asyncio.Condition()

    @asynccontextmanager
    async def hold(self, count: int) -> AsyncIterator[None]:
        """Hold `count` bytes from entry to exit."""
        wanted = min(count, self._max)
        async with self._turn, self._freed:
            await self._freed.wait_for(lambda: self._free >= wanted)
            self._free -= wanted
        try:
            yield
        finally:
            async with self._freed:
                self._free += wanted
                self._freed.notify_all()
