"""Base backup: streams a copy of the cluster into sealed parts and records it.

Rules:
- Each tar stream that PostgreSQL sends is cut into parts of at most `PART_BYTES`; how they get from the
  connection into store and ledger is in backupparts.py.
- Parts enter the ledger as they land, so a long backup is never mistaken for garbage; the backup
  counts only once its closing `backup` record, with a hash over all parts, is in.
- A backup that failed leaves part records without a `backup` record: not a backup. One whose connection
  broke is begun anew, under a new id, a bounded number of times.
- An incremental backup is taken against the manifest of an earlier one, which its record names.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from walarchiver.backupparts import PartSink, PartUploads, Patience
from walarchiver.backupparts import commit_one as commit_one
from walarchiver.backuproom import Room
from walarchiver.catalog import Catalog
from walarchiver.core.moment import as_datetime
from walarchiver.core.segment import SegmentBytes
from walarchiver.depositor import Depositor
from walarchiver.errors import BackupConnectionLost, BackupFailed, DatabaseUnavailable
from walarchiver.format.backupchain import FULL, INCREMENTAL
from walarchiver.format.codec import parts_sha256
from walarchiver.format.records import BackupFacts, BackupPart, BackupRecord, Record, TablespaceFact
from walarchiver.ledger import Ledger, Proposal
from walarchiver.ports import Clock, Random
from walarchiver.postgres.backupindex import BackupIndex, index_bytes
from walarchiver.postgres.basebackup import BackupResult, stream_base_backup

PART_BYTES = 16 << 20
"""Plain bytes per part: small enough that many fit into memory, large enough for 10 TB in 660 000 parts."""


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
    max_rate: int | None = None
    """Bytes a second that PostgreSQL may send at most."""
    outage_s: float = 0.0
    """How long the store may be out before the backup is given up."""
    outage_pause_s: float = 2.0
    """Between two tries."""


@dataclass(frozen=True, slots=True)
class Prior:
    """The backup that an incremental one builds on."""

    backup: str
    manifest: bytes


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
    prior: Prior | None = None,
    progress: Callable[[BackupProgress], None] = lambda _progress: None,
    say: Callable[[str], None] = lambda _line: None,
    keep_manifest: Callable[[str, bytes], None] = lambda _backup, _manifest: None,
    part_bytes: int = PART_BYTES,
) -> BackupRecord:
    """Take a base backup and return its record, once it is in the ledger.

    `relations()`: the `facts` part, asked for once the backup has begun, so that its WAL tells the rest.
    `prior`: what an incremental backup is to build on. `keep_manifest(id, manifest)` is called for a
    finished one. Raises BackupFailed (PostgreSQL's message), DatabaseUnavailable, StoreUnavailable, ...
    """
    started_s = clock.monotonic_s()
    backup = f"{as_datetime(clock.now_us()):%Y%m%dT%H%M%SZ}-{random.token(4).hex()}"
    room = Room.within(request.memory, part_bytes, request.workers)
    patience = Patience(clock, request.outage_s, say, pause_s=request.outage_pause_s)
    uploads = PartUploads(depositor, ledger, backup=backup, room=room, patience=patience)
    sink = PartSink(uploads, part_bytes=part_bytes, buffers=room.plain)

    def report(done: int, total: int | None) -> None:
        progress(BackupProgress(done, total, uploads.stored, clock.monotonic_s() - started_s))

    try:
        result, facts_part = _stream(request, backup, uploads, sink, prior, report, relations)
        manifest = sink.finish()
        if not manifest:
            raise BackupFailed("PostgreSQL sent no backup manifest")
        wholes = [("config", outside_configuration), ("facts", facts_part)]
        parts = _finish_parts(uploads, sink, result, manifest, wholes)
        facts = replace(facts, packages=request.packages or facts.packages)
        record = _closing_record(backup, result, parts, sink, facts, prior)
        patience.hold(lambda: _close(ledger, record))
    except BaseException:
        uploads.abandon()
        raise
    keep_manifest(backup, manifest)
    return record


def _stream(
    request: BackupRequest,
    backup: str,
    uploads: PartUploads,
    sink: PartSink,
    prior: Prior | None,
    report: Callable[[int, int | None], None],
    relations: Callable[[], bytes],
) -> tuple[BackupResult, bytes]:
    """Have PostgreSQL send it all; what it said, and the `facts` part."""
    facts_part = b""

    def begun(timeline: int) -> None:
        nonlocal facts_part
        uploads.timeline = timeline
        facts_part = relations()

    result = stream_base_backup(
        request.dsn,
        label=f"walarchiver {backup}",
        checkpoint_fast=request.fast_checkpoint,
        sink=sink,
        progress=report,
        on_start=begun,
        prior_manifest=None if prior is None else prior.manifest,
        max_rate=request.max_rate,
    )
    return result, facts_part


def again_when_lost(
    take: Callable[[], BackupRecord], *, tries: int, pause_s: float, say: Callable[[str], None]
) -> BackupRecord:
    """Take a backup, and another one when its connection breaks, `tries` times in all.

    A server that is not back by then costs a try. Raises BackupConnectionLost or DatabaseUnavailable the
    last time, and whatever else `take` raises.
    """
    rest, lost = threading.Event(), False
    for left in range(tries - 1, -1, -1):
        try:
            return take()
        except (BackupConnectionLost, DatabaseUnavailable) as error:
            lost = lost or isinstance(error, BackupConnectionLost)
            if left == 0 or not lost:
                raise
            say(f"{error.message}; a new backup is begun, {left} more tries after it fails")
            rest.wait(pause_s)
    raise AssertionError("tries is one at least")


def _finish_parts(
    uploads: PartUploads,
    sink: PartSink,
    result: BackupResult,
    manifest: bytes,
    wholes: Sequence[tuple[str, bytes]],
) -> tuple[BackupPart, ...]:
    """Add what is no tar stream, and wait until everything is durable and recorded."""
    sink.add_whole("manifest", manifest)
    sink.add_whole("index", index_bytes(BackupIndex(result.streams)))
    for role, content in wholes:
        if content:
            sink.add_whole(role, content)
    if sink.digesting:
        uploads.settle()
        sink.add_whole("digests", uploads.digests())
    return uploads.finish()


def _close(ledger: Ledger, record: BackupRecord) -> None:
    """The closing record, once."""

    def decide(catalog: Catalog) -> tuple[Record, ...]:
        known = any(one.backup == record.backup for one in catalog.backups())
        return () if known else (record,)

    commit_one(ledger, Proposal(f"backup {record.backup}", decide))


def _closing_record(
    backup: str,
    result: BackupResult,
    parts: Sequence[BackupPart],
    sink: PartSink,
    facts: BackupFacts,
    prior: Prior | None,
) -> BackupRecord:
    return BackupRecord(
        backup=backup,
        method=FULL if prior is None else INCREMENTAL,
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
        prior=None if prior is None else prior.backup,
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


def rates(progress: BackupProgress) -> Iterator[str]:
    """Human fragments: bytes, rate, time left."""
    mb = progress.done / 1e6
    yield f"{mb:,.0f} MB" + (f" of about {progress.total / 1e6:,.0f} MB" if progress.total else "")
    if progress.elapsed_s > 0:
        rate = progress.done / progress.elapsed_s
        yield f"{rate / 1e6:,.0f} MB/s"
        if progress.total and rate > 0:
            yield f"{max(0.0, (progress.total - progress.done) / rate):,.0f} s left"
