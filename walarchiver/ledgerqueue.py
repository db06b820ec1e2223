"""LedgerQueue: group commit for asyncio; proposals wait here while an append is in flight.

Rules (docs/format.md, "Appending"):
- One append is in flight; what arrives meanwhile goes into the next entry together. Nothing lingers:
  an append begins at once when none is in flight.
- Everyone who waits gets an answer, however the queue ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor

from walarchiver.errors import LedgerContended, ShuttingDown, WalarchiverError
from walarchiver.format.entry import RECORDS_MAX
from walarchiver.ledger import Ledger, Proposal


class LedgerQueue:
    """Hands waiting proposals to the ledger. Lives in one event loop."""

    def __init__(self, ledger: Ledger, executor: Executor, *, waiting_max: int = 4096) -> None:
        self.ledger = ledger
        self.batch = 0
        """How often proposals were handed to the ledger; it asks them in the order of `submit`."""
        self._executor = executor
        self._waiting: list[tuple[Proposal, asyncio.Future[None]]] = []
        self._taken: list[tuple[Proposal, asyncio.Future[None]]] = []
        self._waiting_max = waiting_max
        self._wake = asyncio.Event()
        self._closed = False

    async def submit(self, proposal: Proposal) -> None:
        """Return once the proposal's facts are durable in the ledger.

        Raises its refusal, or what stopped the append.
        """
        if self._closed:
            raise ShuttingDown("the ledger takes no new entries: the server is stopping")
        if len(self._waiting) >= self._waiting_max:
            raise LedgerContended(f"{len(self._waiting)} facts wait for the ledger already")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((proposal, future))
        self._wake.set()
        await future

    async def run(self) -> None:
        """Serve until cancelled or closed and empty. However it ends, nobody is left waiting."""
        try:
            while not (self._closed and not self._waiting):
                if not self._waiting:
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                await self._serve_next()
        finally:
            self._closed = True
            for _, future in (*self._taken, *self._waiting):
                if not future.done():
                    future.set_exception(ShuttingDown("the ledger stopped before this was recorded"))
            self._taken, self._waiting = [], []

    async def _serve_next(self) -> None:
        """Commit what waits, as much as one entry takes."""
        self._taken, self._waiting = self._waiting[:RECORDS_MAX], self._waiting[RECORDS_MAX:]
        self.batch += 1
        proposals = [proposal for proposal, _ in self._taken]
        outcomes: Sequence[WalarchiverError | None]
        try:
            outcomes = await asyncio.get_running_loop().run_in_executor(
                self._executor, self.ledger.commit, proposals
            )
        except WalarchiverError as error:
            outcomes = [error] * len(proposals)
        for (_, future), outcome in zip(self._taken, outcomes, strict=True):
            if future.done():
                continue
            if outcome is None:
                future.set_result(None)
            else:
                future.set_exception(outcome)
        self._taken = []

    def close(self) -> None:
        """Take nothing new; `run` returns once what waits is done."""
        self._closed = True
        self._wake.set()
