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
from pathlib import Path

from walarchiver.archivedmemory import ArchivedMemory
from walarchiver.budget import ByteBudget, Held
from walarchiver.buffers import Buffers
from walarchiver.catalog import Catalog, FileRecord
from walarchiver.conflict import refuse_other_content
from walarchiver.core.segment import SegmentFile, WalFile, parse_wal_file
from walarchiver.depositor import Deposit, Depositor
from walarchiver.errors import EpochOutdated
from walarchiver.format.records import Record, StoredObject
from walarchiver.format.scans import ScanRecord
from walarchiver.format.seal import ZstdParams
from walarchiver.ledger import Proposal
from walarchiver.ledgerqueue import LedgerQueue
from walarchiver.offered import ClusterFacts, Offered, Stamp, Unchanged, open_offered, stamp_of
from walarchiver.scanner import Scanned, Scans

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


@dataclass(slots=True)
class _Part:
    """A piece of a file on its way, and the memory that it lies in.

    The memory is given back only where no thread uses it any more; otherwise it is let go."""

    offered: Offered
    raw: int
    scanner: Scans | None
    """Walks the segment of which this is the last piece."""
    _buffer: bytearray | None = None

    @property
    def holds(self) -> bool:
        return self._buffer is not None

    def read(self, buffers: Buffers) -> memoryview:
        self._buffer = buffers.take(self.raw)
        view = memoryview(self._buffer)
        self.offered.read(view)
        return view

    def scanned(self, buffers: Buffers) -> tuple[ScanRecord | None, Scanned | None]:
        """Of the segment before, and of this one. The memory is given back, unless it is needed again."""
        late = scan = None
        if self.scanner is not None:
            late = self.scanner.late(self.offered)
            scan = self.scanner.scan(self.offered)
        if scan is None or self.scanner is None or not self.scanner.waits(scan):
            self.give_back(buffers)
        return late, scan

    def give_back(self, buffers: Buffers) -> None:
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            buffers.give_back(buffer)


def _settle(ready: asyncio.Future[Deposit], sealed: Deposit) -> None:
    if not ready.done():
        ready.set_result(sealed)


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
        self._running: dict[tuple[str, Path, Unchanged], asyncio.Task[Archived]] = {}

    @property
    def catalog(self) -> Catalog:
        return self._queue.ledger.catalog

    async def archive(self, name: str, path: Path) -> Archived:
        """Return only when the file would outlive this host.

        Raises NotAWalFile, FileMissing, CorruptSegment, WrongCluster, SegmentConflict: refused, nothing
        recorded; SegmentChanged, StoreUnavailable, LedgerContended: not acknowledged, ask again.
        """
        file = parse_wal_file(name, self.cluster.segment_size)
        stamp = await asyncio.get_running_loop().run_in_executor(self._io, stamp_of, path)
        key = (name, path, stamp.unchanged)
        task = self._running.get(key)
        if task is None:
            task = asyncio.create_task(self._archive(name, file, path, stamp), name=f"archive {name}")
            self._running[key] = task

            def ended(done: asyncio.Task[Archived]) -> None:
                self._running.pop(key, None)
                if not done.cancelled():
                    done.exception()  # looked at, also when every caller has gone away

            task.add_done_callback(ended)
        return await asyncio.shield(task)

    async def drain(self) -> None:
        """Wait for everything under way."""
        while self._running:
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    def compress_with(self, params: ZstdParams) -> None:
        """From the next file on."""
        self._depositor.compress_with(params)

    @property
    def sealing_s(self) -> float:
        """Seconds that threads have spent on compressing and sealing WAL, together."""
        return self._depositor.sealing_s

    async def _archive(self, name: str, file: WalFile, path: Path, stamp: Stamp) -> Archived:
        loop = asyncio.get_running_loop()
        self._observe("archive: start")
        recorded = await loop.run_in_executor(self._io, self.catalog.file, name)
        if recorded is not None:
            known = self._memory and self._memory.digest(name, path, stamp)
            if known is not None and (known, stamp.size) == (recorded.digest, recorded.len):
                return Archived(name, stamp.size, fresh=False)
            digest, length = await loop.run_in_executor(self._cpu, self.digest, file, path)
            refuse_other_content(name, recorded, digest, length, self.catalog)
            return Archived(name, length, fresh=False)
        left = SEALINGS_MAX
        while True:
            left -= 1
            try:
                return await self._archive_new(name, file, path)
            except EpochOutdated:
                if not left:
                    raise
                await loop.run_in_executor(self._io, self._depositor.reread_keyrings)

    async def _archive_new(self, name: str, file: WalFile, path: Path) -> Archived:
        read_us = self._memory.now_us() if self._memory else 0
        deposited = await self.deposit(name, file, path)
        record = deposited.record
        self._observe("archive: deposited")
        riding: list[Record] = []

        def decide(catalog: Catalog) -> tuple[Record, ...]:
            riding.clear()
            recorded = catalog.file(name)
            if recorded is not None:
                refuse_other_content(name, recorded, record.digest, record.len, catalog)
                return ()
            riding.extend(self._companions(file))
            epochs = self._depositor.epoch_records_of_today(catalog, deposited.epochs)
            return (*epochs, record, *deposited.scans, *riding)

        await self._queue.submit(Proposal(name, decide))
        self._observe("archive: recorded")
        self._accompanied(riding)
        standing = await asyncio.get_running_loop().run_in_executor(self._io, self.catalog.file, name)
        if self._memory and deposited.stamp is not None and standing == record:
            self._memory.remember(name, path, deposited.stamp, record.digest, read_us=read_us)
        return Archived(name, record.len, fresh=standing == record)

    async def deposit(self, name: str, file: WalFile, path: Path) -> Deposited:
        """Check, seal and store a file: its record and the keys it used, neither recorded yet."""
        loop = asyncio.get_running_loop()
        offered = await loop.run_in_executor(self._io, open_offered, self.cluster, file, path)
        try:
            objects: list[StoredObject] = []
            epochs: set[str] = set()
            scans: tuple[ScanRecord, ...] = ()
            while offered.left or not objects:
                async with self._parts, self._budget.hold(min(PART_BYTES, offered.left) * 2) as held:
                    part = _Part(offered, min(PART_BYTES, offered.left), self._scanner_of(offered))
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
        self, name: str, part: _Part, held: Held
    ) -> tuple[StoredObject, str, tuple[ScanRecord, ...]]:
        """Seal a part and store it; meanwhile the same thread walks the segment, whose last record may go
        on in the file behind it, which PostgreSQL has had time to write by the time that it is stored."""
        loop = asyncio.get_running_loop()
        sealing: asyncio.Future[Deposit] = loop.create_future()

        def work() -> tuple[ScanRecord | None, Scanned | None]:
            try:
                sealed = self._seal(name, part)
            except BaseException:
                part.give_back(self._buffers)
                raise
            with contextlib.suppress(RuntimeError):  # the loop may be gone
                loop.call_soon_threadsafe(_settle, sealing, sealed)
            return part.scanned(self._buffers)

        scanning = loop.run_in_executor(self._cpu, work)
        scanning.add_done_callback(lambda _done: sealing.cancel())  # no effect on one that is settled
        try:
            sealed = await sealing
        except asyncio.CancelledError:
            if scanning.done():
                await scanning  # raises why there is nothing
            raise
        body = len(sealed.body)
        held.keep(body + part.raw)
        self._observe("archive: sealed")
        put = loop.run_in_executor(self._sending, self._depositor.put, sealed)
        late, scan = await scanning
        if not part.holds:
            held.keep(body)
        stored = await put
        found = [late]
        if scan is not None and part.scanner is not None:
            found.append(await loop.run_in_executor(self._io, part.scanner.record, scan, part.offered))
        part.give_back(self._buffers)
        return stored, sealed.epoch, tuple(record for record in found if record is not None)

    def _seal(self, name: str, part: _Part) -> Deposit:
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
