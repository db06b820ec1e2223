"""Archiver: makes one WAL file durable, and answers only then.

Rules:
- Acknowledged means: its objects and its ledger entry are durable. Nothing is remembered as done
  from anywhere but the verified ledger.
- The same bytes again succeed without writing; other bytes under a recorded name are refused and
  alarmed; nothing is ever overwritten.
- Every file is checked against the cluster before a byte is stored: name, size, long page header
  (magic, system identifier, segment size, page address, timeline), every page's header.
- Two calls for one name share one piece of work only if they name the same, unchanged file;
  PostgreSQL does repeat a call after a crash while the first one still runs.
- What was read is acknowledged only if the file is still the one that was opened, unchanged.
- A caller that goes away stops nothing: the work ends, and whoever asks again finds its result.
- Memory: a bounded number of parts (at most 64 MiB plain each), whatever the segment size.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from blake3 import blake3

from walarchiver.budget import ByteBudget
from walarchiver.catalog import Catalog, FileRecord
from walarchiver.conflict import refuse_other_content
from walarchiver.core.history import TimelineHistory
from walarchiver.core.lsn import Lsn
from walarchiver.core.segment import (
    BackupHistoryFile,
    HistoryFile,
    PartialFile,
    SegmentBytes,
    SegmentFile,
    WalFile,
    parse_wal_file,
    wal_file_name,
)
from walarchiver.core.walpage import (
    LONG_HEADER_BYTES,
    SegmentIdentity,
    check_pages,
    check_segment,
    read_first_page,
)
from walarchiver.depositor import Deposit, Depositor
from walarchiver.errors import (
    CorruptHistory,
    CorruptSegment,
    EpochOutdated,
    MalformedObject,
    NotARegularFile,
    SegmentChanged,
)
from walarchiver.format.records import (
    FirstPage,
    ForkFact,
    HistoryRecord,
    LabelRecord,
    Record,
    StoredObject,
    WalRecord,
)
from walarchiver.ledger import Proposal
from walarchiver.ledgerqueue import LedgerQueue

PART_BYTES = 64 << 20
"""Plain bytes per object; docs/format.md."""
READ_BYTES = 1 << 20
SEALINGS_MAX = 4
"""A file is sealed anew when the keyring changed meanwhile, this often at most."""
HISTORY_BYTES_MAX = 1 << 20
"""A line per ancestor: a few hundred bytes; anything near this is not a history."""


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """What every WAL file of the cluster must agree with."""

    name: str
    system: int
    major: int
    segment_size: SegmentBytes


@dataclass(frozen=True, slots=True)
class Archived:
    """What became of a file: `fresh` is False when it was recorded already."""

    name: str
    bytes: int
    fresh: bool


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
        companions: Callable[[WalFile], tuple[Record, ...]] = lambda _file: (),
        accompanied: Callable[[Sequence[Record]], None] = lambda _records: None,
        observe: Callable[[str], None] = lambda _step: None,
    ) -> None:
        """`companions` gives records that ride along with a file's own (horizon samples), and may be
        asked again after a lost race; `accompanied` hears which of them are durable. `observe` is
        told each step, for tests that stop there."""
        self.cluster = cluster
        self._depositor = depositor
        self._queue = queue
        self._cpu = cpu
        self._io = io
        self._companions = companions
        self._accompanied = accompanied
        self._observe = observe
        self._budget = budget
        self._running: dict[tuple[str, Path, _Unchanged], asyncio.Task[Archived]] = {}

    @property
    def catalog(self) -> Catalog:
        return self._queue.ledger.catalog

    async def archive(self, name: str, path: Path) -> Archived:
        """Return only when the file would outlive this host.

        Raises NotAWalFile, CorruptSegment, WrongCluster, SegmentConflict: refused, nothing recorded;
        SegmentChanged, StoreUnavailable, LedgerContended: not acknowledged, ask again.
        """
        file = parse_wal_file(name, self.cluster.segment_size)
        unchanged = await asyncio.get_running_loop().run_in_executor(self._io, _unchanged, path)
        key = (name, path, unchanged)
        task = self._running.get(key)
        if task is None:
            task = asyncio.create_task(self._archive(name, file, path), name=f"archive {name}")
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

    async def _archive(self, name: str, file: WalFile, path: Path) -> Archived:
        loop = asyncio.get_running_loop()
        self._observe("archive: start")
        recorded = await loop.run_in_executor(self._io, self.catalog.file, name)
        if recorded is not None:
            digest, length = await loop.run_in_executor(self._cpu, self.digest, file, path)
            refuse_other_content(name, recorded, digest, length, self.catalog)
            return Archived(name, length, fresh=False)
        for left in reversed(range(SEALINGS_MAX)):
            try:
                return await self._archive_new(name, file, path)
            except EpochOutdated:
                if not left:
                    raise
                await loop.run_in_executor(self._io, self._depositor.reread_keyrings)
        raise AssertionError("the last sealing returned or raised")

    async def _archive_new(self, name: str, file: WalFile, path: Path) -> Archived:
        record, epochs = await self.deposit(name, file, path)
        self._observe("archive: deposited")
        riding: list[Record] = []

        def decide(catalog: Catalog) -> tuple[Record, ...]:
            riding.clear()
            recorded = catalog.file(name)
            if recorded is not None:
                refuse_other_content(name, recorded, record.digest, record.len, catalog)
                return ()
            riding.extend(self._companions(file))
            return (*self._depositor.epoch_records_of_today(catalog, epochs), record, *riding)

        await self._queue.submit(Proposal(name, decide))
        self._observe("archive: recorded")
        self._accompanied(riding)
        standing = await asyncio.get_running_loop().run_in_executor(self._io, self.catalog.file, name)
        return Archived(name, record.len, fresh=standing == record)

    async def deposit(self, name: str, file: WalFile, path: Path) -> tuple[FileRecord, frozenset[str]]:
        """Check, seal and store a file: its record and the keys it used, neither recorded yet."""
        loop = asyncio.get_running_loop()
        reading = await loop.run_in_executor(self._io, self._open, file, path)
        try:
            objects: list[StoredObject] = []
            epochs: set[str] = set()
            while reading.left or not objects:
                async with self._budget.hold(min(PART_BYTES, reading.left)):
                    sealed = await loop.run_in_executor(self._cpu, self._seal_next, name, file, reading)
                    epochs.add(sealed.epoch)
                    self._observe("archive: sealed")
                    objects.append(await loop.run_in_executor(self._io, self._depositor.put, sealed))
                    self._observe("archive: put")
        finally:
            reading.handle.close()
        return self._record(name, file, reading, tuple(objects)), frozenset(epochs)

    def _open(self, file: WalFile, path: Path) -> _Reading:
        try:
            handle = open_plainly(path)
        except OSError as error:
            raise _unreadable(path, error) from error
        try:
            unchanged = _identity_of(os.fstat(handle.fileno()), path)
            length = unchanged[2]
            reading = _Reading(
                handle=handle, path=path, unchanged=unchanged, length=length, left=length, hasher=blake3()
            )
            match file:
                case SegmentFile() | PartialFile():
                    first = handle.read(LONG_HEADER_BYTES)
                    handle.seek(0)
                    reading.page = read_first_page(first, name=path.name)
                    check_segment(
                        wal_file_name(file, self.cluster.segment_size),
                        reading.page,
                        length=length,
                        system=self.cluster.system,
                        major=self.cluster.major,
                        segment_size=self.cluster.segment_size,
                    )
                case HistoryFile():
                    if not 0 < length <= HISTORY_BYTES_MAX:
                        raise CorruptHistory(f"{path.name} has {length} bytes, which no timeline history has")
                case BackupHistoryFile():
                    pass  # informative only: kept as it is, so that a bad one never blocks WAL
        except BaseException:
            handle.close()
            raise
        return reading

    def _seal_next(self, name: str, file: WalFile, reading: _Reading) -> Deposit:
        raw = min(PART_BYTES, reading.left)
        count = max(1, -(-reading.length // PART_BYTES))
        part = (reading.length - reading.left) // PART_BYTES
        deposit = self._depositor.seal_wal(
            name=name, file=file, part=part, parts=count, raw=raw, plain=self._chunks(file, reading, raw)
        )
        if isinstance(file, HistoryFile):
            _ancestry(file, reading)  # read before it is stored
        if not reading.left:
            _check_unchanged(reading)
        return deposit

    def _chunks(self, file: WalFile, reading: _Reading, count: int) -> Iterator[bytes]:
        """The next `count` bytes, digested and checked on their way."""
        while count:
            try:
                chunk = reading.handle.read(min(READ_BYTES, count))
            except OSError as error:
                raise _unreadable(reading.path, error) from error
            if not chunk:
                raise SegmentChanged(
                    f"{reading.path} became shorter than {reading.length} bytes while it was read"
                )
            if isinstance(file, SegmentFile) and reading.page is not None:
                reading.padding = check_pages(
                    chunk,
                    Lsn(file.segment.start(self.cluster.segment_size) + reading.length - reading.left),
                    magic=reading.page.magic,
                    padding=reading.padding,
                    name=file.segment.name(self.cluster.segment_size),
                )
            elif isinstance(file, HistoryFile):
                reading.small += chunk
            reading.hasher.update(chunk)
            reading.left -= len(chunk)
            count -= len(chunk)
            yield chunk

    def digest(self, file: WalFile, path: Path) -> tuple[str, int]:
        """Digest and length of a file whose name is recorded, after the same checks."""
        reading = self._open(file, path)
        with reading.handle:
            for _ in self._chunks(file, reading, reading.length):
                pass
            _check_unchanged(reading)
        return reading.hasher.hexdigest(), reading.length

    def _record(
        self, name: str, file: WalFile, reading: _Reading, objects: tuple[StoredObject, ...]
    ) -> FileRecord:
        digest = reading.hasher.hexdigest()
        match file:
            case SegmentFile() | PartialFile():
                page = reading.page
                assert page is not None
                return WalRecord(
                    name=name,
                    digest=digest,
                    len=reading.length,
                    objects=objects,
                    page=FirstPage(
                        page.magic, str(page.system), page.timeline, page.address, page.segment_size
                    ),
                )
            case HistoryFile():
                forks = tuple(ForkFact(fork.parent, fork.switch) for fork in _ancestry(file, reading).forks)
                return HistoryRecord(
                    name=name, digest=digest, len=reading.length, objects=objects, forks=forks
                )
            case BackupHistoryFile():
                return LabelRecord(name=name, digest=digest, len=reading.length, objects=objects)


@dataclass(slots=True)
class _Reading:
    """A WAL file being read once from front to back."""

    handle: BinaryIO
    path: Path
    unchanged: _Unchanged
    length: int
    left: int
    hasher: blake3
    page: SegmentIdentity | None = None
    padding: bool = False
    """The zero tail behind a switch has begun."""
    small: bytearray = field(default_factory=bytearray)
    """Content, kept for timeline histories only."""


_Unchanged = tuple[int, int, int, int]
"""Device, inode, size and modification time (ns) of a file."""


def open_plainly(path: Path) -> BinaryIO:
    """The file itself: no link is followed, and neither pipe nor device is waited for. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    return os.fdopen(handle, "rb")


def _unchanged(path: Path) -> _Unchanged:
    try:
        found = path.stat(follow_symlinks=False)
    except OSError as error:
        raise _unreadable(path, error) from error
    return _identity_of(found, path)


def _identity_of(found: os.stat_result, path: Path) -> _Unchanged:
    if not stat.S_ISREG(found.st_mode):
        raise NotARegularFile(f"{path} is not a regular file")
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _check_unchanged(reading: _Reading) -> None:
    """Whether the file that was read to its end is still the one that was opened. Raises SegmentChanged."""
    try:
        now = _unchanged(reading.path)
    except CorruptSegment as error:
        raise SegmentChanged(f"{reading.path} went away while it was read") from error
    if now != reading.unchanged:
        raise SegmentChanged(f"{reading.path} changed while it was read")


def _unreadable(path: Path, error: OSError) -> CorruptSegment:
    return CorruptSegment(f"{path} cannot be read: {error.strerror}")


def _ancestry(file: HistoryFile, reading: _Reading) -> TimelineHistory:
    """The ancestry in a history that was read whole. Raises CorruptHistory.

    PostgreSQL ends every line that it writes; one without its end was cut off, perhaps inside a position.
    """
    if not reading.small.endswith(b"\n"):
        raise CorruptHistory(f"{reading.path.name} is cut off: its last line has no end")
    try:
        return TimelineHistory.parse(file.timeline, bytes(reading.small))
    except MalformedObject as error:
        raise CorruptHistory(error.message) from error
