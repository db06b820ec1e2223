"""What the catalog makes of single records: the name each is looked up by, and what it says of WAL.

Rule: a signer may say anything, and must not stop readers by it; what no server could have written
projects to nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from walarchiver.chronology import Rows, drop, put
from walarchiver.core.history import TimelineHistory
from walarchiver.core.lsn import format_lsn
from walarchiver.core.segment import (
    MIN_SEGMENT_BYTES,
    HistoryFile,
    Segment,
    SegmentBytes,
    SegmentFile,
    parse_wal_file,
    valid_segment_bytes,
)
from walarchiver.errors import MalformedObject, NotAWalFile
from walarchiver.format.codec import record_from_json
from walarchiver.format.records import (
    BackupRecord,
    BucketIndexRecord,
    BucketJournalRecord,
    ClusterRecord,
    EpochRecord,
    GapRecord,
    HistoryRecord,
    KeyringRecord,
    LabelRecord,
    PartRecord,
    PinRecord,
    Record,
    SupersedeRecord,
    TieRecord,
    WalRecord,
)
from walarchiver.format.scans import ScanRecord, segment_scan


def parsed_row(row: tuple[object, ...]) -> Record:
    """The record in a row that begins with its canonical JSON, as `Catalog.apply` wrote it.

    Raises MalformedObject for what is no record; that the spelling is the canonical one is not proven again.
    """
    try:
        return record_from_json(json.loads(str(row[0])))
    except ValueError as error:
        raise MalformedObject(f"a row of the catalog is no JSON: {error}") from error


def segment_of(record: WalRecord) -> Segment | None:
    """The whole segment that a record names; None for a partial one, and for what no server could
    have written: a signer may say anything, and must not stop readers by it."""
    size = record.page.segment_size
    if not valid_segment_bytes(size):
        return None
    try:
        file = parse_wal_file(record.name, SegmentBytes(size))
    except NotAWalFile:
        return None
    return file.segment if isinstance(file, SegmentFile) else None


def history_of(record: HistoryRecord) -> TimelineHistory | None:
    """The ancestry in a record; None when no timeline can have it."""
    lines = [f"{fork.parent}\t{format_lsn(fork.switch)}\n" for fork in record.forks]
    try:
        file = parse_wal_file(record.name, MIN_SEGMENT_BYTES)
        if isinstance(file, HistoryFile):
            return TimelineHistory.parse(file.timeline, "".join(lines).encode())
    except (NotAWalFile, MalformedObject):
        return None
    return None


def record_name(record: Record) -> str:
    """The name a record is looked up by; empty for kinds that have none."""
    match record:
        case (
            WalRecord(name=name)
            | HistoryRecord(name=name)
            | LabelRecord(name=name)
            | ScanRecord(name=name)
            | ClusterRecord(name=name)
            | SupersedeRecord(name=name)
        ):
            return name
        case EpochRecord(epoch=epoch, rev=rev):
            return epoch if rev is None else f"{epoch}.{rev:04}"
        case PartRecord(backup=backup) | BackupRecord(backup=backup):
            return backup
        case KeyringRecord(n=n):
            return str(n)
        case GapRecord(first=first):
            return first
        case TieRecord(bucket=bucket):
            return bucket
        case BucketIndexRecord(bucket=bucket, generation=generation):
            return f"{bucket}/{generation}"
        case PinRecord(pin=pin):
            return pin
        case BucketJournalRecord(journal=journal):
            return journal
        case _:
            return ""


def origin_of(system: int, segment_size: int) -> str:
    """What segments must have in common to follow each other: the server, and the size of its files."""
    return f"{system}/{segment_size}"


def index_scan(db: Rows, files: Iterable[WalRecord], standing: WalRecord, scan: ScanRecord | None) -> None:
    """Have the index over scans hold what `scan` says of the file in force, and of none of the others.

    `files`: all that were ever recorded under that name.
    """
    for file in files:
        segment = segment_of(file)
        if segment is not None and file is not standing:
            drop(db, segment)
    segment = segment_of(standing)
    if segment is None:
        return
    page = standing.page
    found = None
    if scan is not None and page.system.isdigit():
        found = segment_scan(scan, segment, system=int(page.system), magic=page.magic)
    if found is None:
        drop(db, segment)
    else:
        put(db, found, origin_of(int(page.system), page.segment_size))
