"""Walk: the WAL that can be replayed from a segment on, along one timeline path.

Rules (each is something that PostgreSQL would stumble over, or worse, would not):
- Segments are taken one after the other while the path's file is recorded, of this cluster, and its
  first record links back to the last record before it. The first file that does not fit ends it.
- A segment whose walk ends BAD, or ZERO without a switch, counts up to its last good record and
  ends the walk: a damaged file is a hole. OPEN ends it too: the record's rest is not archived.
- A record that a crash tore and the next segment overwrote (OVERWRITE_CONTRECORD) ends nothing.
- What is behind the end decides what the end is: nothing recorded = the archive simply ends there.
- A stretch of which the index says that it is whole and fits together is taken as one; whether its first
  segment fits to what is before it is looked at here, and so is the segment behind its last.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from restore.core.model import BaseBackup, View, WalKnowledge
from restore.core.scanindex import ListedSamples, SampleIndex, ScanIndex
from walarchiver.core.coverage import coverage_on_path, first_after, segment_on_path
from walarchiver.core.history import TimelineHistory
from walarchiver.core.lsn import Lsn
from walarchiver.core.scan import Ending, Event, ParameterChange, SegmentScan
from walarchiver.core.segment import Segment

PAGE_BYTES = 8192
"""XLOG_BLCKSZ of every build that is supported."""
_LAST_NUMBER = 2**63 - 1


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
class Stretch:
    """Segments first..last of one timeline that the index sums up."""

    timeline: int
    first: int
    last: int


Piece = SegmentScan | Stretch


def first_of(piece: Piece) -> int:
    """Number of a piece's first segment."""
    return piece.first if isinstance(piece, Stretch) else piece.segment.number


def last_of(piece: Piece) -> int:
    """Number of a piece's last segment."""
    return piece.last if isinstance(piece, Stretch) else piece.segment.number


@dataclass(frozen=True, slots=True)
class Walk:
    """What can be replayed from a base backup's first segment on."""

    first: int
    """Number of the first segment."""
    pieces: Sequence[Piece]
    """Every segment once, in order, without a break; may be empty."""
    end: Lsn
    """C of the rules: end of the last whole record; the start of `pieces` when there is none."""
    last: Lsn | None
    """Start of the last whole record; None when there is none, or when MINIMAL cut it off."""
    finish: WalkEnd

    @property
    def past(self) -> int:
        """Number of the first segment that is not part of the walk."""
        return last_of(self.pieces[-1]) + 1 if self.pieces else self.first

    def between(self, low: int, high: int) -> Iterator[Piece]:
        """The pieces, cut to segments low..high (high excluded)."""
        for position in range(bisect_left(self.pieces, low, key=last_of), len(self.pieces)):
            if first_of(self.pieces[position]) >= high:
                return
            yield _cut(self.pieces[position], low, high)

    def backwards(self, low: int, high: int) -> Iterator[Piece]:
        """As `between`, last piece first."""
        for position in range(bisect_left(self.pieces, high, key=first_of) - 1, -1, -1):
            if last_of(self.pieces[position]) < low:
                return
            yield _cut(self.pieces[position], low, high)


def _cut(piece: Piece, low: int, high: int) -> Piece:
    if not isinstance(piece, Stretch) or (low <= piece.first and piece.last < high):
        return piece
    return Stretch(piece.timeline, max(low, piece.first), min(high - 1, piece.last))


@dataclass(frozen=True, slots=True)
class _Chain:
    """The pieces that fit together from some segment on, and what ends them."""

    pieces: Sequence[Piece]
    finish: WalkEnd


class Branch:
    """One path with all that is known along it. Asks for every scan once and remembers the walks."""

    def __init__(self, view: View, path: TimelineHistory, knowledge: WalKnowledge) -> None:
        self.view = view
        self.path = path
        self.size = view.segment_size
        self._knowledge = knowledge
        self._scans: dict[int, SegmentScan] = {}
        self._chains: dict[int, _Chain] = {}
        self._behind: dict[int, tuple[_Chain, int]] = {}
        """By the number of the segment behind a stretch: the chain, and how many of its pieces are before."""
        self._minimal: dict[int, Sequence[int]] = {}
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

    @property
    def index(self) -> ScanIndex:
        """What sums up stretches; there are none without it."""
        assert self._knowledge.index is not None
        return self._knowledge.index

    @property
    def samples(self) -> SampleIndex:
        """The horizon samples of every timeline."""
        known = self._knowledge.samples
        return ListedSamples(self.view.horizons) if known is None else known

    def _walk(self, start: Lsn) -> Walk:
        first = start // self.size
        chain = self._chain(first)
        change = self._first_minimal(chain.pieces, start)
        if change is not None:
            number = change.lsn // self.size
            later = first_after(self.view.runs, self.path, self.size, number - 1)
            minimal = WalkEnd(EndKind.MINIMAL, self.segment(number), later=later)
            whole = Walk(first, chain.pieces, change.lsn, None, minimal)
            return Walk(first, (*whole.between(first, number), self.scan(number)), change.lsn, None, minimal)
        ends = [self.scan(last_of(p)) if isinstance(p, Stretch) else p for p in chain.pieces]
        end = max((scan.end for scan in ends if scan.last is not None), default=Lsn(first * self.size))
        last = next((scan.last for scan in reversed(ends) if scan.last is not None), None)
        return Walk(first, chain.pieces, end, last, chain.finish)

    def _chain(self, first: int) -> _Chain:
        """The pieces that fit together from segment `first` on, and what ends them."""
        if first in self._chains:
            return self._chains[first]
        reach = coverage_on_path(self.view.runs, self.path, self.size, first)
        pieces: list[Piece] = []
        finish: WalkEnd | None = None
        last: Lsn | None = None
        number = first
        while finish is None and reach.last is not None and number <= reach.last:
            stretch = self._stretch(number)
            if pieces or stretch is None:
                problem = self._misfit(self.scan(number), last)
                if problem is not None:
                    finish = self._damage(number, problem)
                    break
            if pieces and number in self._chains:
                known, passed = self._chains[number], 0
            elif stretch is None:
                scan = self.scan(number)
                pieces.append(scan)
                last = scan.last if scan.last is not None else last
                finish = self._bad_end(scan, number, last)
                number += 1
                continue
            else:
                pieces.append(stretch)
                last = self.scan(stretch.last).last
                number = stretch.last + 1
                if number not in self._behind:
                    continue
                known, passed = self._behind[number]
            pieces.extend(known.pieces[passed:])
            finish = known.finish
        if finish is None:
            later = first_after(self.view.runs, self.path, self.size, reach.missing.number)
            kind = EndKind.ARCHIVE if later is None else EndKind.HOLE
            finish = WalkEnd(kind, reach.missing, later=later)
        chain = self._chains[first] = _Chain(pieces, finish)
        for count, piece in enumerate(pieces, 1):
            if isinstance(piece, Stretch):
                self._behind.setdefault(piece.last + 1, (chain, count))
        return chain

    def _stretch(self, number: int) -> Stretch | None:
        """The stretch that begins with segment `number`; None when it must be looked at itself.

        The last segment that the path reads of a timeline is none of it, since its last record may end
        in a file of the next.
        """
        if self._knowledge.index is None:
            return None
        timeline = self.path.timeline_of_segment(number, self.size)
        last = self._knowledge.index.whole_until(timeline, number)
        left = self.path.end(timeline)
        if last is not None and left is not None:
            last = min(last, left // self.size - 2)
        return None if last is None or last < number else Stretch(timeline, number, last)

    def _first_minimal(self, pieces: Sequence[Piece], start: Lsn) -> ParameterChange | None:
        """The first change to wal_level=minimal at or after `start`."""
        for piece in pieces:
            for scan in self._with_minimal(piece) if isinstance(piece, Stretch) else (piece,):
                for change in scan.parameter_changes:
                    if change.wal_level == 0 and change.lsn >= start:
                        return change
        return None

    def _with_minimal(self, stretch: Stretch) -> Iterator[SegmentScan]:
        timeline = stretch.timeline
        if timeline not in self._minimal:
            self._minimal[timeline] = self.index.listing(timeline, 0, _LAST_NUMBER, "minimal")
        for number in self._minimal[timeline]:
            if stretch.first <= number <= stretch.last:
                yield self.scan(number)

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
