"""What the records of a WAL segment mean for recovery: transaction ends, restore points, limits.

Rules:
- A scan covers the records that *start* in one segment; later files are asked for only while the
  last of them goes on there.
- Times in the WAL count microseconds from 2000-01-01 UTC; a checkpoint's counts seconds from 1970.
- The xid of an event is the transaction's own. For COMMIT PREPARED and ABORT PREPARED that is the
  prepared transaction's, which stands in the record's data, not in its header.

Source: PostgreSQL src/include/access/xact.h (xl_xact_*, XACT_XINFO_*), catalog/pg_control.h
(CheckPoint, XLOG_* codes), access/xlog_internal.h (xl_parameter_change, xl_restore_point).
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from walarchiver.core.lsn import Lsn, format_lsn
from walarchiver.core.moment import POSTGRES_EPOCH_US, CommitTime
from walarchiver.core.scan import (
    Checkpoint,
    Ending,
    Event,
    EventKind,
    ParameterChange,
    RestorePoint,
    SegmentScan,
)
from walarchiver.core.segment import Segment, SegmentBytes
from walarchiver.core.walpage import read_first_page
from walarchiver.core.walreader import Buffer, CrcPolicy, Walk
from walarchiver.core.walrecord import RM_TRANSACTION, RM_XLOG, WalRecord, record_kind
from walarchiver.errors import CorruptSegment

PagesOf = Callable[[int], Buffer | None]
"""The bytes of segment `number` on the path being walked; None when there is no such file."""

_XACT_OPERATION, _XACT_HAS_INFO = 0x70, 0x80
_XLOG_OPERATION = 0xF0
_EVENT_KINDS = {
    0x00: EventKind.COMMIT,
    0x10: EventKind.PREPARE,
    0x20: EventKind.ABORT,
    0x30: EventKind.COMMIT_PREPARED,
    0x40: EventKind.ABORT_PREPARED,
}
_CHECKPOINT_SHUTDOWN, _CHECKPOINT_ONLINE = 0x00, 0x10
_PARAMETER_CHANGE, _RESTORE_POINT = 0x60, 0x70

DECODED: frozenset[int] = frozenset(
    record_kind(RM_XLOG, operation | flags)
    for operation in (_CHECKPOINT_SHUTDOWN, _CHECKPOINT_ONLINE, _PARAMETER_CHANGE, _RESTORE_POINT)
    for flags in range(16)
) | frozenset(
    record_kind(RM_TRANSACTION, operation | has_info | flags)
    for operation in _EVENT_KINDS
    for has_info in (0, _XACT_HAS_INFO)
    for flags in range(16)
)
"""The kinds of record that `decode` knows; a walk may hop over all others."""

_HAS_DBINFO, _HAS_SUBXACTS, _HAS_FILES, _HAS_INVALS = 0x01, 0x02, 0x04, 0x08
_HAS_TWOPHASE, _HAS_GID, _HAS_DROPPED_STATS = 0x10, 0x80, 0x100
_GID_BYTES_MAX = 200

Decoded = Event | RestorePoint | Checkpoint | ParameterChange


def decode(record: WalRecord) -> Decoded | None:
    """What `record` says about recovery; None for a kind that says nothing.

    Raises CorruptSegment when the record is shorter than its kind must be.
    """
    try:
        if record.rmid == RM_TRANSACTION:
            return _transaction(record)
        if record.rmid == RM_XLOG:
            return _xlog(record)
    except struct.error as error:
        raise CorruptSegment(
            f"record at {format_lsn(record.start)} is too short for what it claims to be"
        ) from error
    return None


def _commit_time(us_since_2000: int) -> CommitTime:
    return CommitTime(us_since_2000 + POSTGRES_EPOCH_US)


def _text(data: bytes) -> str:
    """A C string."""
    return data.partition(b"\0")[0].decode("utf-8", "replace")


def _xlog(record: WalRecord) -> Decoded | None:
    operation = record.info & _XLOG_OPERATION
    if operation in (_CHECKPOINT_SHUTDOWN, _CHECKPOINT_ONLINE):
        main = record.main
        redo, timeline, previous = struct.unpack_from("<QII", main)
        (seconds,) = struct.unpack_from("<q", main, 64)
        shutdown = operation == _CHECKPOINT_SHUTDOWN
        return Checkpoint(
            record.start, Lsn(redo), timeline, previous, CommitTime(seconds * 1_000_000), shutdown
        )
    if operation == _PARAMETER_CHANGE:
        return ParameterChange(record.start, *struct.unpack_from("<6i", record.main))
    if operation == _RESTORE_POINT:
        main = record.main
        (time,) = struct.unpack_from("<q", main)
        return RestorePoint(record.start, record.end, _text(main[8:]), _commit_time(time))
    return None


def _transaction(record: WalRecord) -> Event | None:
    kind = _EVENT_KINDS.get(record.info & _XACT_OPERATION)
    if kind is None:
        return None
    main = record.main
    if kind is EventKind.PREPARE:
        _magic, _length, xid, _database, time = struct.unpack_from("<IIIIq", main)
        return Event(
            kind, record.start, record.end, xid, _commit_time(time), _gid_of_prepare(main, record.major)
        )
    (time,) = struct.unpack_from("<q", main)
    xid, gid = record.xid, None
    if kind in (EventKind.COMMIT_PREPARED, EventKind.ABORT_PREPARED):
        xid, gid = _twophase(main, record)
    return Event(kind, record.start, record.end, xid, _commit_time(time), gid)


def _twophase(main: bytes, record: WalRecord) -> tuple[int, str | None]:
    """Xid and, under wal_level=logical, name of the prepared transaction that ended."""
    if not record.info & _XACT_HAS_INFO:
        return record.xid, None
    (xinfo,) = struct.unpack_from("<I", main, 8)
    at = 12
    if xinfo & _HAS_DBINFO:
        at += 8
    stats_bytes = 16 if record.major >= 18 else 12
    is_commit = record.info & _XACT_OPERATION == 0x30
    for flag, size in (
        (_HAS_SUBXACTS, 4),
        (_HAS_FILES, 12),
        (_HAS_DROPPED_STATS if record.major >= 15 else 0, stats_bytes),
        (_HAS_INVALS if is_commit else 0, 16),
    ):
        if xinfo & flag:
            (count,) = struct.unpack_from("<I", main, at)
            at += 4 + count * size
    if not xinfo & _HAS_TWOPHASE:
        return record.xid, None
    (xid,) = struct.unpack_from("<I", main, at)
    gid = _text(main[at + 4 : at + 4 + _GID_BYTES_MAX]) if xinfo & _HAS_GID else None
    return xid, gid


def _gid_of_prepare(main: bytes, major: int) -> str | None:
    """The name given to PREPARE TRANSACTION; None when it is not where it should be.

    It follows the two-phase header (xl_xact_prepare), whose length field for it stands behind the
    counts; 15 has two more counts than 14.
    """
    length_at, header = (46, 64) if major < 15 else (54, 72)
    (length,) = struct.unpack_from("<H", main, length_at)
    gid = main[header : header + length]
    if not 1 < length <= _GID_BYTES_MAX or len(gid) != length or gid.index(0) != length - 1:
        return None
    return gid[:-1].decode("utf-8", "replace")


@dataclass(slots=True)
class _Tally:
    """The decoded records of one segment, summed up as they come."""

    events: list[Event] = field(default_factory=list)
    restore_points: list[RestorePoint] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    parameter_changes: list[ParameterChange] = field(default_factory=list)

    def add(self, record: WalRecord) -> None:
        match decode(record):
            case Event() as event:
                self.events.append(event)
            case RestorePoint() as point:
                self.restore_points.append(point)
            case Checkpoint() as checkpoint:
                self.checkpoints.append(checkpoint)
            case ParameterChange() as change:
                self.parameter_changes.append(change)
            case None:
                pass

    @property
    def backward_us(self) -> int:
        steps = zip(self.events, self.events[1:], strict=False)
        return max(
            (before.time - after.time for before, after in steps if after.time < before.time), default=0
        )


def _from(number: int, pages_of: PagesOf) -> Iterator[tuple[int, Buffer]]:
    """Segments of a path from `number` on, each fetched when the walk gets there."""
    while (pages := pages_of(number)) is not None:
        yield number, pages
        number += 1


def records_from(
    start: Lsn,
    pages_of: PagesOf,
    *,
    segment_size: SegmentBytes,
    stop: Lsn | None = None,
    crc: CrcPolicy = CrcPolicy.ALL,
    wanted: frozenset[int] | None = None,
) -> Walk:
    """Every record of a path that starts at or after `start`, where a record must start."""
    segments = _from(start // segment_size, pages_of)
    return Walk(segments, segment_size=segment_size, start=start, stop=stop, crc=crc, wanted=wanted)


def next_record(lsn: Lsn, pages_of: PagesOf, *, segment_size: SegmentBytes) -> Lsn | None:
    """Start of the first whole record at or after `lsn`; None when the WAL at hand has none.

    `lsn` may be any position. Checksums are not looked at.
    """
    segments = _from(lsn // segment_size, pages_of)
    before = Walk(segments, segment_size=segment_size, stop=lsn, crc=CrcPolicy.NONE, wanted=frozenset())
    deque(before, maxlen=0)
    if before.end is None or before.ending is not Ending.WHOLE:
        return None
    after = records_from(before.end, pages_of, segment_size=segment_size, crc=CrcPolicy.NONE)
    return next((record.start for record in after), None)


def scan_segment(
    segment: Segment,
    pages_of: PagesOf,
    *,
    segment_size: SegmentBytes,
    crc: CrcPolicy = CrcPolicy.INTERESTING,
) -> tuple[SegmentScan, tuple[Event, ...]]:
    """The records that start in `segment`, summed up, and every event among them in LSN order.

    `pages_of(segment.number)` must not be None. Never raises on damaged bytes: the scan's
    `ending` is BAD and its `problem` says why.
    """
    pages = pages_of(segment.number)
    assert pages is not None
    problem = _newer_timeline(segment, pages, segment.name(segment_size))
    walk = Walk(
        () if problem else _from(segment.number, pages_of),
        segment_size=segment_size,
        stop=segment.end(segment_size),
        crc=crc,
        wanted=DECODED,
    )
    tally = _Tally()
    for record in walk:
        try:
            tally.add(record)
        except CorruptSegment as error:
            walk.refuse(error.message, record)
    if problem:
        walk.refuse(problem)
    return _summary(segment, segment.start(segment_size), walk, tally), tuple(tally.events)


def _newer_timeline(segment: Segment, pages: Buffer, name: str) -> str:
    """The problem, if the first page is of a newer timeline than the file; else empty."""
    try:
        found = read_first_page(pages, name=name).timeline
    except CorruptSegment:
        return ""  # the walk will say so itself
    if found <= segment.timeline:
        return ""
    return f"{name} begins with a page of timeline {found}, newer than its name says"


def _summary(segment: Segment, start: Lsn, walk: Walk, tally: _Tally) -> SegmentScan:
    events = tally.events
    kinds = [event.kind for event in events]
    times = [event.time for event in events]
    return SegmentScan(
        segment=segment,
        system=walk.identity.system if walk.identity else 0,
        magic=walk.identity.magic if walk.identity else 0,
        ending=walk.ending,
        problem=walk.problem,
        first=walk.first,
        first_prev=walk.first_prev,
        last=walk.last,
        end=walk.end if walk.end is not None else start,
        records=walk.records,
        commits=sum(kind.is_commit for kind in kinds),
        aborts=sum(kind in (EventKind.ABORT, EventKind.ABORT_PREPARED) for kind in kinds),
        prepares=kinds.count(EventKind.PREPARE),
        min_time=min(times, default=None),
        max_time=max(times, default=None),
        first_event=events[0] if events else None,
        last_event=events[-1] if events else None,
        last_commit=next((event for event in reversed(events) if event.kind.is_commit), None),
        backward_us=tally.backward_us,
        restore_points=tuple(tally.restore_points),
        checkpoints=tuple(tally.checkpoints),
        parameter_changes=tuple(tally.parameter_changes),
        prepared=tuple(
            event
            for event in events
            if event.kind in (EventKind.PREPARE, EventKind.COMMIT_PREPARED, EventKind.ABORT_PREPARED)
        ),
        switched=walk.switched,
        overwritten=tuple(walk.overwritten),
    )
