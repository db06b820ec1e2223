"""What the ledger alone tells of a cluster's time: backups, runs of WAL and what is in them, holes, forks.

Rules:
- No WAL is opened: what is in it is told by recorded scans (`contents.py`), in the server's time. A segment's
  own place in time is when it was recorded (on the archiving host's clock): what it holds is older.
- What can be restored is told as `status` tells it (`walarchiver/restorable.py`).
- Holes are looked for along every timeline's path, so one that lies across a fork is seen too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from walarchiver.assembly import Archive
from walarchiver.core.coverage import Run, Runs, coverage_on_path, first_after, segment_on_path
from walarchiver.core.history import TimelineHistory
from walarchiver.core.lsn import Lsn
from walarchiver.core.segment import Segment
from walarchiver.format.records import BackupRecord, HistoryRecord, WalRecord
from walarchiver.operate.contents import Activity, Contents, NamedPoint, PreparedSpan, Told
from walarchiver.production import production_timeline
from walarchiver.restorable import MISFIT, Spans, damaged, misfits
from walarchiver.restorable import Span as Span


@dataclass(frozen=True, slots=True)
class Stretch:
    """Segments of one timeline without a break, and when the first and the last were recorded."""

    timeline: int
    first: str
    last: str
    segments: int
    from_us: int
    to_us: int
    told: Told = field(default_factory=Told)


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
class Damage:
    """A segment that is archived and cannot be followed to its end."""

    timeline: int
    name: str
    problem: str
    at_us: int
    """When it was recorded."""


@dataclass(frozen=True, slots=True)
class Chronicle:
    """All of it, each list oldest first. `current`: the timeline that production is on."""

    current: int
    backups: tuple[BackupRecord, ...]
    stretches: tuple[Stretch, ...]
    holes: tuple[Hole, ...]
    forks: tuple[ForkPoint, ...]
    spans: tuple[Span, ...]
    damage: tuple[Damage, ...] = ()
    points: tuple[NamedPoint, ...] = ()
    prepared: tuple[PreparedSpan, ...] = ()
    """On production's path."""
    activity: tuple[Activity, ...] = ()

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
            tuple(d for d in self.damage if touches(d.at_us, d.at_us)),
            tuple(p for p in self.points if touches(p.at_us, p.at_us)),
            tuple(p for p in self.prepared if touches(p.begun.time, p.ended.time if p.ended else to_us)),
            tuple(a for a in self.activity if touches(a.from_us, a.to_us)),
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
        self._spans = Spans(archive)
        self._contents = Contents(archive.catalog, int(archive.system), self._size)
        self._damaged = (*damaged(archive), *((segment, MISFIT) for segment in misfits(archive)))

    def read(self) -> Chronicle:
        holes = {(hole.first, hole.last): hole for path in self._spans.paths() for hole in self._holes(path)}
        current = production_timeline(self._catalog, self._size) or 1
        path = self._histories.get(current, TimelineHistory(current))
        return Chronicle(
            current=current,
            backups=tuple(self._catalog.backups()),
            stretches=tuple(self._stretch(run) for run in self._runs),
            holes=tuple(sorted(holes.values(), key=lambda hole: (hole.from_us, hole.first))),
            forks=tuple(self._forks()),
            spans=self._spans.all(),
            damage=tuple(self._damage()),
            points=tuple(point for run in self._runs for point in self._contents.points(run)),
            prepared=tuple(self._contents.prepared(path, self._runs)),
            activity=tuple(one for run in self._runs for one in self._contents.activity(run)),
        )

    def _damage(self) -> Iterator[Damage]:
        for segment, problem in self._damaged:
            yield Damage(segment.timeline, segment.name(self._size), problem, at_us=self._recorded(segment))

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
            self._contents.told(run),
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
