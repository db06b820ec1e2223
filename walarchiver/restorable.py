"""Which seconds can be restored, told from the ledger alone: per base backup, and together per timeline.

Rules:
- Behind a base backup every second is proven up to the newest horizon sample that unbroken WAL covers.
  Between what is proven and the end of the WAL there may be more; `plan`, which opens the WAL, knows.
- A segment whose scan found damage ends the WAL like a missing one, though it is archived. One that is whole
  and does not go on from the segment before it (a replaced one, or another server's) ends it there: what
  begins with it is as good as any.
- Intervals include both ends; those of one timeline are merged where they touch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from restore.core.horizon import SAMPLE_MARGIN_US
from walarchiver.assembly import Archive
from walarchiver.core.coverage import Run, Runs, coverage_on_path, segment_on_path, without
from walarchiver.core.history import TimelineHistory
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime, format_rfc3339
from walarchiver.core.segment import Segment, SegmentBytes
from walarchiver.errors import NotAWalFile
from walarchiver.format.backupchain import whole_chains
from walarchiver.pathsamples import PathSamples


@dataclass(frozen=True, slots=True)
class Span:
    """What a base backup makes restorable on the path to `timeline`.

    `to_us` None: the backup itself can be restored, but no second behind it is proven.
    """

    backup: str
    timeline: int
    from_us: CommitTime
    to_us: CommitTime | None
    last_segment: str


@dataclass(frozen=True, slots=True)
class Recoverable:
    """Every second of these intervals can be restored on the path to `timeline`; oldest first, never none."""

    timeline: int
    intervals: tuple[tuple[CommitTime, CommitTime], ...]

    @property
    def earliest(self) -> CommitTime:
        return self.intervals[0][0]

    @property
    def latest(self) -> CommitTime:
        return self.intervals[-1][1]


@dataclass(frozen=True, slots=True)
class Followable:
    """The WAL of an archive as far as it can be followed, by what scans tell."""

    runs: Runs
    """Segments that can be followed to their end, or are not scanned."""
    misfits: tuple[Segment, ...]
    """Segments that do not go on from the one before."""
    size: SegmentBytes

    def last(self, path: TimelineHistory, first: int) -> int | None:
        """The last segment that can be reached from segment `first` along a path; None when none can."""
        last = coverage_on_path(self.runs, path, self.size, first).last
        if last is None:
            return None
        breaks = (one.number for one in self.misfits if first < one.number <= last and self._joins(path, one))
        return min(breaks, default=last + 1) - 1

    def _joins(self, path: TimelineHistory, segment: Segment) -> bool:
        """Whether the path reads both this segment and the one before from its timeline."""
        numbers = (segment.number - 1, segment.number)
        return all(path.timeline_of_segment(number, self.size) == segment.timeline for number in numbers)


def followable(archive: Archive) -> Followable:
    """What can be followed of an archive whose ledger has just been read."""
    runs = tuple(Run(*run) for run in archive.catalog.runs())
    whole = without(runs, (segment for segment, _problem in damaged(archive)))
    return Followable(whole, misfits(archive), archive.segment_size)


class Spans:
    """Answers about one archive whose ledger has just been read."""

    def __init__(self, archive: Archive) -> None:
        self._size = archive.segment_size
        self._runs: Runs = tuple(Run(*run) for run in archive.catalog.runs())
        self._followable = followable(archive)
        self._histories = archive.catalog.histories()
        self._samples = PathSamples(archive.catalog, self._size)
        self._backups = [chain[-1] for chain in whole_chains(archive.catalog.backups()).values()]

    def paths(self) -> Iterator[TimelineHistory]:
        """One path per timeline that anything is recorded of."""
        for timeline in sorted({run.timeline for run in self._runs} | {*self._histories}):
            yield self._histories.get(timeline, TimelineHistory(timeline))

    def all(self) -> tuple[Span, ...]:
        """Those of every path, oldest first."""
        found = [span for path in self.paths() for span in self.of(path)]
        return tuple(sorted(found, key=lambda span: (span.from_us, span.timeline, span.backup)))

    def of(self, path: TimelineHistory) -> Iterator[Span]:
        """Those of one path, newest base backup first."""
        size = self._size
        for backup in sorted(self._backups, key=lambda backup: backup.stop_lsn, reverse=True):
            if not before_fork(path, backup.timeline, backup.stop_lsn):
                continue
            reached = self._followable.last(path, backup.start_lsn // size)
            if reached is None or (reached + 1) * size < backup.stop_lsn:
                continue
            seen = self._samples.newest(path, backup.stop_lsn, Lsn((reached + 1) * size))
            until = None if seen is None else CommitTime(seen - SAMPLE_MARGIN_US)
            if until is not None and until < backup.stop_time:
                until = None
            last = segment_on_path(path, reached, size).name(size)
            yield Span(backup.backup, path.timeline, backup.stop_time, until, last)


def recoverable(spans: Iterable[Span]) -> tuple[Recoverable, ...]:
    """The proven spans put together, timeline by timeline."""
    found: dict[int, list[tuple[CommitTime, CommitTime]]] = {}
    for span in sorted(spans, key=lambda span: span.from_us):
        if span.to_us is None:
            continue
        mine = found.setdefault(span.timeline, [])
        if mine and span.from_us <= mine[-1][1] + 1:  # the next microsecond, or before it
            mine[-1] = (mine[-1][0], max(mine[-1][1], span.to_us))
        else:
            mine.append((span.from_us, span.to_us))
    return tuple(Recoverable(timeline, tuple(mine)) for timeline, mine in sorted(found.items()))


def recoverable_members(found: Iterable[Recoverable]) -> list[dict[str, object]]:
    """As JSON."""
    return [
        {
            "timeline": one.timeline,
            "earliest": format_rfc3339(one.earliest),
            "latest": format_rfc3339(one.latest),
            "intervals": [
                {"from": format_rfc3339(first), "to": format_rfc3339(last)} for first, last in one.intervals
            ],
        }
        for one in found
    ]


def damaged(archive: Archive) -> Iterator[tuple[Segment, str]]:
    """Segments that are archived and cannot be followed to their end, and why."""
    for scan in archive.catalog.bad_scans():
        with contextlib.suppress(NotAWalFile):
            yield Segment.parse(scan.name, archive.segment_size), scan.problem


MISFIT = "it does not go on from the segment before it"


def misfits(archive: Archive) -> tuple[Segment, ...]:
    """Segments that are whole, as is the one before, and do not go on from it."""
    return tuple(Segment(timeline, number) for timeline, number in archive.catalog.misfits())


def before_fork(path: TimelineHistory, timeline: int, position: Lsn) -> bool:
    """Whether what `timeline` held up to `position` is part of the path."""
    if timeline not in path.path:
        return False
    end = path.end(timeline)
    return end is None or position <= end
