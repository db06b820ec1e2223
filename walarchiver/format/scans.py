"""The `scan` record: what walking one archived segment told, kept so that nobody has to open it again.

Rules:
- A scan belongs to the bytes with its `digest`; a file of that name with another digest has none.
- Lists are short by nature. A segment with a list longer than LISTED_MAX gets no record, nor one
  whose values have no spelling here (a clock outside of the calendar): it is opened when needed.
- What a scan says is what `core.commits.scan_segment` says, less what the `wal` record has already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime
from walarchiver.core.scan import (
    Checkpoint,
    Ending,
    Event,
    EventKind,
    ParameterChange,
    RestorePoint,
    SegmentScan,
)
from walarchiver.core.segment import Segment

LISTED_MAX = 256


@dataclass(frozen=True, slots=True)
class EventFact:
    """The end, or the preparation, of a transaction (core.scan.Event)."""

    event: str
    """`commit`, `abort`, `commit_prepared`, `abort_prepared` or `prepare`."""
    lsn: Lsn
    end: Lsn
    xid: int
    time: CommitTime
    gid: str | None = None


@dataclass(frozen=True, slots=True)
class ScanRecord:
    """The records that start in one segment, summed up (core.scan.SegmentScan)."""

    kind: ClassVar[str] = "scan"
    name: str
    digest: str
    ending: str
    """`whole`, `zero` or `bad`."""
    problem: str
    end: Lsn
    records: int
    commits: int
    aborts: int
    prepares: int
    backward_us: int
    switched: bool
    restore_points: tuple[RestorePoint, ...]
    checkpoints: tuple[Checkpoint, ...]
    limits: tuple[ParameterChange, ...]
    prepared: tuple[EventFact, ...]
    overwritten: tuple[Lsn, ...]
    first: Lsn | None = None
    first_prev: Lsn | None = None
    last: Lsn | None = None
    min_time: CommitTime | None = None
    max_time: CommitTime | None = None
    first_event: EventFact | None = None
    last_event: EventFact | None = None
    last_commit: EventFact | None = None
    min_xid: int | None = None
    max_xid: int | None = None


def scan_record(scan: SegmentScan, *, name: str, digest: str) -> ScanRecord | None:
    """The record of a scan; None for one that is not final (OPEN) or too long to be listed."""
    lists = (scan.restore_points, scan.checkpoints, scan.parameter_changes, scan.prepared, scan.overwritten)
    if scan.ending is Ending.OPEN or any(len(one) > LISTED_MAX for one in lists):
        return None
    return ScanRecord(
        name=name,
        digest=digest,
        ending=scan.ending.value,
        problem=scan.problem,
        end=scan.end,
        records=scan.records,
        commits=scan.commits,
        aborts=scan.aborts,
        prepares=scan.prepares,
        backward_us=scan.backward_us,
        switched=scan.switched,
        restore_points=scan.restore_points,
        checkpoints=scan.checkpoints,
        limits=scan.parameter_changes,
        prepared=tuple(_fact(event) for event in scan.prepared),
        overwritten=scan.overwritten,
        first=scan.first,
        first_prev=scan.first_prev,
        last=scan.last,
        min_time=scan.min_time,
        max_time=scan.max_time,
        first_event=_maybe(scan.first_event),
        last_event=_maybe(scan.last_event),
        last_commit=_maybe(scan.last_commit),
        min_xid=scan.min_xid,
        max_xid=scan.max_xid,
    )


def segment_scan(record: ScanRecord, segment: Segment, *, system: int, magic: int) -> SegmentScan | None:
    """The scan that a record tells, `system` and `magic` being those of the file's first page.

    None when it uses a word that this release does not know: then the segment is to be opened.
    """
    try:
        ending = Ending(record.ending)
        prepared = tuple(_event(fact) for fact in record.prepared)
        first_event, last_event = _maybe_event(record.first_event), _maybe_event(record.last_event)
        last_commit = _maybe_event(record.last_commit)
    except ValueError:
        return None
    return SegmentScan(
        segment=segment,
        system=system,
        magic=magic,
        ending=ending,
        problem=record.problem,
        first=record.first,
        first_prev=record.first_prev,
        last=record.last,
        end=record.end,
        records=record.records,
        commits=record.commits,
        aborts=record.aborts,
        prepares=record.prepares,
        min_time=record.min_time,
        max_time=record.max_time,
        first_event=first_event,
        last_event=last_event,
        last_commit=last_commit,
        backward_us=record.backward_us,
        restore_points=record.restore_points,
        checkpoints=record.checkpoints,
        parameter_changes=record.limits,
        prepared=prepared,
        switched=record.switched,
        overwritten=record.overwritten,
        min_xid=record.min_xid,
        max_xid=record.max_xid,
    )


def _fact(event: Event) -> EventFact:
    return EventFact(event.kind.value, event.lsn, event.end, event.xid, event.time, event.gid)


def _maybe(event: Event | None) -> EventFact | None:
    return None if event is None else _fact(event)


def _event(fact: EventFact) -> Event:
    """Raises ValueError for an unknown kind."""
    return Event(EventKind(fact.event), fact.lsn, fact.end, fact.xid, fact.time, fact.gid)


def _maybe_event(fact: EventFact | None) -> Event | None:
    return None if fact is None else _event(fact)
