"""What the daemon does for the application's bucket: tie points, and complete listings again and again.

Rules:
- A listing runs in a process of its own (`walarchiver bucket scan`): it may take an hour and all of a core,
  and no WAL file waits for it. Its index is shipped into the repository by the same command.
- A tie point is taken every half minute and recorded every ten minutes: the difference of two clocks changes
  slowly. What is certainly wrong with the clocks is an alarm at once.
- Nothing here ever keeps WAL from being archived: failures are alarms, and tried again with growing pauses.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from walarchiver.bucketports import EvidenceBucket
from walarchiver.core.moment import StoreTime
from walarchiver.core.skew import Skew, Tie
from walarchiver.errors import BucketScanFailed, ClocksApart, Locked, WalarchiverError
from walarchiver.format.records import TieRecord
from walarchiver.ledger import fact
from walarchiver.ledgerqueue import LedgerQueue
from walarchiver.log import get_log
from walarchiver.ports import Clock
from walarchiver.postgres.probe import HorizonSampler

log = get_log("bucket")

TIE_INTERVAL_S = 30.0
TIE_RECORDED_S = 600.0
RETRY_FIRST_S = 30.0
DEGRADED = 3
"""Exit status of a scan that came to its end, with something that a person should look at."""
RETRY_LONGEST_S = 3600.0
ENDING_S = 5.0
TAIL_BYTES = 4096
NOT_STARTED = 1


def take_tie(sampler: HorizonSampler, bucket: EvidenceBucket) -> TieRecord | None:
    """One tie point; None while the server is in recovery. Raises DatabaseUnavailable, Store…"""
    before = sampler.sample()
    if before is None:
        return None
    date = bucket.date()
    after = sampler.sample()
    if after is None or after.timeline != before.timeline:
        return None
    return TieRecord(
        bucket=bucket.name,
        timeline=before.timeline,
        before=before.time,
        before_lsn=before.lsn,
        after=after.time,
        after_lsn=after.lsn,
        date=StoreTime(date * 1000),
    )


@dataclass(frozen=True, slots=True)
class Watched:
    """One cluster's bucket."""

    cluster: str
    dsn: str | None
    open_bucket: Callable[[], EvidenceBucket]
    scan_command: Sequence[str]
    scan_interval_s: float
    """0: never."""


class BucketWatch:
    """Watches one bucket. Lives in the server's event loop."""

    def __init__(
        self,
        watched: Watched,
        *,
        executor: Executor,
        clock: Clock,
        alarm: Callable[[WalarchiverError], None] = lambda _error: None,
    ) -> None:
        """`alarm` is told what a person should look at."""
        self._watched = watched
        self._executor = executor
        self._clock = clock
        self._alarm = alarm
        self._recorded_s: float | None = None
        self.skew: Skew | None = None
        """By the newest tie point."""

    async def run(self, queues: Sequence[LedgerQueue], *, system: int) -> None:
        """Until cancelled. `queues`: of the repositories that get the tie points."""
        async with asyncio.TaskGroup() as tasks:
            if self._watched.dsn is not None:
                tasks.create_task(self._ties(self._watched.dsn, queues, system), name="ties")
            if self._watched.scan_interval_s > 0:
                tasks.create_task(self._scans(), name="bucket scans")

    # --- tie points ------------------------------------------------------------------------------

    async def _ties(self, dsn: str, queues: Sequence[LedgerQueue], system: int) -> None:
        loop = asyncio.get_running_loop()
        sampler = HorizonSampler(dsn, system=system)
        bucket: EvidenceBucket | None = None
        failed = False
        try:
            while True:
                try:
                    if bucket is None:
                        bucket = await loop.run_in_executor(self._executor, self._watched.open_bucket)
                    tie = await loop.run_in_executor(self._executor, take_tie, sampler, bucket)
                    if tie is not None:
                        await self._take(tie, queues)
                    failed = False
                except WalarchiverError as error:
                    if not failed:
                        log.warning(
                            "no tie point",
                            cluster=self._watched.cluster,
                            code=error.code,
                            reason=error.message,
                        )
                    failed = True
                await asyncio.sleep(TIE_INTERVAL_S)
        finally:
            if bucket is not None:
                bucket.close()

    async def _take(self, tie: TieRecord, queues: Sequence[LedgerQueue]) -> None:
        skew = Tie(tie.before, tie.after, tie.date).skew
        alarming = skew.alarming and not (self.skew is not None and self.skew.alarming)
        self.skew = skew
        if alarming:
            error = ClocksApart(
                f"the clock of the bucket's store is {skew.certain / 1e6:+.1f} s from the database server's"
            )
            log.error("clocks apart", cluster=self._watched.cluster, code=error.code, reason=error.message)
            self._alarm(error)
        now_s = self._clock.monotonic_s()
        due = self._recorded_s is None or now_s - self._recorded_s >= TIE_RECORDED_S
        if due or alarming:
            for queue in queues:
                await queue.submit(fact("tie", tie))
            self._recorded_s = now_s

    # --- listings --------------------------------------------------------------------------------

    async def _scans(self) -> None:
        pause_s = RETRY_FIRST_S
        while True:
            status, said = await self._scan()
            if status in (0, Locked.exit_status):  # or somebody else is listing it just now
                pause_s = RETRY_FIRST_S
                await asyncio.sleep(self._watched.scan_interval_s)
                continue
            failure = BucketScanFailed(
                f"`bucket scan` ended with status {status}: {said or 'it said nothing'}"
            )
            log.error(
                "bucket not listed", cluster=self._watched.cluster, code=failure.code, reason=failure.message
            )
            self._alarm(failure)
            if status == DEGRADED:  # it was listed; what is wrong does not get better by listing it again
                await asyncio.sleep(self._watched.scan_interval_s)
                continue
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_LONGEST_S)

    async def _scan(self) -> tuple[int, str]:
        """Run the listing to its end; its exit status, and the last that it said."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self._watched.scan_command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as failure:  # no memory, no process, no file left: nothing that WAL should wait for
            return NOT_STARTED, f"it could not be started: {failure.strerror}"
        assert process.stderr is not None
        tail = b""
        try:
            while piece := await process.stderr.read(TAIL_BYTES):
                tail = (tail + piece)[-TAIL_BYTES:]
            status = await process.wait()
        except BaseException:
            await _end(process)
            raise
        lines = tail.decode("utf-8", "replace").strip().splitlines()
        return status, lines[-1].strip() if lines else ""


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a child that is not wanted any more; a scan goes on next time where it was."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(ENDING_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
