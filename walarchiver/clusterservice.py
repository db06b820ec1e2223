"""What the server does for one cluster: archive, sample the horizon, follow its timelines, serve fetches.

Rules:
- Nothing is acknowledged before repository, keys and cluster identity are known; until then every
  push is refused with the reason, and opening is tried again with growing pauses.
- A push counts only when every repository of the cluster has it.
- What PostgreSQL has marked ready is archived ahead of its asking (`lookahead.py`); how hard it is compressed
  depends on whether archiving falls behind (`core/effort.py`).
- Paths come from outside: a file is read from, or placed into, the configured pg_wal only.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

from restore.fetcher import Fetcher
from walarchiver.archiver import Archived, Archiver, Seen
from walarchiver.assembly import Archive
from walarchiver.bucketwatch import BucketWatch
from walarchiver.core.effort import BacklogSample, Effort, Pace, next_pace
from walarchiver.core.segment import Segment, SegmentBytes, SegmentFile, WalFile
from walarchiver.errors import (
    ConfigError,
    DatabaseUnavailable,
    NotAWalFile,
    Transient,
    WalarchiverError,
    WriterRevoked,
    WrongCluster,
)
from walarchiver.format.records import HorizonRecord, Record
from walarchiver.format.seal import FAST, HURRIED
from walarchiver.horizon import HorizonSamples, Sample
from walarchiver.keyringwatch import KeyringWatch
from walarchiver.ledger import fact
from walarchiver.ledgerorder import Place
from walarchiver.ledgerqueue import LedgerQueue
from walarchiver.log import get_log
from walarchiver.lookahead import Lookahead
from walarchiver.ports import Clock
from walarchiver.postgres.control import read_data_directory
from walarchiver.postgres.probe import HorizonSampler, written_position
from walarchiver.settings import ClusterSettings
from walarchiver.takeover import Takeover
from walarchiver.upkeep import Upkeep

log = get_log("cluster")

SAMPLE_INTERVAL_S = 1.0
RETRY_FIRST_S = 0.5
RETRY_LONGEST_S = 15.0
TAKEOVER_RETRY_S = 5.0


@dataclass(slots=True)
class Lane:
    """One repository of the cluster, ready to archive into."""

    repository: str
    archive: Archive
    archiver: Archiver
    queue: LedgerQueue
    samples: HorizonSamples
    fetcher: Fetcher | None
    upkeep: Upkeep
    writer: str
    """Id of this host's signing key."""


class ClusterService:
    """Serves one configured cluster. Lives in the server's event loop."""

    def __init__(
        self,
        name: str,
        settings: ClusterSettings,
        *,
        open_lanes: Callable[[], Sequence[Lane]],
        executor: Executor,
        clock: Clock,
        workers: int = 2,
        watch: BucketWatch | None = None,
    ) -> None:
        """`open_lanes` blocks, reaches out to stores and database, and raises while it cannot.

        `watch`: of the cluster's bucket, if it has one.
        """
        self.name = name
        self._settings = settings
        self._open_lanes = open_lanes
        self._executor = executor
        self._clock = clock
        self._watch = watch
        self._lanes: Sequence[Lane] = ()
        self._why_not: WalarchiverError = Transient(f"cluster {name} is still being opened")
        self._tried = asyncio.Event()
        self._taken_over: int | None = None
        self._takeover_again_s = 0.0
        self._keyrings = KeyringWatch(executor)
        self._workers = workers
        self._pace = Pace()
        self._folder: Path | None = None
        """The pg_wal that PostgreSQL asked for a file in, as it spelt it."""
        self._ahead = Lookahead(
            self._archive_ahead,
            marks=(settings.data_directory or Path()) / "pg_wal" / "archive_status",
            executor=executor,
            clock=clock,
            workers=workers,
        )

    @property
    def data_directory(self) -> Path | None:
        return self._settings.data_directory

    @property
    def ready(self) -> bool:
        return bool(self._lanes)

    async def tried(self) -> None:
        """Wait for the outcome of the first try to open it: a server just started refuses nobody for that."""
        await self._tried.wait()

    @property
    def lanes(self) -> Sequence[Lane]:
        """The open repositories. Raises what keeps them from being open."""
        if not self._lanes:
            raise self._why_not
        return self._lanes

    # --- running -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Open everything, then serve the ledger queues and sample the horizon, until cancelled."""
        await self._open()
        async with asyncio.TaskGroup() as tasks:
            for lane in self._lanes:
                tasks.create_task(lane.queue.run(), name=f"ledger {self.name}/{lane.repository}")
                tasks.create_task(lane.upkeep.run(), name=f"upkeep {self.name}/{lane.repository}")
            watched = [(lane.archive.repository, lane.queue, lane.writer) for lane in self._lanes]
            tasks.create_task(self._keyrings.run(watched), name=f"keyrings {self.name}")
            tasks.create_task(self._archive_histories(), name=f"histories {self.name}")
            if self._settings.dsn is not None:
                tasks.create_task(self._sample(self._settings.dsn), name=f"horizon {self.name}")
            if self._watch is not None:
                queues = [lane.queue for lane in self._lanes]
                watching = self._watch.run(queues, system=self._lanes[0].archiver.cluster.system)
                tasks.create_task(watching, name=f"bucket {self.name}")

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        pause_s = RETRY_FIRST_S
        while True:
            try:
                self._lanes = await loop.run_in_executor(self._executor, self._open_lanes)
            except WalarchiverError as error:
                self._why_not = error
                self._tried.set()
                log.warning("cluster not ready", cluster=self.name, code=error.code, reason=error.message)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, RETRY_LONGEST_S)
            else:
                self._tried.set()
                log.info("cluster ready", cluster=self.name)
                return

    async def drain(self) -> None:
        """Let what is under way end, and its ledger entries with it."""
        self._ahead.stop()
        for lane in self._lanes:
            lane.upkeep.stop()
        await self._ahead.drain()
        for lane in self._lanes:
            await lane.archiver.drain()
            lane.queue.close()

    # --- archiving -----------------------------------------------------------------------------

    async def push(self, path: Path) -> list[Archived]:
        """Archive one file of pg_wal into every repository; raises the first refusal."""
        folder = self._settings.data_directory
        if folder is None:
            raise ConfigError(f"cluster {self.name} has no `data_directory`, so it cannot archive")
        loop = asyncio.get_running_loop()
        seen = await loop.run_in_executor(self._executor, self._seen, folder / "pg_wal", path, True)
        self._folder = path.parent
        with self._ahead.asked(path.name, self.lanes[0].archiver.cluster.segment_size) as ask:
            return ask.told(await self._archived(path, seen))

    def _archive_ahead(self, name: str, behind: frozenset[str]) -> Awaitable[Sequence[Archived]]:
        """The same for a file that PostgreSQL will ask for, in the folder that it asks for files in."""
        return self._archived_ahead(name, [lane.archiver.expect(name, behind) for lane in self.lanes])

    async def _archived_ahead(self, name: str, places: Sequence[Place]) -> list[Archived]:
        assert self._settings.data_directory is not None
        assert self._folder is not None
        loop = asyncio.get_running_loop()
        pg_wal, path = self._settings.data_directory / "pg_wal", self._folder / name
        try:
            seen = await loop.run_in_executor(self._executor, self._seen, pg_wal, path, False)
            return await self._archived(path, seen, places)
        finally:
            for lane, place in zip(self.lanes, places, strict=True):
                lane.archiver.let_go(place)

    def _seen(self, pg_wal: Path, path: Path, asked: bool) -> list[Seen]:
        """For each repository, all that has to be known of a file before any of it is read. Blocks."""
        _inside(pg_wal, path)
        return [lane.archiver.look(path.name, path, asked=asked) for lane in self.lanes]

    async def _archived(
        self, path: Path, seen: Sequence[Seen], places: Sequence[Place] | None = None
    ) -> list[Archived]:
        archiving = (
            lane.archiver.archive(path.name, path, place=place, seen=look)
            for lane, look, place in zip(self.lanes, seen, places or repeat(None), strict=False)
        )
        results = await asyncio.gather(*archiving, return_exceptions=True)
        done = []
        for result in results:
            if isinstance(result, WriterRevoked):
                self._keyrings.doubted()
            if isinstance(result, BaseException):
                raise result
            done.append(result)
        return done

    @property
    def ahead(self) -> int:
        """Files under way that PostgreSQL has not asked for yet."""
        return self._ahead.under_way

    @property
    def effort(self) -> Effort:
        return self._pace.effort

    def note_backlog(self, waiting: int) -> None:
        """So many files wait: decide how hard they are compressed."""
        sealing_s = sum(lane.archiver.sealing_s for lane in self._lanes)
        before = self._pace.effort
        sample = BacklogSample(self._clock.monotonic_s(), waiting, sealing_s)
        self._pace = next_pace(self._pace, sample, workers=self._workers)
        if self._pace.effort is not before:
            log.warning("compression", cluster=self.name, effort=self._pace.effort.value, waiting=waiting)
            for lane in self._lanes:
                lane.archiver.compress_with(HURRIED if self._pace.effort is Effort.HURRIED else FAST)

    # --- horizon -------------------------------------------------------------------------------

    async def _sample(self, dsn: str) -> None:
        """Sample insert position and clock; append a sample alone when the server is idle."""
        loop = asyncio.get_running_loop()
        sampler = HorizonSampler(dsn, system=self.lanes[0].archiver.cluster.system)
        failed = False
        while True:
            try:
                position = await loop.run_in_executor(self._executor, sampler.sample)
            except (DatabaseUnavailable, WrongCluster) as error:
                if not failed:
                    log.warning("horizon not sampled", cluster=self.name, reason=error.message)
                failed = True
            else:
                failed = False
                for lane in self._lanes:
                    if position is not None:
                        lane.samples.add(Sample(position.time, position.lsn, position.timeline))
                if position is not None:
                    await self._take_over(dsn, position.timeline)
                await self.prove_idle(at_once=False)
            await asyncio.sleep(SAMPLE_INTERVAL_S)

    async def prove_idle(self, *, at_once: bool) -> None:
        """Append the newest covered sample alone, when it is time or somebody asks."""
        now_s = self._clock.monotonic_s()
        for lane in self._lanes:
            if not at_once and not lane.samples.due(now_s):
                continue
            try:
                record = await asyncio.get_running_loop().run_in_executor(
                    self._executor, covered_sample, lane.samples, lane.archiver
                )
                if record is None:
                    continue
                await lane.queue.submit(fact("horizon", record))
            except WalarchiverError as error:
                log.warning("horizon not recorded", cluster=self.name, reason=error.message)
            else:
                lane.samples.recorded(record, now_s, alone=True)

    # --- timelines -----------------------------------------------------------------------------

    def _takeovers(self) -> list[Takeover]:
        folder = self._settings.data_directory
        return [
            Takeover(archiver=lane.archiver, queue=lane.queue, data_directory=folder, executor=self._executor)
            for lane in self._lanes
            if folder is not None
        ]

    async def _archive_histories(self) -> None:
        """What the data directory alone tells: the server may not be up yet, or have no `dsn` here."""
        try:
            for takeover in self._takeovers():
                here = await asyncio.to_thread(read_data_directory, takeover.data_directory)
                await takeover.archive_histories(here.timeline)
        except WalarchiverError as error:
            log.error("histories not archived", cluster=self.name, code=error.code, reason=error.message)

    async def _take_over(self, dsn: str, timeline: int) -> None:
        """Bring in the beginning of a timeline that the server was not archiving from its start."""
        if timeline == self._taken_over or self._clock.monotonic_s() < self._takeover_again_s:
            return
        self._takeover_again_s = self._clock.monotonic_s() + TAKEOVER_RETRY_S
        try:
            for takeover in self._takeovers():
                await takeover.archive_histories(timeline)
            position = await asyncio.get_running_loop().run_in_executor(self._executor, written_position, dsn)
            if position is None or position.timeline != timeline or not position.archiving:
                return  # not accepted as production yet
            for takeover in self._takeovers():
                await takeover.close_gap(position)
        except WalarchiverError as error:
            log.error("timeline not taken over", cluster=self.name, code=error.code, reason=error.message)
        else:
            self._taken_over = timeline

    # --- fetching ------------------------------------------------------------------------------

    async def fetch(self, name: str, path: Path) -> int:
        """Serve a standby's or an ordinary restore_command from the first repository that can."""
        folder = self._settings.data_directory
        if folder is None:
            raise ConfigError(f"cluster {self.name} has no `data_directory`, so it cannot be served")
        fetcher = self.lanes[0].fetcher
        if fetcher is None:
            raise ConfigError(f"cluster {self.name} is configured without a dsn or key to read with")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, _fetched, fetcher, name, folder / "pg_wal", path)


def _fetched(fetcher: Fetcher, name: str, pg_wal: Path, path: Path) -> int:
    return fetcher.fetch(name, _inside(pg_wal, path))


def covered_sample(samples: HorizonSamples, archiver: Archiver) -> HorizonRecord | None:
    """The newest sample that the archive covers and the ledger does not have yet."""
    size, catalog = archiver.cluster.segment_size, archiver.catalog
    found = []
    for timeline in catalog.timelines():  # another host may be archiving a timeline of its own
        last = catalog.last_segment(timeline)
        if last is not None:
            found.append(samples.newest_covered(timeline, Segment(timeline, last).end(size)))
    return max((record for record in found if record is not None), key=lambda one: one.time, default=None)


def riding_samples(samples: HorizonSamples, size: SegmentBytes) -> Callable[[WalFile], tuple[Record, ...]]:
    """What rides along with a file's own record: the newest sample that it covers."""

    def companions(file: WalFile) -> tuple[Record, ...]:
        if not isinstance(file, SegmentFile):
            return ()
        record = samples.newest_covered(file.segment.timeline, file.segment.end(size))
        return () if record is None else (record,)

    return companions


def rode_along(samples: HorizonSamples, clock: Clock) -> Callable[[Sequence[Record]], None]:
    """Remembers the samples that came into the ledger with a file."""

    def accompanied(records: Sequence[Record]) -> None:
        for record in records:
            if isinstance(record, HorizonRecord):
                samples.recorded(record, clock.monotonic_s(), alone=False)

    return accompanied


def _inside(folder: Path, path: Path) -> Path:
    """`path`, proven to lie directly in `folder`, however either is spelt.

    Raises NotAWalFile.
    """
    if not path.is_absolute() or path.name in ("", ".", ".."):
        raise NotAWalFile(f"{path} is not an absolute path of a file")
    try:
        inside = os.path.samestat(path.parent.stat(), folder.stat())
        linked = path.is_symlink()
    except OSError as error:
        raise NotAWalFile(f"{path} cannot be resolved: {error.strerror}") from error
    if not inside or linked:
        raise NotAWalFile(f"{path} does not lie directly in {folder}")
    return path
