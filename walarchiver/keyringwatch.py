"""KeyringWatch: a running archiver learns of changes of the keyring, and goes on or refuses by them.

Rules (docs/format.md, "Keyrings and epochs"):
- The keyrings are read again every hour, and at once (but not more often than every 15 s) after this
  host was told that it is no writer: whoever was added again archives on without a restart. A lost
  race for the ledger reads them by itself (ledger.py).
- A newer keyring in which this host is a writer is recorded in the chain, should whoever made it have
  been interrupted.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from concurrent.futures import Executor

from walarchiver.errors import WalarchiverError
from walarchiver.format.keyring import Role
from walarchiver.keyringchange import recording
from walarchiver.ledgerqueue import LedgerQueue
from walarchiver.log import get_log
from walarchiver.repository import Repository

log = get_log("keyring")

REREAD_S = 3600.0
PAUSE_S = 15.0


class KeyringWatch:
    """Watches the repositories of one cluster. Lives in the server's event loop."""

    def __init__(self, executor: Executor, *, pause_s: float = PAUSE_S) -> None:
        self._executor = executor
        self._pause_s = pause_s
        self._doubt = asyncio.Event()

    def doubted(self) -> None:
        """This host was refused as no writer: look again soon."""
        self._doubt.set()

    async def run(self, lanes: Sequence[tuple[Repository, LedgerQueue, str]]) -> None:
        """Look again and again, until cancelled; a lane names its writer's key id."""
        while True:
            self._doubt.clear()
            for repository, queue, writer in lanes:
                await self.look(repository, queue, writer)
            await asyncio.sleep(self._pause_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REREAD_S):
                    await self._doubt.wait()

    async def look(self, repository: Repository, queue: LedgerQueue, writer: str) -> None:
        """Read the keyrings of one repository again, and record a newer one."""
        before = repository.newest_keyring.n
        try:
            await asyncio.get_running_loop().run_in_executor(self._executor, repository.refresh)
            newest = repository.newest_keyring
            member = newest.has_role(Role.WRITER, writer, queue.ledger.system)
            if newest.n != before:
                log.info("keyring changed", system=queue.ledger.system, n=newest.n, writer=member)
            if member:
                await queue.submit(recording(repository))
            else:
                log.error("this host is no writer", system=queue.ledger.system, n=newest.n, key=writer)
        except WalarchiverError as error:
            log.warning("keyring not read again", code=error.code, reason=error.message)
