"""What one WAL record means for recovery: a transaction's end, a restore point, a checkpoint, limits.

Rules:
- Times in the WAL count microseconds from 2000-01-01 UTC; a checkpoint's counts seconds from 1970.
- The xid of an event is the transaction's own. For COMMIT PREPARED and ABORT PREPARED that is the
  prepared transaction's, which stands in the record's data, not in its header.

Source: PostgreSQL src/include/access/xact.h (xl_xact_*, XACT_XINFO_*), catalog/pg_control.h
(CheckPoint, XLOG_* codes), access/xlog_internal.h (xl_parameter_change, xl_restore_point).
"""

from __future__ import annotations

import struct

from walarchiver.core.lsn import Lsn, format_lsn
from walarchiver.core.moment import POSTGRES_EPOCH_US, CommitTime
from walarchiver.core.scan import Checkpoint, Event, EventKind, ParameterChange, RestorePoint
from walarchiver.core.walrecord import RM_TRANSACTION, RM_XLOG, WalRecord, record_kind
from walarchiver.errors import CorruptSegment

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
