"""Upkeep: what a ledger needs besides its entries, in the background: roll-ups and checkpoints.

Rules:
- Nobody waits for it. What fails is reported as an alarm and tried again later; the other part goes on.
- Checkpoints go through the queue like every other fact.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor

from walarchiver.checkpoints import Checkpointer, Kept
from walarchiver.errors import ShuttingDown, WalarchiverError
from walarchiver.ledgerqueue import LedgerQueue
from walarchiver.log import get_log
from walarchiver.rollups import RollupWriter

log = get_log("ledger")

INTERVAL_S = 60.0
PAUSE_LONGEST_S = 3600.0


class Upkeep:
    """Keeps one ledger in order. Lives in the server's event loop."""

    def __init__(
        self,
        queue: LedgerQueue,
        checkpointer: Checkpointer,
        executor: Executor,
        *,
        alarm: Callable[[WalarchiverError], None] = lambda _error: None,
    ) -> None:
        """`alarm` is told every failure."""
        self._queue = queue
        self._checkpointer = checkpointer
        self._executor = executor
        self._alarm = alarm
        self._stopping = threading.Event()
        self._rollups = RollupWriter(queue.ledger, stopping=self._stopping.is_set)

    @property
    def kept(self) -> Kept | None:
        """What is known of the second place; None when none is configured."""
        return self._checkpointer.kept

    def stop(self) -> None:
        """Begin nothing new, and let a roll-up that is being gathered go."""
        self._stopping.set()

    async def run(self) -> None:
        """Look again and again, until cancelled: each part on its own, so that none waits for another."""
        async with asyncio.TaskGroup() as parts:
            parts.create_task(self._repeat(self.roll_up))
            parts.create_task(self._repeat(self.checkpoint))
            parts.create_task(self._repeat(self.keep))

    async def _repeat(self, part: Callable[[], Awaitable[bool]]) -> None:
        """After a failure the pauses grow, up to an hour."""
        pause_s = INTERVAL_S
        while not self._stopping.is_set():
            pause_s = INTERVAL_S if await part() else min(2 * pause_s, PAUSE_LONGEST_S)
            await asyncio.sleep(pause_s)

    async def roll_up(self) -> bool:
        """Write the roll-ups that are missing; False when one failed."""
        return await self._tried("roll-up not written", self._rollups.write_missing)

    async def keep(self) -> bool:
        """Keep a checkpoint in the second place, when it is time; False when that failed."""
        return await self._tried("checkpoint not kept elsewhere", self._checkpointer.keep)

    async def checkpoint(self) -> bool:
        """Record a checkpoint in the chain, when it is time; False when that failed."""
        loop = asyncio.get_running_loop()
        try:
            proposal = await loop.run_in_executor(self._executor, self._checkpointer.proposal)
            if proposal is not None:
                await self._queue.submit(proposal)
        except WalarchiverError as error:
            self._report("checkpoint not recorded", error)
            return False
        return True

    async def _tried(self, failed: str, work: Callable[[], object]) -> bool:
        try:
            await asyncio.get_running_loop().run_in_executor(self._executor, work)
        except WalarchiverError as error:
            self._report(failed, error)
            return False
        return True

    def _report(self, failed: str, error: WalarchiverError) -> None:
        if not isinstance(error, ShuttingDown):
            log.error(failed, system=self._queue.ledger.system, code=error.code, reason=error.message)
            self._alarm(error)
