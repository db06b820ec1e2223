"""Draws a chronicle as lanes of text over one time axis, and lists what is drawn below it.

Rules:
- A column is a span of time; what is rarer wins it: a hole over WAL, a fork over both.
- Every mark is explained by the legend and named exactly in the list, so nothing depends on the drawing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from walarchiver.core.lsn import format_lsn
from walarchiver.core.moment import as_datetime
from walarchiver.operate.chronicle import Chronicle, Stretch
from walarchiver.operate.contents import PreparedSpan
from walarchiver.restorable import Span, recoverable

COLUMNS = 72
_LEGEND = (
    "B base backup   = WAL   x missing WAL   ! damaged WAL   Y fork",
    "# every second restorable   ? backup only   c transactions ended   * restore point   p prepared",
)
BUCKET_LEGEND = "v every version of the bucket known (on its store's clock)"
UNKNOWN = (
    "WAL stands where it was recorded, on the archiving host's clock; what is in it is older.",
    "No WAL was opened: commits, restore points and prepared transactions are those that scans recorded.",
    "Whether the recorded bytes are still intact is not known here (`verify` reads them).",
)


@dataclass(frozen=True, slots=True)
class Axis:
    """The drawn span of time, microseconds since 1970, both ends included."""

    from_us: int
    to_us: int

    @property
    def column_us(self) -> float:
        return max(1, self.to_us - self.from_us) / COLUMNS

    def column(self, us: int) -> int:
        """The column of a moment; outside moments fall on the edge."""
        return min(COLUMNS - 1, max(0, int((us - self.from_us) / self.column_us)))

    def has(self, us: int) -> bool:
        return self.from_us <= us <= self.to_us


class _Lane:
    def __init__(self, axis: Axis) -> None:
        self._axis = axis
        self._cells = [" "] * COLUMNS

    def fill(self, mark: str, from_us: int, to_us: int) -> None:
        if from_us <= self._axis.to_us and to_us >= self._axis.from_us:
            for column in range(self._axis.column(from_us), self._axis.column(to_us) + 1):
                self._cells[column] = mark

    def put(self, mark: str, us: int) -> None:
        if self._axis.has(us):
            self._cells[self._axis.column(us)] = mark

    def inside(self, mark: str, from_us: int, to_us: int) -> None:
        """Between two moments that have marks of their own, as far as there is room; else on the later."""
        axis = self._axis
        if from_us > axis.to_us or to_us < axis.from_us:
            return
        first = axis.column(from_us) + 1 if axis.has(from_us) else 0
        last = axis.column(to_us) - 1 if axis.has(to_us) else COLUMNS - 1
        for column in range(first, last + 1) if first <= last else [axis.column(to_us)]:
            self._cells[column] = mark

    def __str__(self) -> str:
        return "".join(self._cells)


def draw(
    chronicle: Chronicle,
    axis: Axis,
    *,
    bucket: Sequence[tuple[int, int]] | None = None,
    more: Sequence[str] = (),
) -> str:
    """The whole picture, ended by what cannot be told.

    `bucket`: spans in which the bucket's versions are known completely, None without a bucket; `more`: lines
    for the list.
    """
    lanes = list(_lanes(chronicle, axis))
    if bucket is not None:
        lanes.append(("bucket", _bucket_lane(bucket, axis)))
    width = max(len(name) for name, _lane in lanes)
    lines = [
        f"from {_time(axis.from_us)} to {_time(axis.to_us)}, a column is {_length(axis.column_us / 1e6)}",
        "",
        *(f"{name:<{width}} |{lane}|" for name, lane in lanes),
        "",
        *_LEGEND,
        *([] if bucket is None else [BUCKET_LEGEND]),
        "",
        *_listed(chronicle),
        *more,
        "",
        *UNKNOWN,
    ]
    return "\n".join(lines)


def _lanes(chronicle: Chronicle, axis: Axis) -> Iterator[tuple[str, _Lane]]:
    backups = _Lane(axis)
    for backup in chronicle.backups:
        backups.put("B", backup.stop_time)
    yield "backups", backups
    forks = {fork.timeline: fork for fork in chronicle.forks}
    for timeline in sorted({one.timeline for one in chronicle.stretches} | {*forks}):
        yield from _told_lanes(chronicle, axis, timeline)
        lane = _Lane(axis)
        for stretch in chronicle.stretches:
            if stretch.timeline == timeline:
                lane.fill("=", stretch.from_us, stretch.to_us)
        for hole in chronicle.holes:
            if hole.timeline == timeline:
                lane.inside("x", hole.from_us, hole.to_us)
        for damage in chronicle.damage:
            if damage.timeline == timeline:
                lane.put("!", damage.at_us)
        if timeline in forks:
            lane.put("Y", forks[timeline].at_us)
        yield f"timeline {timeline}", lane
    for timeline in _restorable_timelines(chronicle):
        lane = _Lane(axis)
        for span in (one for one in chronicle.spans if one.timeline == timeline):
            if span.to_us is None:
                lane.put("?", span.from_us)
        for span in (one for one in chronicle.spans if one.timeline == timeline):
            if span.to_us is not None:
                lane.fill("#", span.from_us, span.to_us)
        yield "restorable" + ("" if timeline == chronicle.current else f" on {timeline}"), lane


def _bucket_lane(spans: Sequence[tuple[int, int]], axis: Axis) -> _Lane:
    lane = _Lane(axis)
    for first, last in spans:
        lane.fill("v", first, last)
    return lane


def _told_lanes(chronicle: Chronicle, axis: Axis, timeline: int) -> Iterator[tuple[str, _Lane]]:
    """What scans tell of a timeline: when transactions ended, and named moments above them."""
    lane = _Lane(axis)
    activity = [one for one in chronicle.activity if one.timeline == timeline]
    for one in activity:
        lane.put("c", one.from_us)
        lane.put("c", one.to_us)
        if one.dense:
            lane.fill("c", one.from_us, one.to_us)
    if activity:
        yield f"commits {timeline}", lane
    if timeline == chronicle.current and chronicle.prepared:
        lane = _Lane(axis)
        for span in chronicle.prepared:
            lane.fill("p", span.begun.time, axis.to_us if span.ended is None else span.ended.time)
        yield "prepared", lane
    points = [one for one in chronicle.points if one.timeline == timeline]
    if points:
        lane = _Lane(axis)
        for point in points:
            lane.put("*", point.at_us)
        yield f"points {timeline}", lane


def _restorable_timelines(chronicle: Chronicle) -> list[int]:
    """Production's path first, then the others that anything can be restored on."""
    others = {span.timeline for span in chronicle.spans} - {chronicle.current}
    return [chronicle.current, *sorted(others)]


def _listed(chronicle: Chronicle) -> Iterator[str]:
    for backup in chronicle.backups:
        yield (
            f"backup      {_time(backup.stop_time)}  {backup.backup}, {backup.method}"
            f"{f' on {backup.prior}' if backup.prior else ''}, timeline "
            f"{backup.timeline}, {format_lsn(backup.start_lsn)} to {format_lsn(backup.stop_lsn)}"
        )
    for stretch in chronicle.stretches:
        yield (
            f"WAL         {_time(stretch.from_us)}  timeline {stretch.timeline}: {stretch.first} to "
            f"{stretch.last} ({stretch.segments:,} segments), recorded until {_time(stretch.to_us)}"
            f"{_told(stretch)}"
        )
    for hole in chronicle.holes:
        yield (
            f"gap         {_time(hole.from_us)}  timeline {hole.timeline}: {hole.first} to {hole.last} "
            f"({hole.segments:,} segments) are missing; WAL goes on at {_time(hole.to_us)}"
        )
    for damage in chronicle.damage:
        yield f"damage      {_time(damage.at_us)}  {damage.name} cannot be followed: {damage.problem}"
    for fork in chronicle.forks:
        yield (
            f"fork        {_time(fork.at_us)}  timeline {fork.timeline} leaves timeline {fork.parent} at "
            f"{format_lsn(fork.switch)}"
        )
    for point in chronicle.points:
        yield (
            f"point       {_time(point.at_us)}  {point.name!r} at {format_lsn(point.lsn)} on timeline "
            f"{point.timeline}"
        )
    for prepared in chronicle.prepared:
        yield f"prepared    {_time(prepared.begun.time)}  {_prepared(prepared)}"
    for span in chronicle.spans:
        yield f"restorable  {_time(span.from_us)}  {_span(span)}"
    for found in recoverable(chronicle.spans):
        for first, last in found.intervals:
            yield (f"recoverable {_time(first)}  every second until {_time(last)}, timeline {found.timeline}")


def _told(stretch: Stretch) -> str:
    """What scans tell of a stretch, as the rest of its line."""
    told = stretch.told
    parts = []
    if told.first_us is not None and told.last_us is not None:
        ended = f"transactions from {_time(told.first_us)} to {_time(told.last_us)}"
        parts.append(f"{told.commits:,} commits, {ended}")
    if told.last_commit is not None:
        parts.append(f"the last commit is transaction {told.last_commit.xid}")
    if told.scanned < stretch.segments:
        parts.append(f"{stretch.segments - told.scanned:,} segments are not scanned")
    return "".join(f"; {part}" for part in parts)


def _prepared(span: PreparedSpan) -> str:
    name = "" if span.begun.gid is None else f"{span.begun.gid!r}, "
    text = f"{name}transaction {span.begun.xid}"
    if span.ended is None:
        return f"{text}, still prepared at the end of the WAL"
    how = "committed" if span.ended.kind.is_commit else "rolled back"
    return f"{text}, {how} at {_time(span.ended.time)}"


def _span(span: Span) -> str:
    where = f"from backup {span.backup} on timeline {span.timeline}, WAL up to {span.last_segment}"
    if span.to_us is None:
        return f"the backup's own end only; no second behind it is proven yet ({where})"
    return f"every second until {_time(span.to_us)} ({where})"


def _time(us: int) -> str:
    return f"{as_datetime(us):%Y-%m-%d %H:%M:%S}Z"


def _length(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
