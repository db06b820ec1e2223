"""Base backup: streams a copy of the cluster into sealed parts and records it.

Rules:
- Each tar stream that PostgreSQL sends is cut into parts of `PART_BYTES`; parts are sealed and
  uploaded side by side, and PostgreSQL waits when all workers are busy (backpressure, no spool).
- Parts enter the ledger as they land, so a long backup is never mistaken for garbage; the backup
  counts only once its closing `backup` record, with a hash over all parts, is in.
- A backup that failed leaves part records without a `backup` record: not a backup.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from blake3 import blake3

from walarchiver.catalog import Catalog
from walarchiver.core.moment import as_datetime
from walarchiver.core.segment import SegmentBytes
from walarchiver.depositor import Depositor
from walarchiver.errors import BackupFailed, WalarchiverError
from walarchiver.format.codec import parts_sha256
from walarchiver.format.records import (
    BackupFacts,
    BackupPart,
    BackupRecord,
    PartRecord,
    Record,
    TablespaceFact,
)
from walarchiver.ledger import Ledger, Proposal, fact
from walarchiver.ports import Clock, Random
from walarchiver.postgres.backupindex import BackupIndex, index_bytes
from walarchiver.postgres.basebackup import BackupResult, TablespaceStream, stream_base_backup

PART_BYTES = 32 << 20
"""Plain bytes per part: small enough to unpack side by side, large enough for 10 TB in 330 000 parts."""
_CHUNK_BYTES = 1 << 20
_PARTS_PER_RECORD = 16


@dataclass(frozen=True, slots=True)
class BackupProgress:
    """How far a running backup is; `total` is PostgreSQL's estimate, None before it is known."""

    done: int
    total: int | None
    stored: int
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class BackupRequest:
    """What to back up and how."""

    dsn: str
    workers: int
    memory: int
    """Bytes that parts under way may hold at most, plain and sealed."""
    fast_checkpoint: bool = True
    packages: str = ""


class _Uploads:
    """Seals and puts parts on a bounded number of threads, and records them in batches."""

    def __init__(self, depositor: Depositor, ledger: Ledger, *, backup: str, workers: int) -> None:
        self._depositor = depositor
        self._ledger = ledger
        self._backup = backup
        self._slots = threading.BoundedSemaphore(workers)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="backup")
        self._futures: list[Future[None]] = []
        self._lock = threading.Lock()
        self._landed: list[tuple[BackupPart, str]] = []
        self._failure: BaseException | None = None
        self.timeline = 0
        self.parts: list[BackupPart] = []
        self.stored = 0
        self._next = 0

    def add(self, role: str, stream: int, offset: int, plain: bytes | bytearray) -> None:
        """Queue one part; blocks while all workers are busy. Raises what an earlier part met."""
        self._slots.acquire()
        if self._failure is not None:
            self._slots.release()
            raise self._failure
        number = self._next
        self._next += 1
        self._futures.append(self._pool.submit(self._work, number, role, stream, offset, plain))

    def _work(self, number: int, role: str, stream: int, offset: int, plain: bytes | bytearray) -> None:
        try:
            view = memoryview(plain)
            chunks = (bytes(view[at : at + _CHUNK_BYTES]) for at in range(0, len(view), _CHUNK_BYTES))
            deposit = self._depositor.seal_backup_part(
                backup=self._backup, timeline=self.timeline, part=number, raw=len(view), plain=chunks
            )
            stored = self._depositor.put(deposit)
            part = BackupPart(
                n=number,
                role=role,
                stream=stream,
                offset=offset,
                raw=len(view),
                digest=blake3(view).hexdigest(),
                object=stored,
            )
            self._land(part, deposit.epoch)
        except BaseException as error:
            self._failure = error
            raise
        finally:
            self._slots.release()

    def _land(self, part: BackupPart, epoch: str) -> None:
        with self._lock:
            self.parts.append(part)
            self.stored += part.object.stored_len
            self._landed.append((part, epoch))
            if len(self._landed) >= _PARTS_PER_RECORD:
                self._record_landed()

    def _record_landed(self) -> None:
        batch, self._landed = self._landed, []
        parts = tuple(sorted((part for part, _ in batch), key=lambda part: part.n))
        epochs = {epoch for _, epoch in batch}

        def decide(catalog: Catalog) -> tuple[Record, ...]:
            return (
                *self._depositor.epoch_records(catalog, epochs),
                PartRecord(backup=self._backup, parts=parts),
            )

        commit_one(self._ledger, Proposal(f"part {self._backup} {parts[0].n}", decide))

    def finish(self) -> tuple[BackupPart, ...]:
        """Wait for all, record what is not yet; every part in order."""
        for future in self._futures:
            future.result()
        with self._lock:
            if self._landed:
                self._record_landed()
        self._pool.shutdown()
        return tuple(sorted(self.parts, key=lambda part: part.n))

    def abandon(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


class _Sink:
    """Receives the backup stream (BackupSink of postgres/basebackup.py) and cuts it into parts."""

    def __init__(self, uploads: _Uploads, part_bytes: int) -> None:
        self._uploads = uploads
        self._part_bytes = part_bytes
        self._buffer = bytearray()
        self._stream: TablespaceStream | None = None
        self._offset = 0
        self._manifest = bytearray()
        self.streams: list[TablespaceStream] = []
        self.raw = 0

    def start_stream(self, stream: TablespaceStream) -> None:
        self._flush()
        self._stream = stream
        self._offset = 0
        self.streams.append(stream)

    def data(self, chunk: bytes | memoryview) -> None:
        view = memoryview(chunk)
        self.raw += len(view)
        while len(view):
            room = self._part_bytes - len(self._buffer)
            self._buffer += view[:room]
            view = view[room:]
            if len(self._buffer) == self._part_bytes:
                self._flush()

    def manifest(self, chunk: bytes | memoryview) -> None:
        self._manifest += chunk

    def _flush(self) -> None:
        if self._buffer and self._stream is not None:
            self._uploads.add("tar", self._stream.number, self._offset, self._buffer)
            self._offset += len(self._buffer)
            self._buffer = bytearray()

    def finish(self) -> bytes:
        """Send what is left of the last stream; the manifest."""
        self._flush()
        return bytes(self._manifest)

    def add_whole(self, role: str, content: bytes) -> None:
        """Parts of content that is no tar stream."""
        for offset in range(0, max(1, len(content)), self._part_bytes):
            self._uploads.add(role, 0, offset, content[offset : offset + self._part_bytes])


def take_backup(
    request: BackupRequest,
    *,
    facts: BackupFacts,
    outside_configuration: bytes,
    relations: Callable[[], bytes] = bytes,
    depositor: Depositor,
    ledger: Ledger,
    clock: Clock,
    random: Random,
    progress: Callable[[BackupProgress], None] = lambda _progress: None,
    part_bytes: int = PART_BYTES,
) -> BackupRecord:
    """Take a full base backup and return its record, once it is in the ledger.

    `relations()`: the `facts` part, asked for once the backup has begun, so that its WAL tells the rest.
    Raises BackupFailed (PostgreSQL's message), DatabaseUnavailable, StoreUnavailable, ...
    """
    started_s = clock.monotonic_s()
    backup = f"{as_datetime(clock.now_us()):%Y%m%dT%H%M%SZ}-{random.token(4).hex()}"
    uploads = _Uploads(depositor, ledger, backup=backup, workers=_slots(request, part_bytes))
    sink = _Sink(uploads, part_bytes)

    def report(done: int, total: int | None) -> None:
        progress(BackupProgress(done, total, uploads.stored, clock.monotonic_s() - started_s))

    facts_part = b""

    def begun(timeline: int) -> None:
        nonlocal facts_part
        uploads.timeline = timeline
        facts_part = relations()

    try:
        result = stream_base_backup(
            request.dsn,
            label=f"walarchiver {backup}",
            checkpoint_fast=request.fast_checkpoint,
            sink=sink,
            progress=report,
            on_start=begun,
        )
        manifest = sink.finish()
        if not manifest:
            raise BackupFailed("PostgreSQL sent no backup manifest")
        sink.add_whole("manifest", manifest)
        sink.add_whole("index", index_bytes(BackupIndex(result.streams)))
        for role, content in (("config", outside_configuration), ("facts", facts_part)):
            if content:
                sink.add_whole(role, content)
        parts = uploads.finish()
    except BaseException:
        uploads.abandon()
        raise
    record = _closing_record(
        backup, result, parts, sink, replace(facts, packages=request.packages or facts.packages)
    )
    commit_one(ledger, fact(f"backup {backup}", record))
    return record


def _slots(request: BackupRequest, part_bytes: int) -> int:
    """How many parts may be under way."""
    return max(1, min(request.workers + 2, request.memory // (2 * part_bytes)))


def _closing_record(
    backup: str, result: BackupResult, parts: Sequence[BackupPart], sink: _Sink, facts: BackupFacts
) -> BackupRecord:
    return BackupRecord(
        backup=backup,
        method="full",
        source="standby" if result.from_standby else "primary",
        timeline=result.timeline,
        start_lsn=result.start_lsn,
        checkpoint_lsn=result.checkpoint_lsn,
        stop_lsn=result.stop_lsn,
        start_time=result.start_time,
        stop_time=result.stop_time,
        raw=sink.raw,
        stored=sum(part.object.stored_len for part in parts),
        parts=len(parts),
        parts_sha256=parts_sha256(parts),
        tablespaces=tuple(TablespaceFact(oid=s.oid, stream=s.number, path=s.path) for s in sink.streams),
        facts=facts,
    )


def wait_for_wal(
    ledger: Ledger, record: BackupRecord, size: SegmentBytes, *, tries: int, pause_s: float
) -> bool:
    """Whether all WAL that the backup needs to be consistent is recorded; looks `tries` times."""
    first, last = record.start_lsn // size, (record.stop_lsn - 1) // size
    rest = threading.Event()
    for _ in range(tries):
        ledger.refresh()
        if all(ledger.catalog.has_segment(record.timeline, number) for number in range(first, last + 1)):
            return True
        rest.wait(pause_s)
    return False


def commit_one(ledger: Ledger, proposal: Proposal) -> None:
    """Record one proposal; raises its refusal."""
    (outcome,) = ledger.commit([proposal])
    if isinstance(outcome, WalarchiverError):
        raise outcome


def rates(progress: BackupProgress) -> Iterator[str]:
    """Human fragments: bytes, rate, time left."""
    mb = progress.done / 1e6
    yield f"{mb:,.0f} MB" + (f" of about {progress.total / 1e6:,.0f} MB" if progress.total else "")
    if progress.elapsed_s > 0:
        rate = progress.done / progress.elapsed_s
        yield f"{rate / 1e6:,.0f} MB/s"
        if progress.total and rate > 0:
            yield f"{max(0.0, (progress.total - progress.done) / rate):,.0f} s left"
