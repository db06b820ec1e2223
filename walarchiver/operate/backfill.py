"""Backfill: scans of the segments that were archived without one, made by opening them.

Rules:
- Only where an identity is, since the segments have to be opened; and a key that may sign scans.
- A segment that cannot be scanned for good (its last record goes on in a file that is not archived, or
  what it says has no spelling) is told and left; the same holds for one that cannot be opened.
- It can be stopped and run again at any time: what is recorded stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from restore.walreader import WalReader
from walarchiver.assembly import Archive
from walarchiver.catalog import Catalog
from walarchiver.core.history import TimelineHistory
from walarchiver.core.segment import Segment
from walarchiver.errors import KeyMissing, MalformedObject, Untrusted, WalarchiverError
from walarchiver.format.codec import record_to_json
from walarchiver.format.records import WalRecord
from walarchiver.format.scans import ScanRecord, scan_record
from walarchiver.ledger import Proposal

BATCH = 64
"""Scans recorded at once."""


@dataclass(slots=True)
class Backfilled:
    """What became of the segments."""

    scanned: int = 0
    left: list[tuple[str, str]] = field(default_factory=list)
    """Segments that still have no scan, and why."""


def unscanned(archive: Archive) -> list[Segment]:
    """Every archived segment whose content in force has no scan, timeline by timeline."""
    catalog = archive.catalog
    known = set(catalog.names(ScanRecord.kind))
    superseded = {change.name for change in catalog.superseded()}
    found = []
    for timeline, first, last in catalog.runs():
        for number in range(first, last + 1):
            segment = Segment(timeline, number)
            name = segment.name(archive.segment_size)
            if name not in known or (name in superseded and _scan_in_force(catalog, name) is None):
                found.append(segment)
    return found


def complete(
    archive: Archive, segments: Sequence[Segment], progress: Callable[[int], None] = lambda _done: None
) -> Backfilled:
    """Open and walk the segments, and record their scans. `progress` hears how many are done.

    Raises KeyMissing, StoreUnavailable, LedgerContended, …
    """
    if not archive.repository.identities:
        raise KeyMissing("segments can be scanned only where a custodian's key opens them")
    done = Backfilled()
    reader = WalReader(
        repository=archive.repository,
        system=archive.system,
        catalog=archive.catalog,
        segment_size=archive.segment_size,
    )
    batch: list[ScanRecord] = []
    try:
        for count, scanned in enumerate(_scans(archive, reader, segments, done), 1):
            if scanned is not None:
                batch.append(scanned)
            if len(batch) == BATCH:
                _record(archive, batch, done)
            progress(count)
        _record(archive, batch, done)
    finally:
        reader.close()
    return done


def _scans(
    archive: Archive, reader: WalReader, segments: Sequence[Segment], done: Backfilled
) -> Iterator[ScanRecord | None]:
    histories = archive.catalog.histories()
    for segment in segments:
        name = segment.name(archive.segment_size)
        file = archive.catalog.file(name)
        path = histories.get(segment.timeline, TimelineHistory(segment.timeline))
        record = None
        try:
            scan = reader.scan(path, segment.number)
            if isinstance(file, WalRecord):
                record = scan_record(scan, name=name, digest=file.digest)
            if record is None:
                done.left.append((name, "its last record goes on in a file that is not archived"))
            else:
                record_to_json(record)
        except (Untrusted, MalformedObject) as error:
            record = None
            done.left.append((name, error.message))
        yield record


def _record(archive: Archive, batch: list[ScanRecord], done: Backfilled) -> None:
    outcomes = archive.ledger.commit([_proposal(record) for record in batch])
    for record, outcome in zip(batch, outcomes, strict=True):
        if isinstance(outcome, WalarchiverError):
            done.left.append((record.name, outcome.message))
        else:
            done.scanned += 1
    batch.clear()


def _proposal(record: ScanRecord) -> Proposal:
    def decide(catalog: Catalog) -> tuple[ScanRecord, ...]:
        return () if catalog.scan(record.name, record.digest) is not None else (record,)

    return Proposal(f"scan {record.name}", decide)


def _scan_in_force(catalog: Catalog, name: str) -> ScanRecord | None:
    file = catalog.file(name)
    return None if file is None else catalog.scan(name, file.digest)
