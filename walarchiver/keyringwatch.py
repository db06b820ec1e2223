"""KeyringWatch: a running archiver learns of changes of the keyring, and goes on or refuses by them.

Rules (docs/format.md, "Keyrings and epochs"):
- The keyrings are read again every hour; at once when a push was refused since this host is no writer,
  and every 5 s for as long as it is none: whoever is added again archives on without a restart. A
  lost race for the ledger reads them by itself (ledger.py).
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
PAUSE_S = 5.0


class KeyringWatch:
    """Watches the repositories of one cluster. Lives in the server's event loop."""

    def __init__(self, executor: Executor, *, pause_s: float = PAUSE_S) -> None:
        self._executor = executor
        self._pause_s = pause_s
        self._doubt = asyncio.Event()
        self._told: dict[str, tuple[int, bool]] = {}
        """By repository: the newest keyring and whether this host is a writer in it, as logged last."""

    def doubted(self) -> None:
        """This host was refused as no writer: look again soon."""
        self._doubt.set()

    async def run(self, lanes: Sequence[tuple[Repository, LedgerQueue, str]]) -> None:
        """Look again and again, until cancelled; a lane names its writer's key id."""
        while True:
            self._doubt.clear()
            fine = [await self.look(repository, queue, writer) for repository, queue, writer in lanes]
            await asyncio.sleep(self._pause_s)
            if all(fine):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(REREAD_S):
                        await self._doubt.wait()

    async def look(self, repository: Repository, queue: LedgerQueue, writer: str) -> bool:
        """Read the keyrings of one repository again, and record a newer one; whether this host may write."""
        system = queue.ledger.system
        try:
            await asyncio.get_running_loop().run_in_executor(self._executor, repository.refresh)
            newest = repository.newest_keyring
            member = newest.has_role(Role.WRITER, writer, system)
            if (newest.n, member) != self._told.get(repository.repo):
                say = log.info if member else log.error
                say("keyring read", system=system, n=newest.n, key=writer, writer=member)
                self._told[repository.repo] = (newest.n, member)
            if member:
                await queue.submit(recording(repository))
        except WalarchiverError as error:
            log.warning("keyring not read again", system=system, code=error.code, reason=error.message)
            return True  # as before; the hourly look, or the next push, will tell
        return member
