"""What the ledger alone tells of a cluster's time: backups, runs of WAL, holes, forks, restorable spans.

Rules:
- No WAL is opened, so nothing is said about what is in it. A segment's place in time is when it was
  recorded (on the archiving host's clock): what it holds is older.
- A span is what the horizon proves behind a base backup: every second in it can be restored. Between
  what is proven and the end of the WAL there may be more; `plan`, which opens the WAL, knows.
- Holes are looked for along every timeline's path, so one that lies across a fork is seen too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from restore.core.horizon import SAMPLE_MARGIN_US
from walarchiver.assembly import Archive
from walarchiver.core.coverage import Run, Runs, coverage_on_path, first_after, segment_on_path
from walarchiver.core.history import TimelineHistory
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime
from walarchiver.core.segment import Segment
from walarchiver.format.records import BackupRecord, HistoryRecord, WalRecord
from walarchiver.pathsamples import PathSamples
from walarchiver.production import production_timeline
from walarchiver.status import before_fork


@dataclass(frozen=True, slots=True)
class Stretch:
    """Segments of one timeline without a break, and when the first and the last were recorded."""

    timeline: int
    first: str
    last: str
    segments: int
    from_us: int
    to_us: int


@dataclass(frozen=True, slots=True)
class Hole:
    """Missing segments on a path; `from_us` and `to_us`: when their neighbours were recorded."""

    timeline: int
    first: str
    last: str
    segments: int
    from_us: int
    to_us: int


@dataclass(frozen=True, slots=True)
class ForkPoint:
    """A timeline left its parent at `switch`; its history file was recorded at `at_us`."""

    timeline: int
    parent: int
    switch: Lsn
    at_us: int


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
class Chronicle:
    """All of it, each list oldest first. `current`: the timeline that production is on."""

    current: int
    backups: tuple[BackupRecord, ...]
    stretches: tuple[Stretch, ...]
    holes: tuple[Hole, ...]
    forks: tuple[ForkPoint, ...]
    spans: tuple[Span, ...]

    def began_us(self) -> int | None:
        """The oldest moment that anything is known of."""
        times = [backup.start_time for backup in self.backups] + [one.from_us for one in self.stretches]
        return min(times, default=None)

    def within(self, from_us: int, to_us: int) -> Chronicle:
        """What touches the moments from `from_us` to `to_us`."""

        def touches(first: int, last: int | None) -> bool:
            return first <= to_us and (first if last is None else last) >= from_us

        return Chronicle(
            self.current,
            tuple(b for b in self.backups if touches(b.start_time, b.stop_time)),
            tuple(s for s in self.stretches if touches(s.from_us, s.to_us)),
            tuple(h for h in self.holes if touches(h.from_us, h.to_us)),
            tuple(f for f in self.forks if touches(f.at_us, f.at_us)),
            tuple(s for s in self.spans if touches(s.from_us, s.to_us)),
        )


def chronicle_of(archive: Archive) -> Chronicle:
    """Read it from an archive whose ledger has just been read."""
    return _Reader(archive).read()


class _Reader:
    def __init__(self, archive: Archive) -> None:
        self._catalog = archive.catalog
        self._size = archive.segment_size
        self._runs: Runs = tuple(Run(*run) for run in archive.catalog.runs())
        self._histories = archive.catalog.histories()
        self._samples = PathSamples(archive.catalog, self._size)
        self._backups = archive.catalog.backups()

    def read(self) -> Chronicle:
        paths = list(self._paths())
        holes = {(hole.first, hole.last): hole for path in paths for hole in self._holes(path)}
        spans = {(span.backup, span.timeline): span for path in paths for span in self._spans(path)}
        return Chronicle(
            current=production_timeline(self._catalog, self._size) or 1,
            backups=tuple(self._backups),
            stretches=tuple(self._stretch(run) for run in self._runs),
            holes=tuple(sorted(holes.values(), key=lambda hole: (hole.from_us, hole.first))),
            forks=tuple(self._forks()),
            spans=tuple(sorted(spans.values(), key=lambda span: (span.from_us, span.timeline))),
        )

    def _paths(self) -> Iterator[TimelineHistory]:
        """One path per timeline that anything is recorded of."""
        timelines = {run.timeline for run in self._runs} | {*self._histories}
        for timeline in sorted(timelines):
            yield self._histories.get(timeline, TimelineHistory(timeline))

    def _recorded(self, segment: Segment) -> int:
        return self._catalog.recorded_us(WalRecord.kind, segment.name(self._size)) or 0

    def _stretch(self, run: Run) -> Stretch:
        first, last = Segment(run.timeline, run.first), Segment(run.timeline, run.last)
        return Stretch(
            run.timeline,
            first.name(self._size),
            last.name(self._size),
            run.last - run.first + 1,
            self._recorded(first),
            self._recorded(last),
        )

    def _holes(self, path: TimelineHistory) -> Iterator[Hole]:
        start = first_after(self._runs, path, self._size, -1)
        while start is not None:
            reach = coverage_on_path(self._runs, path, self._size, start.number)
            assert reach.last is not None
            before = segment_on_path(path, reach.last, self._size)
            start = first_after(self._runs, path, self._size, reach.last)
            if start is not None:
                last = segment_on_path(path, start.number - 1, self._size)
                yield Hole(
                    reach.missing.timeline,
                    reach.missing.name(self._size),
                    last.name(self._size),
                    start.number - reach.missing.number,
                    *sorted((self._recorded(before), self._recorded(start))),
                )

    def _forks(self) -> Iterator[ForkPoint]:
        for timeline, history in sorted(self._histories.items()):
            fork = history.forks[-1]
            name = f"{timeline:08X}.history"
            at_us = self._catalog.recorded_us(HistoryRecord.kind, name) or 0
            yield ForkPoint(timeline, fork.parent, fork.switch, at_us)

    def _spans(self, path: TimelineHistory) -> Iterator[Span]:
        for backup in sorted(self._backups, key=lambda backup: backup.stop_lsn, reverse=True):
            if not before_fork(path, backup.timeline, backup.stop_lsn):
                continue
            reach = coverage_on_path(self._runs, path, self._size, backup.start_lsn // self._size)
            if reach.last is None or (reach.last + 1) * self._size < backup.stop_lsn:
                continue
            end = Lsn((reach.last + 1) * self._size)
            seen = self._samples.newest(path, backup.stop_lsn, end)
            until = None if seen is None else CommitTime(seen - SAMPLE_MARGIN_US)
            if until is not None and until < backup.stop_time:
                until = None
            last = segment_on_path(path, reach.last, self._size).name(self._size)
            yield Span(backup.backup, path.timeline, backup.stop_time, until, last)
