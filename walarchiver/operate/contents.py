"""What recorded scans tell of the WAL in an archive: commits, restore points, prepared transactions, damage.

Rules:
- No WAL is opened and no key is needed: sums come from the index over scans, single facts from the scans.
- What has no scan is counted and not guessed at; many segments in a row that are in no chain count as such.
- Lists are bounded, the newest being kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from walarchiver.catalog import Catalog
from walarchiver.core.coverage import Run
from walarchiver.core.history import TimelineHistory
from walarchiver.core.lsn import Lsn
from walarchiver.core.scan import Event, EventKind, RestorePoint, SegmentScan
from walarchiver.core.segment import Segment, SegmentBytes
from walarchiver.core.sums import NOTHING, sums_of
from walarchiver.format.records import WalRecord
from walarchiver.format.scans import segment_scan

LISTED_MAX = 100
"""Restore points of a timeline, and prepared transactions that ended."""
SINGLES_MAX = 64
"""So many segments between two chains are looked up one by one."""
ROWS_MAX = 2000
"""Rows that tell where the events of a stretch lie in time."""


@dataclass(frozen=True, slots=True)
class Told:
    """What is known of the transactions that end in a stretch. Times are the database server's."""

    scanned: int = 0
    """Segments that this rests on."""
    commits: int = 0
    first_us: int | None = None
    """Time of the first event in the order of the WAL; `last_us` likewise."""
    last_us: int | None = None
    last_commit: Event | None = None


@dataclass(frozen=True, slots=True)
class NamedPoint:
    """A restore point."""

    timeline: int
    name: str
    lsn: Lsn
    at_us: int


@dataclass(frozen=True, slots=True)
class PreparedSpan:
    """A transaction that stayed prepared beyond the segment that prepared it; `ended` None: it still is."""

    begun: Event
    ended: Event | None


@dataclass(frozen=True, slots=True)
class Activity:
    """Transactions ended on a timeline between these two times, at both of them at least."""

    timeline: int
    from_us: int
    to_us: int
    dense: bool
    """Whether that is one of many stretches, so that what is between counts as active too."""


class Contents:
    """Answers about one server's segments."""

    def __init__(self, catalog: Catalog, system: int, size: SegmentBytes) -> None:
        self._catalog = catalog
        self._size = size
        self._index = catalog.chronology(system, size)

    def told(self, run: Run) -> Told:
        """What the scans of a run of segments tell together."""
        sums, scanned, last_commit = NOTHING, 0, None
        for piece in self._pieces(run):
            if isinstance(piece, SegmentScan):
                sums, scanned = sums.followed_by(sums_of(piece)), scanned + 1
                last_commit = piece.last_commit or last_commit
                continue
            sums = sums.followed_by(self._index.sums(piece.timeline, piece.first, piece.last))
            scanned += piece.last - piece.first + 1
            number = self._index.last_with_commits(piece.timeline, piece.first, piece.last)
            found = None if number is None else self._scan(Segment(piece.timeline, number))
            last_commit = last_commit if found is None else found.last_commit
        return Told(scanned, sums.commits, sums.first_time, sums.last_time, last_commit)

    def activity(self, run: Run) -> Iterator[Activity]:
        """When transactions ended in a run of segments."""
        for piece in self._pieces(run):
            if isinstance(piece, SegmentScan):
                if piece.min_time is not None and piece.max_time is not None:
                    yield Activity(run.timeline, piece.min_time, piece.max_time, dense=False)
                continue
            rows = self._index.times(piece.timeline, piece.first, piece.last, ROWS_MAX)
            for segments, oldest, newest in rows:
                yield Activity(run.timeline, oldest, newest, dense=segments > 1)

    def points(self, run: Run) -> Iterator[NamedPoint]:
        """The last restore points of a run of segments."""
        listed = [(number, name) for number, name in self._index.points(run.timeline, LISTED_MAX)]
        found: dict[Lsn, RestorePoint] = {}
        for number, name in listed:
            scan = self._scan(Segment(run.timeline, number)) if run.first <= number <= run.last else None
            found |= {p.lsn: p for p in (() if scan is None else scan.restore_points) if p.name == name}
        for piece in self._pieces(run):
            if isinstance(piece, SegmentScan):
                found |= {point.lsn: point for point in piece.restore_points}
        for lsn, point in sorted(found.items()):
            yield NamedPoint(run.timeline, point.name, lsn, point.time)

    def prepared(self, path: TimelineHistory, runs: tuple[Run, ...]) -> list[PreparedSpan]:
        """The transactions that stayed prepared on a path: those that still are, and the last that ended."""
        begun: dict[int, Segment] = {}
        ended: deque[tuple[int, Segment, Segment]] = deque(maxlen=LISTED_MAX)
        for segment, steps in self._prepared_steps(path, runs):
            for xid, begins in steps:
                if begins:
                    begun[xid] = segment
                elif xid in begun:
                    ended.append((xid, begun.pop(xid), segment))
        open_ones = [(xid, segment, None) for xid, segment in begun.items()]
        found = [self._span(*one) for one in (*ended, *open_ones)]
        return sorted((one for one in found if one is not None), key=lambda one: one.begun.lsn)

    def _prepared_steps(
        self, path: TimelineHistory, runs: tuple[Run, ...]
    ) -> Iterator[tuple[Segment, list[tuple[int, bool]]]]:
        for timeline in path.path:
            end = path.end(timeline)
            first = path.begin(timeline) // self._size
            for run in (one for one in runs if one.timeline == timeline):
                last = run.last if end is None else min(run.last, end // self._size - 1)
                for piece in self._pieces(Run(timeline, max(first, run.first), last)):
                    if isinstance(piece, SegmentScan):
                        steps = [(one.xid, one.kind is EventKind.PREPARE) for one in piece.prepared]
                        yield piece.segment, steps
                        continue
                    for number, steps in self._index.prepared(timeline, piece.first, piece.last):
                        yield Segment(timeline, number), steps

    def _span(self, xid: int, first: Segment, last: Segment | None) -> PreparedSpan | None:
        begun = self._event(xid, first, begins=True)
        if begun is None:
            return None
        return PreparedSpan(begun, None if last is None else self._event(xid, last, begins=False))

    def _event(self, xid: int, segment: Segment, *, begins: bool) -> Event | None:
        scan = self._scan(segment)
        events = () if scan is None else scan.prepared
        fitting = [one for one in events if one.xid == xid and (one.kind is EventKind.PREPARE) is begins]
        return (fitting[-1] if begins else fitting[0]) if fitting else None

    def _pieces(self, run: Run) -> Iterator[Run | SegmentScan]:
        """The parts of a run that scans tell of, in order: chains, and single segments between them."""
        number = run.first
        if run.last < run.first:
            return
        for first, last in (*self._index.chains(run.timeline, run.first, run.last), (run.last + 1, 0)):
            if first - number <= SINGLES_MAX:
                for single in range(number, first):
                    scan = self._scan(Segment(run.timeline, single))
                    if scan is not None:
                        yield scan
            if last >= first:
                yield Run(run.timeline, first, last)
            number = last + 1

    def _scan(self, segment: Segment) -> SegmentScan | None:
        """The recorded scan of the file in force."""
        file = self._catalog.file(segment.name(self._size))
        record = self._catalog.scan(file.name, file.digest) if isinstance(file, WalRecord) else None
        if record is None or not isinstance(file, WalRecord):
            return None
        return segment_scan(record, segment, system=int(file.page.system), magic=file.page.magic)
