"""Walk: the WAL that can be replayed from a segment on, along one timeline path.

Rules (each is something that PostgreSQL would stumble over, or worse, would not):
- Segments are taken one after the other while the path's file is recorded, of this cluster, and its
  first record links back to the last record before it. The first file that does not fit ends it.
- A segment whose walk ends BAD, or ZERO without a switch, counts up to its last good record and
  ends the walk: a damaged file is a hole. OPEN ends it too: the record's rest is not archived.
- A record that a crash tore and the next segment overwrote (OVERWRITE_CONTRECORD) ends nothing.
- What is behind the end decides what the end is: nothing recorded = the archive simply ends there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from restore.core.model import BaseBackup, View, WalKnowledge
from walarchiver.core.coverage import coverage_on_path, first_after, segment_on_path
from walarchiver.core.history import TimelineHistory
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime
from walarchiver.core.scan import Ending, Event, ParameterChange, SegmentScan
from walarchiver.core.segment import Segment

PAGE_BYTES = 8192
"""XLOG_BLCKSZ of every build that is supported."""


class EndKind(Enum):
    """Why a walk ends."""

    ARCHIVE = auto()
    """Nothing later is recorded on the path: the true end."""
    HOLE = auto()
    """A file is missing, and later ones are there."""
    DAMAGE = auto()
    """A recorded file does not carry on where the one before it ended."""
    MINIMAL = auto()
    """From here on the server wrote with wal_level=minimal, which recovery cannot follow."""


@dataclass(frozen=True, slots=True)
class WalkEnd:
    """Where and why a walk ends."""

    kind: EndKind
    segment: Segment
    """The first file that is missing or damaged, or that holds the change to minimal."""
    detail: str = ""
    """For DAMAGE: what does not fit."""
    later: Segment | None = None
    """The first recorded segment behind it on the path."""


@dataclass(frozen=True, slots=True)
class Walk:
    """What can be replayed from a base backup's first segment on."""

    first: int
    """Number of the first segment."""
    scans: Sequence[SegmentScan]
    """One per segment, without a break; may be empty."""
    end: Lsn
    """C of the rules: end of the last whole record; the start of `scans` when there is none."""
    last: Lsn | None
    """Start of the last whole record; None when there is none, or when MINIMAL cut it off."""
    finish: WalkEnd

    @property
    def past(self) -> int:
        """Number of the first segment that is not part of the walk."""
        return self.first + len(self.scans)


class Branch:
    """One path with all that is known along it. Asks for every scan once and remembers the walks."""

    def __init__(self, view: View, path: TimelineHistory, knowledge: WalKnowledge) -> None:
        self.view = view
        self.path = path
        self.size = view.segment_size
        self._knowledge = knowledge
        self._scans: dict[int, SegmentScan] = {}
        self._chains: dict[int, tuple[list[SegmentScan], WalkEnd]] = {}
        self._walks: dict[str, Walk] = {}

    def candidates(self) -> tuple[BaseBackup, ...]:
        """The base backups that lie on this path, newest first.

        One that ended behind the point where the path leaves its timeline holds another history.
        """
        found = []
        for backup in self.view.backups:
            if backup.timeline not in self.path.path:
                continue
            end = self.path.end(backup.timeline)
            if end is None or backup.stop_lsn <= end:
                found.append(backup)
        return tuple(sorted(found, key=lambda b: (b.start_lsn, b.stop_lsn, b.id), reverse=True))

    def scan(self, number: int) -> SegmentScan:
        """The scan of a recorded segment."""
        if number not in self._scans:
            self._scans[number] = self._knowledge.scan(self.path, number)
        return self._scans[number]

    def events(self, number: int, low: int, high: int) -> list[Event]:
        """The events in segment `number` whose records start in low..high (high excluded)."""
        if self.scan(number).first_event is None:
            return []
        return [event for event in self._knowledge.events(self.path, number) if low <= event.lsn < high]

    def next_record(self, lsn: Lsn) -> Lsn | None:
        """Start of the first record at or after `lsn`."""
        return self._knowledge.next_record(self.path, lsn)

    def segment(self, number: int) -> Segment:
        """The file that the path reads for an address."""
        return segment_on_path(self.path, number, self.size)

    def timeline_at(self, lsn: Lsn) -> int:
        """The timeline of the path that a record starting at `lsn` belongs to."""
        return max(timeline for timeline in self.path.path if self.path.begin(timeline) <= lsn)

    def walk(self, backup: BaseBackup) -> Walk:
        """What can be replayed from `backup` on."""
        if backup.id not in self._walks:
            self._walks[backup.id] = self._walk(backup.start_lsn)
        return self._walks[backup.id]

    def _walk(self, start: Lsn) -> Walk:
        first = start // self.size
        scans, finish = self._chain(first)
        change = _first_minimal(scans, start)
        if change is not None:
            number = change.lsn // self.size
            later = first_after(self.view.runs, self.path, self.size, number - 1)
            minimal = WalkEnd(EndKind.MINIMAL, self.segment(number), later=later)
            return Walk(first, scans[: number - first + 1], change.lsn, None, minimal)
        end = max((scan.end for scan in scans if scan.last is not None), default=Lsn(first * self.size))
        last = next((scan.last for scan in reversed(scans) if scan.last is not None), None)
        return Walk(first, scans, end, last, finish)

    def _chain(self, first: int) -> tuple[list[SegmentScan], WalkEnd]:
        """The scans of the segments that fit together from `first` on, and what ends them."""
        if first in self._chains:
            return self._chains[first]
        reach = coverage_on_path(self.view.runs, self.path, self.size, first)
        scans: list[SegmentScan] = []
        finish: WalkEnd | None = None
        last: Lsn | None = None
        for number in range(first, first if reach.last is None else reach.last + 1):
            scan = self.scan(number)
            problem = self._misfit(scan, last)
            if problem is not None:
                finish = self._damage(number, problem)
                break
            if scans and number in self._chains:
                known, finish = self._chains[number]
                scans = scans + known
                break
            scans.append(scan)
            last = scan.last if scan.last is not None else last
            finish = self._bad_end(scan, number, last)
            if finish is not None:
                break
        if finish is None:
            later = first_after(self.view.runs, self.path, self.size, reach.missing.number)
            kind = EndKind.ARCHIVE if later is None else EndKind.HOLE
            finish = WalkEnd(kind, reach.missing, later=later)
        self._chains[first] = (scans, finish)
        return self._chains[first]

    def _misfit(self, scan: SegmentScan, last: Lsn | None) -> str | None:
        """Why a segment does not go on from the record at `last`; None when it does."""
        if scan.first is None:
            return None
        if scan.system != self.view.system:
            return f"it belongs to the cluster with system identifier {scan.system}"
        if last is not None and scan.first_prev != last:
            return "its first record does not follow the last record before it"
        return None

    def _bad_end(self, scan: SegmentScan, number: int, last: Lsn | None) -> WalkEnd | None:
        """What ends the walk inside or right behind a segment; None when it goes on."""
        match scan.ending:
            case Ending.WHOLE:
                return None
            case Ending.ZERO:
                return None if scan.switched else self._damage(number, "zeros where a record should start")
            case Ending.BAD:
                return self._damage(number, scan.problem)
            case Ending.OPEN:
                return self._open_end(number, last)

    def _open_end(self, number: int, last: Lsn | None) -> WalkEnd | None:
        """What ends the walk behind a record that no later file completes."""
        number += 1
        while coverage_on_path(self.view.runs, self.path, self.size, number).last is not None:
            after = self.scan(number)
            if after.first is None and after.ending in (Ending.WHOLE, Ending.OPEN):
                number += 1  # it holds nothing but more of the same record
                continue
            if after.overwritten and self._misfit(after, last) is None:
                return None
            return self._damage(number, "it does not complete the record that it should carry on")
        later = first_after(self.view.runs, self.path, self.size, number)
        kind = EndKind.ARCHIVE if later is None else EndKind.HOLE
        return WalkEnd(kind, self.segment(number), later=later)

    def _damage(self, number: int, problem: str) -> WalkEnd:
        later = first_after(self.view.runs, self.path, self.size, number)
        return WalkEnd(EndKind.DAMAGE, self.segment(number), problem, later)


def _first_minimal(scans: Sequence[SegmentScan], start: Lsn) -> ParameterChange | None:
    """The first change to wal_level=minimal at or after `start`."""
    for scan in scans:
        for change in scan.parameter_changes:
            if change.wal_level == 0 and change.lsn >= start:
                return change
    return None


def newest_time_before(branch: Branch, walk: Walk, lsn: Lsn) -> CommitTime | None:
    """The newest time of any walked event that starts before `lsn`; None when there is none."""
    newest: CommitTime | None = None
    for scan in walk.scans:
        number = scan.segment.number
        if number * branch.size >= lsn:
            break
        times = [scan.max_time] if (number + 1) * branch.size <= lsn else []
        if not times:
            times = [event.time for event in branch.events(number, 0, lsn)]
        newest = max((time for time in (*times, newest) if time is not None), default=None)
    return newest
