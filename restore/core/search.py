"""Finding events in a walk: by scans first, so that only the segments concerned are opened.

All ranges are LSNs of record starts, low included, high excluded, in WAL order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from restore.core.model import Disputed, Limits
from restore.core.walk import Branch, Walk
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime
from walarchiver.core.scan import Event, EventKind, RestorePoint, SegmentScan
from walarchiver.core.tally import PREPARED_KINDS


def first_after(branch: Branch, walk: Walk, low: Lsn, time: CommitTime) -> Event | None:
    """A(T): the first event from `low` on with a time after `time`."""
    wanted = _scans(branch, walk, low, lambda scan: scan.max_time is not None and scan.max_time > time)
    for scan in wanted:
        for event in branch.events(scan.segment.number, low, walk.end):
            if event.time > time:
                return event
    return None


def last_not_after(branch: Branch, walk: Walk, low: Lsn, time: CommitTime) -> Event | None:
    """P(T): the last event from `low` on with a time up to `time`."""
    wanted = _scans(branch, walk, low, lambda scan: scan.min_time is not None and scan.min_time <= time)
    for scan in reversed(list(wanted)):
        for event in reversed(branch.events(scan.segment.number, low, walk.end)):
            if event.time <= time:
                return event
    return None


def disputed_range(branch: Branch, walk: Walk, first: Event, last: Event) -> Disputed:
    """The events from `first` to `last`, both included, that clock steps put out of order."""
    count = 0
    backward = 0
    before: CommitTime | None = None
    for scan in _scans(branch, walk, first.lsn, lambda scan: scan.first_event is not None):
        number = scan.segment.number
        if number * branch.size > last.lsn:
            break
        for event in branch.events(number, first.lsn, last.lsn + 1):
            count += 1
            if before is not None:
                backward = max(backward, before - event.time)
            before = event.time
    return Disputed(first.lsn, last.lsn, count, backward)


def ends_of(branch: Branch, walk: Walk, high: Lsn, xid: int) -> list[Event]:
    """Every commit or abort of `xid` before `high`; several only when ids wrapped around."""
    return [
        event
        for scan in walk.scans
        if scan.first_event is not None and scan.segment.number * branch.size < high
        for event in branch.events(scan.segment.number, 0, high)
        if event.xid == xid and event.kind.ends_transaction
    ]


def restore_points(walk: Walk, low: Lsn, high: Lsn, name: str) -> list[RestorePoint]:
    """Every restore point of that name."""
    return [
        point
        for scan in walk.scans
        for point in scan.restore_points
        if point.name == name and low <= point.lsn < high
    ]


def last_commit_before(branch: Branch, walk: Walk, high: Lsn) -> Event | None:
    """The last commit that starts before `high`."""
    for scan in reversed(walk.scans):
        number = scan.segment.number
        if scan.last_commit is None or number * branch.size >= high:
            continue
        if scan.last_commit.lsn < high:
            return scan.last_commit
        commits = [event for event in branch.events(number, Lsn(0), high) if event.kind.is_commit]
        if commits:
            return commits[-1]
    return None


def event_at(branch: Branch, lsn: Lsn) -> Event | None:
    """The event whose record starts at `lsn`, if that record is one."""
    return next(iter(branch.events(lsn // branch.size, lsn, lsn + 1)), None)


def commits_from(branch: Branch, walk: Walk, low: Lsn) -> int:
    """How many commits start at or after `low`."""
    count = 0
    for scan in _scans(branch, walk, low, lambda scan: scan.last_commit is not None):
        number = scan.segment.number
        if low <= number * branch.size and (number + 1) * branch.size <= walk.end:
            count += scan.commits
        else:
            count += sum(event.kind.is_commit for event in branch.events(number, low, walk.end))
    return count


def prepared_at(branch: Branch, walk: Walk, high: Lsn) -> tuple[Event, ...]:
    """The transactions prepared before `high` and not ended before it, as far as the walk shows."""
    open_ones: dict[int, Event] = {}
    for scan in walk.scans:
        number = scan.segment.number
        if number * branch.size >= high:
            break
        whole = (number + 1) * branch.size <= high
        for event in scan.prepared if whole else branch.events(number, 0, high):
            if event.kind is EventKind.PREPARE:
                open_ones[event.xid] = event
            elif event.kind in PREPARED_KINDS:
                open_ones.pop(event.xid, None)
    return tuple(sorted(open_ones.values(), key=lambda event: event.lsn))


def limits_until(walk: Walk, start: Lsn, high: Lsn, backup: Limits) -> Limits:
    """The largest limits from the backup's start up to `high`."""
    changes = [
        change for scan in walk.scans for change in scan.parameter_changes if start <= change.lsn < high
    ]
    return Limits(
        max_connections=max([backup.max_connections, *(c.max_connections for c in changes)]),
        max_worker_processes=max([backup.max_worker_processes, *(c.max_worker_processes for c in changes)]),
        max_wal_senders=max([backup.max_wal_senders, *(c.max_wal_senders for c in changes)]),
        max_prepared_transactions=max(
            [backup.max_prepared_transactions, *(c.max_prepared_transactions for c in changes)]
        ),
        max_locks_per_transaction=max(
            [backup.max_locks_per_transaction, *(c.max_locks_per_transaction for c in changes)]
        ),
    )


def record_end(branch: Branch, lsn: Lsn) -> Lsn:
    """A position in the segment where the record at `lsn` ends, at most one past that end.

    Only a segment's last record can end in another segment.
    """
    scan = branch.scan(lsn // branch.size)
    if scan.last == lsn:
        return scan.end
    return Lsn(lsn + 1)


def _scans(
    branch: Branch, walk: Walk, low: Lsn, wanted: Callable[[SegmentScan], bool]
) -> Iterator[SegmentScan]:
    """The scans of the segments from `low` on that `wanted` picks."""
    skipped = max(0, low // branch.size - walk.first)
    return (scan for scan in walk.scans[skipped:] if wanted(scan))
