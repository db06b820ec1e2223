"""Archiver: makes one WAL file durable, and answers only then.

Rules:
- Acknowledged means: its objects and its ledger entry are durable. Nothing is remembered as done
  from anywhere but the verified ledger.
- The same bytes again succeed without writing; other bytes under a recorded name are refused and
  alarmed; nothing is ever overwritten.
- Every file is checked against the cluster before a byte is stored (`offered.py`).
- A segment's scan goes into the ledger with the segment; one that cannot be made holds nothing up.
- Two calls for one name share one piece of work only if they name the same, unchanged file;
  PostgreSQL does repeat a call after a crash while the first one still runs.
- A caller that goes away stops nothing: the work ends, and whoever asks again finds its result.
- What is archived ahead of PostgreSQL's asking is recorded in PostgreSQL's order (`ledgerorder.py`).
- Memory: a bounded number of parts (at most 64 MiB plain each), whatever the segment size. A part's plain
  bytes are given back as soon as they are sealed and scanned, not only when they are stored.
- What this process archived itself, and what is unchanged since, is not read again to be compared
  (`archivedmemory.py`, ADR 0019).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from walarchiver.archivedmemory import ArchivedMemory
from walarchiver.budget import ByteBudget, Held
from walarchiver.buffers import Buffers
from walarchiver.catalog import Catalog, FileRecord
from walarchiver.conflict import refuse_other_content
from walarchiver.core.segment import SegmentFile, WalFile, parse_wal_file
from walarchiver.depositor import Deposit, Depositor
from walarchiver.errors import EpochOutdated, Transient
from walarchiver.format.records import Record, StoredObject
from walarchiver.format.scans import ScanRecord
from walarchiver.format.seal import ZstdParams
from walarchiver.ledger import Proposal
from walarchiver.ledgerorder import LedgerOrder, Place
from walarchiver.ledgerqueue import LedgerQueue
from walarchiver.offered import ClusterFacts, Offered, Stamp, Unchanged, open_offered, stamp_of
from walarchiver.scanner import Scanned, Scans
from walarchiver.walpart import Part

PART_BYTES = 64 << 20
"""Plain bytes per object; docs/format.md."""
SEALINGS_MAX = 4
"""A file is sealed anew when the keyring changed meanwhile, this often at most."""


@dataclass(frozen=True, slots=True)
class Archived:
    """What became of a file: `fresh` is False when it was recorded already."""

    name: str
    bytes: int
    fresh: bool


@dataclass(frozen=True, slots=True)
class Deposited:
    """A file that is stored and not recorded yet."""

    record: FileRecord
    epochs: frozenset[str]
    scans: tuple[ScanRecord, ...]
    """Of the file itself and, if that one had to wait for it, of the segment before."""
    stamp: Stamp | None
    """The file's before and after it was read; None where they differ."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look told of a file that PostgreSQL asks for."""

    stamp: Stamp
    recorded: FileRecord | None = None
    """None also when the ledger was not asked."""


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


class Archiver:
    """Archives the WAL files of one cluster into one repository."""

    def __init__(
        self,
        *,
        cluster: ClusterFacts,
        depositor: Depositor,
        queue: LedgerQueue,
        cpu: Executor,
        io: Executor,
        budget: ByteBudget,
        sending: Executor | None = None,
        parts_max: int = 16,
        buffers: Buffers | None = None,
        memory: ArchivedMemory | None = None,
        scanner: Scans | None = None,
        companions: Callable[[WalFile], tuple[Record, ...]] = lambda _file: (),
        accompanied: Callable[[Sequence[Record]], None] = lambda _records: None,
        observe: Callable[[str], None] = lambda _step: None,
    ) -> None:
        """`sending`: threads that send bodies, where these are others than `io`. `parts_max`: so many parts
        are sealed or sent at once, whatever the budget allows. `memory`: of what was archived; without it
        every file is read again. `companions` gives records that ride along with a file's own (horizon
        samples), and may be asked again after a lost race; `accompanied` hears which of them are durable.
        `observe` is told each step, for tests that stop there."""
        self.cluster = cluster
        self._depositor = depositor
        self._queue = queue
        self._cpu = cpu
        self._io = io
        self._companions = companions
        self._accompanied = accompanied
        self._observe = observe
        self._budget = budget
        self._scanner = scanner
        self._sending = sending or io
        self._parts = asyncio.Semaphore(parts_max)
        self._buffers = buffers or Buffers(1)
        self._memory = memory
        self._running: dict[tuple[str, Path, Unchanged], tuple[asyncio.Task[Archived], Place]] = {}
        self._order = LedgerOrder(lambda: queue.batch)

    @property
    def catalog(self) -> Catalog:
        return self._queue.ledger.catalog

    def look(self, name: str, path: Path, *, asked: bool) -> Seen:
        """What lies there, and, for what PostgreSQL asks for, whether it is recorded already. Blocks.

        Raises NotAWalFile, FileMissing, FileForbidden, CorruptSegment, NotARegularFile.
        """
        parse_wal_file(name, self.cluster.segment_size)
        stamp = stamp_of(path)
        under_way = (name, path, stamp.unchanged) in self._running
        return Seen(stamp, self.catalog.file(name) if asked and not under_way else None)

    def expect(self, name: str, behind: frozenset[str]) -> Place:
        """PostgreSQL is going to ask for this file, and none of `behind` must be recorded later than it.

        Call `archive` with the place, and `let_go` of it whatever became of that."""
        return self._order.enter(name, behind)

    def let_go(self, place: Place) -> None:
        self._order.go(place)

    async def archive(
        self, name: str, path: Path, *, place: Place | None = None, seen: Seen | None = None
    ) -> Archived:
        """Return only when the file would outlive this host.

        With a `place` nobody has asked for the file yet. `seen`: what `look` has just told.

        Raises NotAWalFile, FileMissing, CorruptSegment, WrongCluster, SegmentConflict: refused, nothing
        recorded; SegmentChanged, StoreUnavailable, LedgerContended: not acknowledged, ask again.
        """
        file = parse_wal_file(name, self.cluster.segment_size)
        while True:
            here = place or self._order.enter(name, frozenset())
            try:
                if seen is None:
                    look = partial(self.look, name, path, asked=place is None)
                    seen = await asyncio.get_running_loop().run_in_executor(self._io, look)
                task, running = self._begun((name, path, seen.stamp.unchanged), file, seen, here)
            except BaseException:
                self._order.go(here)
                raise
            seen = None
            if place is None:
                self._order.ask(running)
            try:
                return await asyncio.shield(task)
            except Transient:
                if place is not None or not running.passed_over:
                    raise  # else it was begun ahead, and what it was behind has failed

    def _begun(
        self, key: tuple[str, Path, Unchanged], file: WalFile, seen: Seen, place: Place
    ) -> tuple[asyncio.Task[Archived], Place]:
        """The work on this very file, under way or begun now, and its place."""
        if key in self._running:
            self._order.go(place)
            return self._running[key]
        name, path, _unchanged = key
        task = asyncio.create_task(self._archive(place, file, path, seen), name=f"archive {name}")
        self._running[key] = task, place

        def ended(done: asyncio.Task[Archived]) -> None:
            self._running.pop(key, None)
            self._order.go(place)
            if not done.cancelled():
                done.exception()  # looked at, also when every caller has gone away

        task.add_done_callback(ended)
        return task, place

    async def drain(self) -> None:
        """Wait for everything under way."""
        while self._running:
            await asyncio.gather(*(task for task, _place in self._running.values()), return_exceptions=True)

    def compress_with(self, params: ZstdParams) -> None:
        """From the next file on."""
        self._depositor.compress_with(params)

    @property
    def sealing_s(self) -> float:
        """Seconds that threads have spent on compressing and sealing WAL, together."""
        return self._depositor.sealing_s

    async def _archive(self, place: Place, file: WalFile, path: Path, seen: Seen) -> Archived:
        loop, name = asyncio.get_running_loop(), place.name
        self._observe("archive: start")
        read_us = self._memory.now_us() if self._memory else 0
        found: FileRecord | Offered | None = seen.recorded
        if found is None:
            found = await loop.run_in_executor(self._io, self._recorded_or_open, name, file, path)
        if not isinstance(found, Offered):
            known = self._memory and self._memory.digest(name, path, seen.stamp)
            if known is not None and (known, seen.stamp.size) == (found.digest, found.len):
                return Archived(name, seen.stamp.size, fresh=False)
            digest, length = await loop.run_in_executor(self._cpu, self.digest, file, path)
            refuse_other_content(name, found, digest, length, self.catalog)
            return Archived(name, length, fresh=False)
        left = SEALINGS_MAX
        while True:
            left -= 1
            try:
                return await self._archive_new(place, found, read_us)
            except EpochOutdated:
                if not left:
                    raise
                await loop.run_in_executor(self._io, self._depositor.reread_keyrings)
            read_us = self._memory.now_us() if self._memory else 0
            found = await loop.run_in_executor(self._io, open_offered, self.cluster, file, path)

    def _recorded_or_open(self, name: str, file: WalFile, path: Path) -> FileRecord | Offered:
        """The file's record; if there is none, the file to be read."""
        return self.catalog.file(name) or open_offered(self.cluster, file, path)

    async def _archive_new(self, place: Place, offered: Offered, read_us: int) -> Archived:
        name, file, path = place.name, offered.file, offered.path
        deposited = await self._deposited(name, offered)
        record = deposited.record
        self._observe("archive: deposited")
        riding: list[Record] = []
        recorded: FileRecord | None = None

        def decide(catalog: Catalog) -> tuple[Record, ...]:
            nonlocal recorded
            riding.clear()
            recorded = catalog.file(name)
            if recorded is not None:
                refuse_other_content(name, recorded, record.digest, record.len, catalog)
                return ()
            self._order.check(place, catalog)
            riding.extend(self._companions(file))
            epochs = self._depositor.epoch_records_of_today(catalog, deposited.epochs)
            self._order.decided(place)
            return (*epochs, record, *deposited.scans, *riding)

        await self._order.turn(place)
        await self._queue.submit(Proposal(name, decide))
        self._observe("archive: recorded")
        self._accompanied(riding)
        is_ours = recorded is None or recorded == record  # with no record before it, this one is in force now
        if self._memory and deposited.stamp is not None and is_ours:
            self._memory.remember(name, path, deposited.stamp, record.digest, read_us=read_us)
        return Archived(name, record.len, fresh=is_ours)

    async def deposit(self, name: str, file: WalFile, path: Path) -> Deposited:
        """Check, seal and store a file: its record and the keys it used, neither recorded yet."""
        loop = asyncio.get_running_loop()
        return await self._deposited(
            name, await loop.run_in_executor(self._io, open_offered, self.cluster, file, path)
        )

    async def _deposited(self, name: str, offered: Offered) -> Deposited:
        """The same for a file that was opened, and is closed whatever happens."""
        loop = asyncio.get_running_loop()
        try:
            objects: list[StoredObject] = []
            epochs: set[str] = set()
            scans: tuple[ScanRecord, ...] = ()
            while offered.left or not objects:
                if not self._depositor.is_prepared:  # a store that hangs must not keep a CPU thread waiting
                    await loop.run_in_executor(self._sending, self._depositor.prepare)
                async with self._parts, self._budget.hold(min(PART_BYTES, offered.left) * 2) as held:
                    part = Part(offered, min(PART_BYTES, offered.left), self._scanner_of(offered))
                    stored, epoch, scans = await self._part(name, part, held)
                    objects.append(stored)
                    epochs.add(epoch)
                    self._observe("archive: put")
        finally:
            offered.handle.close()
        stamp = offered.stamp if offered.steady else None
        return Deposited(offered.record(name, tuple(objects)), frozenset(epochs), scans, stamp)

    def _scanner_of(self, offered: Offered) -> Scans | None:
        """What walks the segment once the part that is read next has been read, which is then its last."""
        is_last = isinstance(offered.file, SegmentFile) and offered.left <= PART_BYTES
        return self._scanner if is_last else None

    async def _part(
        self, name: str, part: Part, held: Held
    ) -> tuple[StoredObject, str, tuple[ScanRecord, ...]]:
        """Seal a part and store it; meanwhile the same thread walks the segment, whose last record may go
        on in the file behind it, which PostgreSQL has had time to write by the time that it is stored."""
        loop = asyncio.get_running_loop()
        sealing: asyncio.Future[None] = loop.create_future()

        def work() -> tuple[list[ScanRecord | None], Scanned | None]:
            try:
                part.sealed = self._seal(name, part)
            except BaseException:
                part.give_back(self._buffers)
                raise
            with contextlib.suppress(RuntimeError):  # the loop may be gone
                loop.call_soon_threadsafe(_settle, sealing)
            return part.scanned(self._buffers)

        scanning = loop.run_in_executor(self._cpu, work)
        scanning.add_done_callback(lambda _done: sealing.cancel())  # no effect on one that is settled
        try:
            await sealing
        except asyncio.CancelledError:
            if scanning.done():
                await scanning  # raises why there is nothing
            raise
        assert part.sealed is not None
        body, epoch = len(part.sealed.body), part.sealed.epoch
        held.keep(body + part.raw)
        self._observe("archive: sealed")
        put = loop.run_in_executor(self._sending, part.put, self._depositor)
        found, scan = await scanning
        if not part.holds:
            held.keep(body)
        stored = await put
        if scan is not None and part.scanner is not None:
            found.append(await loop.run_in_executor(self._io, part.scanner.record, scan, part.offered))
        part.give_back(self._buffers)
        return stored, epoch, tuple(record for record in found if record is not None)

    def _seal(self, name: str, part: Part) -> Deposit:
        offered, count = part.offered, max(1, -(-part.offered.length // PART_BYTES))
        number = (offered.length - offered.left) // PART_BYTES
        view = part.read(self._buffers)
        return self._depositor.seal_wal(
            name=name, file=offered.file, part=number, parts=count, raw=part.raw, plain=view
        )

    def digest(self, file: WalFile, path: Path) -> tuple[str, int]:
        """Digest and length of a file whose name is recorded, after the same checks."""
        offered = open_offered(self.cluster, file, path)
        with offered.handle:
            return offered.digest()
