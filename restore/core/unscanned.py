"""Deciding without opening long stretches of WAL that have no scan and lie behind what is asked for.

Rules:
- Segments that were archived by an earlier release have no scan, and have to be opened to be walked. For a
  moment or a position that lies before such a stretch, nothing in it changes where replay ends.
- So the planner first takes the WAL as if it ended before the stretch. That answer counts when replay ends
  before a record inside; else everything is looked at.
- What it then cannot say is said: commits behind the stop, the end of the WAL, and clock steps there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from restore.core.model import AtLsn, AtTime, Decision, Run, Target, Verdict, View
from restore.core.scanindex import ScanIndex
from walarchiver.core.coverage import Runs
from walarchiver.core.segment import Segment

LONG = 32
"""So many segments in a row are worth being left out."""


@dataclass(frozen=True, slots=True)
class Shortened:
    """A view without what the answer may do without."""

    view: View
    first: Segment
    """The first segment left out."""
    count: int
    timelines: frozenset[int]
    """Those that something was left out of."""


def shortened(view: View, target: Target, index: ScanIndex) -> Shortened | None:
    """The view up to the first long stretch of each timeline that may be left out; None without any."""
    floor = _floor(view, target)
    if floor is None:
        return None
    starts: dict[int, int] = {}
    for run in view.runs:
        found = [first for first in _stretches(run, index) if first > floor]
        if found:
            starts.setdefault(run.timeline, found[0])
    if not starts:
        return None
    runs = tuple(_cut(view.runs, starts))
    timeline = min(starts, key=lambda one: (starts[one], one))
    first = Segment(timeline, starts[timeline])
    count = _count(view.runs) - _count(runs)
    return Shortened(replace(view, runs=runs), first, count, frozenset(starts))


def marked(decision: Decision, short: Shortened) -> Decision | None:
    """A decision on a shortened view with what it leaves open; None when it is no answer about the whole."""
    stop = decision.stop
    if stop is None or stop.inclusive or decision.verdict is not Verdict.REACHABLE:
        return None
    if stop.timeline != decision.path.timeline and stop.timeline in short.timelines:
        return None  # whether the parent's own file serves cannot be said
    name = short.first.name(short.view.segment_size)
    note = (
        f"{short.count:,} segments behind the stop, from {name} on, were not looked at, since many have no "
        "scan: what is said of the end of the WAL, of commits behind the stop, of clocks and of other "
        "timelines does not reach there (`walarchiver catalog scan` makes the scans)"
    )
    return replace(decision, unseen_segments=short.count, explained=(*decision.explained, note))


def _floor(view: View, target: Target) -> int | None:
    """Where the last of the base backups ends that may serve; None for targets that take all of the WAL."""
    match target:
        case AtTime(time):
            ends = [backup.stop_lsn for backup in view.backups if backup.stop_time <= time]
        case AtLsn(lsn):
            ends = [backup.stop_lsn for backup in view.backups if backup.stop_lsn <= lsn]
        case _:
            return None
    return max(ends) // view.segment_size if ends else None


def _stretches(run: Run, index: ScanIndex) -> Iterator[int]:
    """The first segments of the long parts of a run that the index holds nothing of."""
    number = run.first
    for first, last in (*index.chains(run.timeline, run.first, run.last), (run.last + 1, run.last)):
        if first - number >= LONG:
            yield number
        number = last + 1


def _cut(runs: Runs, starts: Mapping[int, int]) -> Iterator[Run]:
    for run in runs:
        until = min(run.last, starts.get(run.timeline, run.last + 1) - 1)
        if run.first <= until:
            yield Run(run.timeline, run.first, until)


def _count(runs: Runs) -> int:
    return sum(run.last - run.first + 1 for run in runs)
