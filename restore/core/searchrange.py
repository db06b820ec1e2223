"""Which segments of a path can hold the ends of transactions between two times.

Rules:
- A horizon sample (server clock, WAL position) parts the WAL: what ends before the position has an earlier
  time, what ends behind it a later one, but for the moment between taking a commit's time and writing it.
- Clocks are set back at times. The first sample that reaches the start, and the last that has not passed
  the end, bound the range; so a clock that was set back makes it longer, never wrong.
- Between two neighbouring samples segments are opened to find the place, by halves.
- At both ends segments are left out of which the ledger has a scan that shows no event of the asked time.
  In the middle none can be: what happened there may have committed behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from restore.core.horizon import SAMPLE_MARGIN_US
from restore.core.model import Horizon, View
from walarchiver.core.coverage import coverage_on_path, first_after, segment_on_path
from walarchiver.core.history import TimelineHistory
from walarchiver.core.moment import CommitTime
from walarchiver.core.scan import Ending, SegmentScan
from walarchiver.core.segment import Segment

NEAR = 8
"""So many segments more are read rather than opened to be looked at."""

MAX_US = 2**63 - 1

NewestIn = Callable[[int], CommitTime | None]
"""The newest event time of a segment; None when no transaction ends there."""


@dataclass(frozen=True, slots=True)
class SearchRange:
    """Segments first..last of a path, whole; `missing` and `later` when the range goes on behind a gap."""

    first: int
    last: int
    until: int
    """The last segment without a break; records of the range may go on up to here."""
    missing: Segment | None = None
    later: Segment | None = None
    reaches_end: bool = False
    """Whether it goes to the end of what is archived."""

    @property
    def count(self) -> int:
        return self.last - self.first + 1


def samples_on(view: View, path: TimelineHistory) -> list[Horizon]:
    """The samples that belong to the path, in WAL order."""
    found = []
    for sample in view.horizons:
        if sample.timeline in path.path:
            end = path.end(sample.timeline)
            if sample.lsn >= path.begin(sample.timeline) and (end is None or sample.lsn <= end):
                found.append(sample)
    return sorted(found, key=lambda sample: (sample.lsn, sample.time))


def search_range(
    view: View, path: TimelineHistory, from_us: int, to_us: int, newest_in: NewestIn
) -> SearchRange | None:
    """The segments to read; None when nothing of the path is archived."""
    size = view.segment_size
    oldest = first_after(view.runs, path, size, -1)
    if oldest is None:
        return None
    samples = samples_on(view, path)
    before, reached = _first_crossing(samples, from_us)
    low = max(oldest.number, before.lsn // size if before else 0)
    passed = _last_crossing(samples, to_us)
    first = _present(view, path, low)
    if first is None:
        return None
    reach = coverage_on_path(view.runs, path, size, first)
    assert reach.last is not None
    if reached is None or reached.lsn // size - first > NEAR:
        most = reach.last if reached is None else min(reach.last, reached.lsn // size)
        first = _halve(first, most, from_us, newest_in)
    high = None if passed is None else passed.lsn // size
    if high is not None and high <= reach.last:
        return SearchRange(first, max(first, high), reach.last)
    later = first_after(view.runs, path, size, reach.last)
    if later is None:
        return SearchRange(first, reach.last, reach.last, reaches_end=True)
    return SearchRange(first, reach.last, reach.last, reach.missing, later)


def narrowed(
    span: SearchRange, from_us: int, to_us: int, recorded: Callable[[int], SegmentScan | None]
) -> SearchRange:
    """Without the segments at both ends in which nothing of the asked time ended, where that is many."""
    first, last = span.first, span.last
    while first < last and _all_outside(recorded(first), 0, from_us - 1):
        first += 1
    while last > first and _all_outside(recorded(last), to_us + 1, MAX_US):
        last -= 1
    return replace(
        span,
        first=first if first - span.first > NEAR else span.first,
        last=last if span.last - last > NEAR else span.last,
    )


def _all_outside(scan: SegmentScan | None, low: int, high: int) -> bool:
    """Whether a scan tells that every event of its segment has a time low..high."""
    if scan is None or scan.ending is not Ending.WHOLE:
        return False
    if scan.min_time is None or scan.max_time is None:
        return True
    return low <= scan.min_time and scan.max_time <= high


def _present(view: View, path: TimelineHistory, number: int) -> int | None:
    """The first archived segment of the path from `number` on."""
    found = first_after(view.runs, path, view.segment_size, number - 1)
    return None if found is None else found.number


def _first_crossing(samples: Sequence[Horizon], time: int) -> tuple[Horizon | None, Horizon | None]:
    """The last sample before any that shows `time` or later, and that one."""
    before: Horizon | None = None
    for sample in samples:
        if sample.time >= time:
            return before, sample
        before = sample
    return before, None


def _last_crossing(samples: Sequence[Horizon], time: int) -> Horizon | None:
    """The first of the samples at the end that all lie behind `time`."""
    found: Horizon | None = None
    for sample in reversed(samples):
        if sample.time <= time + SAMPLE_MARGIN_US:
            break
        found = sample
    return found


def _halve(first: int, most: int, time: int, newest_in: NewestIn) -> int:
    """A segment from first..most before which nothing of `time` or later ended; close to the first such."""
    low, high = first, most
    while high - low > NEAR:
        middle = (low + high) // 2
        newest = None
        for number in range(middle, high):
            newest = newest_in(number)
            if newest is not None:
                break
        if newest is None or newest >= time:
            high = middle
        else:
            low = middle
    return low


def before_of(view: View, path: TimelineHistory, number: int) -> int | None:
    """The archived segment just before `number` on the path; None when that one is missing."""
    if number == 0:
        return None
    segment = segment_on_path(path, number - 1, view.segment_size)
    reach = coverage_on_path(view.runs, path, view.segment_size, number - 1)
    return segment.number if reach.last is not None else None
