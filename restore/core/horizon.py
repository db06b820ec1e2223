"""Horizon: the newest moment of which it is proven that everything up to it is archived.

Rules:
- A claim says: every event with a time up to `time` starts before `lsn`. It counts once the walk
  covers `lsn`. Sources: samples of (server clock, insert position), the last event, checkpoints.
- A commit's time is taken before its record is inserted, so a sample proves only what lies a
  margin before it (SAMPLE_MARGIN_US). Event times are taken as they are: the last event's own
  moment must be restorable.
- A claim that the WAL itself contradicts (a later event with an earlier time, beyond the margin)
  comes from a clock that was stepped back; it is dropped.
- A sample of a parent timeline counts up to the point where the path leaves it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from restore.core.model import Horizon
from restore.core.walk import Branch, Walk
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime
from walarchiver.core.scan import Event, SegmentScan
from walarchiver.core.walpage import settled_lsn

SAMPLE_MARGIN_US = 1_000_000
"""How long before its insertion a commit's time may have been taken: generous, tens of
milliseconds having been the most seen under load."""


@dataclass(frozen=True, slots=True, order=True)
class _Claim:
    time: CommitTime
    lsn: Lsn


def horizon(branch: Branch, walk: Walk) -> CommitTime | None:
    """The newest proven moment of a walk; None when nothing is proven."""
    oldest = _Oldest(branch, walk)
    for claim in sorted({*_samples(branch, walk), *_records(branch, walk)}, reverse=True):
        later = oldest.since(claim.lsn)
        if later is None or later >= claim.time - SAMPLE_MARGIN_US:
            return claim.time
    return None


def _samples(branch: Branch, walk: Walk) -> Iterator[_Claim]:
    for sample in branch.view.horizons:
        lsn = settled_lsn(sample.lsn, branch.size)
        if lsn <= walk.end and _on_path(branch, sample, lsn):
            yield _Claim(CommitTime(sample.time - SAMPLE_MARGIN_US), lsn)


def _on_path(branch: Branch, sample: Horizon, lsn: Lsn) -> bool:
    if sample.timeline not in branch.path.path:
        return False
    end = branch.path.end(sample.timeline)
    return end is None or lsn <= end


def _records(branch: Branch, walk: Walk) -> Iterator[_Claim]:
    last_event = _last_event(branch, walk)
    if last_event is not None:
        yield _Claim(last_event.time, last_event.lsn)
    checkpoints = (check for scan in walk.scans for check in scan.checkpoints if check.lsn < walk.end)
    newest = max(checkpoints, key=lambda check: (check.time, check.lsn), default=None)
    if newest is not None:
        yield _Claim(newest.time, newest.lsn)


def _last_event(branch: Branch, walk: Walk) -> Event | None:
    for scan in reversed(walk.scans):
        if scan.last_event is None or scan.last_event.lsn < walk.end:
            if scan.last_event is not None:
                return scan.last_event
        elif events := branch.events(scan.segment.number, 0, walk.end):
            return events[-1]
    return None


class _Oldest:
    """The oldest event time from any position of a walk on."""

    def __init__(self, branch: Branch, walk: Walk) -> None:
        self._branch = branch
        self._walk = walk
        times = [self._oldest_in(scan) for scan in reversed(walk.scans)]
        self._from_scan = list(accumulate([None, *times], _older))[::-1]

    def _oldest_in(self, scan: SegmentScan) -> CommitTime | None:
        """A scan's oldest time, without what a change to wal_level=minimal cut off."""
        if scan.last_event is None or scan.last_event.lsn < self._walk.end:
            return scan.min_time
        events = self._branch.events(scan.segment.number, 0, self._walk.end)
        return min((event.time for event in events), default=None)

    def since(self, lsn: Lsn) -> CommitTime | None:
        """The oldest time of the events that start at or after `lsn`."""
        index = lsn // self._branch.size - self._walk.first
        if index < 0:
            return self._from_scan[0]
        if index >= len(self._walk.scans):
            return None
        oldest = self._from_scan[index + 1]
        here = self._walk.scans[index].min_time
        if here is None or (oldest is not None and here >= oldest):
            return oldest
        number = self._walk.first + index
        for event in self._branch.events(number, lsn, self._walk.end):
            oldest = _older(oldest, event.time)
        return oldest


def _older(one: CommitTime | None, other: CommitTime | None) -> CommitTime | None:
    return min((time for time in (one, other) if time is not None), default=None)
