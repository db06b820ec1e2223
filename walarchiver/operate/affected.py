"""What damage means: which restores it makes impossible, told from the ledger alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from walarchiver.core.history import TimelineHistory
from walarchiver.core.lsn import format_lsn
from walarchiver.core.moment import format_rfc3339
from walarchiver.core.segment import (
    BackupHistoryFile,
    HistoryFile,
    PartialFile,
    Segment,
    SegmentBytes,
    SegmentFile,
    parse_wal_file,
)
from walarchiver.errors import NotAWalFile
from walarchiver.format.records import BackupRecord, HorizonRecord
from walarchiver.operate.inventory import EpochItem, FileItem, Item, PartItem


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the ledger records, as far as it decides what damage affects."""

    size: SegmentBytes
    backups: Sequence[BackupRecord]
    histories: dict[int, TimelineHistory]
    horizons: Sequence[HorizonRecord]

    def uses(self, backup: BackupRecord, segment: Segment) -> bool:
        """Whether some restore from `backup` may read `segment`."""
        if segment.number < backup.start_lsn // self.size:
            return False
        paths = [TimelineHistory(backup.timeline), *self.histories.values()]
        return any(
            backup.timeline in path.path
            and segment.timeline in path.path
            and path.timeline_of_segment(segment.number, self.size) == segment.timeline
            for path in paths
        )


def affected_by(item: Item, holdings: Holdings) -> str:
    """A sentence for people."""
    match item:
        case EpochItem():
            return "nothing that was archived with this key can be opened"
        case PartItem(backup, _part):
            finished = any(record.backup == backup for record in holdings.backups)
            return (
                f"no restore can begin with base backup {backup}" if finished else "nothing: never finished"
            )
        case FileItem(record):
            return _of_file(record.name, holdings)


def _of_file(name: str, holdings: Holdings) -> str:
    try:
        file = parse_wal_file(name, holdings.size)
    except NotAWalFile:
        return "nothing: PostgreSQL never asks for such a name"
    match file:
        case HistoryFile(timeline):
            return f"no restore can follow timeline {timeline}"
        case PartialFile():
            return "nothing: no restore reads a partial segment unless told to"
        case BackupHistoryFile():
            return "nothing: no restore reads it"
        case SegmentFile(segment):
            return _of_segment(segment, holdings)


def _of_segment(segment: Segment, holdings: Holdings) -> str:
    using = [backup for backup in holdings.backups if holdings.uses(backup, segment)]
    if not using:
        return "nothing at present: every base backup begins behind it"
    start, end = segment.start(holdings.size), segment.end(holdings.size)
    dead = [backup.backup for backup in using if backup.stop_lsn > start]
    cut = [backup for backup in using if backup.stop_lsn <= start]
    parts = []
    if dead:
        parts.append(f"base backup {', '.join(dead)} cannot be restored at all")
    if cut:
        parts.append(
            f"from base backup {', '.join(backup.backup for backup in cut)} nothing at or behind "
            f"{format_lsn(start)} on timeline {segment.timeline}{_time_of(segment, holdings)} can be reached"
        )
    later = [b for b in holdings.backups if b.start_lsn >= end and segment.timeline <= b.timeline]
    if later:
        first = min(later, key=lambda backup: backup.stop_lsn)
        parts.append(
            f"base backup {first.backup} makes moments from {format_rfc3339(first.stop_time)} reachable"
        )
    else:
        parts.append("take a base backup to make later moments reachable again")
    return "; ".join(parts)


def _time_of(segment: Segment, holdings: Holdings) -> str:
    """The newest sample before the segment says when it began, at the earliest."""
    start = segment.start(holdings.size)
    times = [s.time for s in holdings.horizons if s.timeline == segment.timeline and s.lsn <= start]
    return f" (some moment after {format_rfc3339(max(times))})" if times else ""
