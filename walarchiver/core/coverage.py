"""Which segments are there without a break: runs, gaps, and how far a timeline path reaches.

Rules:
- A set of runs is a sorted tuple in which no two runs of a timeline touch or overlap, so one set
  of segments has exactly one form.
- For each address a path reads the file of the newest timeline that had begun by then
  (`TimelineHistory.timeline_of_segment`; PostgreSQL xlogrecovery.c, XLogFileReadAnyTLI).
- Presence only: whether the bytes fit together is told by scans (restore/core/walk.py).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from walarchiver.core.history import TimelineHistory
from walarchiver.core.segment import Segment, SegmentBytes


@dataclass(frozen=True, slots=True, order=True)
class Run:
    """Archived segments first..last (both included) of one timeline, none missing between."""

    timeline: int
    first: int
    last: int


Runs = tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Reach:
    """How far a path is present from some segment on."""

    last: int | None
    """Number of the last segment before the first missing one; None when the very first is missing."""
    missing: Segment
    """The first segment that is not there; there always is one, the archive being finite."""


def add_segment(runs: Runs, segment: Segment) -> Runs:
    """`runs` with one more segment; unchanged when it was there."""
    return add_run(runs, Run(segment.timeline, segment.number, segment.number))


def without(runs: Runs, segments: Iterable[Segment]) -> Runs:
    """`runs` as if these segments were missing."""
    found = list(runs)
    for segment in segments:
        for at, run in enumerate(found):
            if run.timeline == segment.timeline and run.first <= segment.number <= run.last:
                parts = ((run.first, segment.number - 1), (segment.number + 1, run.last))
                found[at : at + 1] = [Run(run.timeline, low, high) for low, high in parts if low <= high]
                break
    return tuple(found)


def add_run(runs: Runs, run: Run) -> Runs:
    """`runs` with the segments of `run` too, joined with the runs it touches or overlaps."""
    low = bisect_left(runs, Run(run.timeline, 0, 0))
    high = bisect_left(runs, Run(run.timeline + 1, 0, 0))
    first, last = run.first, run.last
    before: list[Run] = []
    after: list[Run] = []
    for other in runs[low:high]:
        if other.last + 1 < run.first:
            before.append(other)
        elif run.last + 1 < other.first:
            after.append(other)
        else:
            first, last = min(first, other.first), max(last, other.last)
    joined = Run(run.timeline, first, last)
    return (*runs[:low], *before, joined, *after, *runs[high:])


def run_with(runs: Runs, segment: Segment) -> Run | None:
    """The run that `segment` belongs to; None when it is not there."""
    place = (segment.timeline, segment.number)
    position = bisect_right(runs, place, key=lambda run: (run.timeline, run.first)) - 1
    if position < 0:
        return None
    run = runs[position]
    inside = run.timeline == segment.timeline and run.first <= segment.number <= run.last
    return run if inside else None


def contains(runs: Runs, segment: Segment) -> bool:
    """Whether `segment` is there."""
    return run_with(runs, segment) is not None


def gaps(runs: Runs) -> Runs:
    """The missing segments between present ones, per timeline, as runs of their own."""
    return tuple(
        Run(here.timeline, here.last + 1, there.first - 1)
        for here, there in pairwise(runs)
        if here.timeline == there.timeline
    )


def lacking(runs: Runs, wanted: Run) -> Runs:
    """The parts of `wanted` that are not there; `wanted` may be empty (last < first)."""
    found: list[Run] = []
    number = wanted.first
    for run in runs:
        if run.timeline == wanted.timeline and run.last >= number and run.first <= wanted.last:
            if run.first > number:
                found.append(Run(wanted.timeline, number, run.first - 1))
            number = run.last + 1
    if number <= wanted.last:
        found.append(Run(wanted.timeline, number, wanted.last))
    return tuple(found)


def gap_names(runs: Runs, size: SegmentBytes) -> tuple[tuple[str, str], ...]:
    """`gaps` as pairs of file names, first and last missing."""
    return run_names(gaps(runs), size)


def run_names(runs: Runs, size: SegmentBytes) -> tuple[tuple[str, str], ...]:
    """The file names of each run's first and last segment."""
    return tuple(
        (Segment(run.timeline, run.first).name(size), Segment(run.timeline, run.last).name(size))
        for run in runs
    )


def segment_on_path(history: TimelineHistory, number: int, size: SegmentBytes) -> Segment:
    """The file that a recovery along `history` reads for segment `number`."""
    return Segment(history.timeline_of_segment(number, size), number)


def coverage_on_path(runs: Runs, history: TimelineHistory, size: SegmentBytes, from_number: int) -> Reach:
    """How far the path is present without a break, beginning with segment `from_number`."""
    number = from_number
    while True:
        segment = segment_on_path(history, number, size)
        run = run_with(runs, segment)
        if run is None:
            return Reach(number - 1 if number > from_number else None, segment)
        until = _last_of_timeline(history, segment.timeline, size)
        number = (run.last if until is None else min(run.last, until)) + 1


def first_after(runs: Runs, history: TimelineHistory, size: SegmentBytes, number: int) -> Segment | None:
    """The first present segment on the path behind segment `number`; None when that was the end.

    This is what tells a hole (more follows) from the end of the archive (nothing follows).
    """
    found: list[Segment] = []
    for run in runs:
        if run.timeline not in history.path:
            continue
        start, until = _span_of_timeline(history, run.timeline, size)
        first = max(run.first, number + 1, start)
        if first <= run.last and (until is None or first <= until):
            found.append(Segment(run.timeline, first))
    return min(found, key=lambda segment: segment.number, default=None)


def _span_of_timeline(history: TimelineHistory, timeline: int, size: SegmentBytes) -> tuple[int, int | None]:
    """First and last segment number that the path reads from `timeline` (None: no end).

    Empty (first > last) for a timeline that a younger one replaces inside its own first segment.
    """
    return history.begin(timeline) // size, _last_of_timeline(history, timeline, size)


def _last_of_timeline(history: TimelineHistory, timeline: int, size: SegmentBytes) -> int | None:
    end = history.end(timeline)
    return None if end is None else end // size - 1
