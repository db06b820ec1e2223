"""Finding events in a walk: by sums and scans first, so that only the segments concerned are opened.

All ranges are LSNs of record starts, low included, high excluded, in WAL order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from restore.core.model import Disputed, Limits
from restore.core.walk import Branch, Stretch, Walk
from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime
from walarchiver.core.scan import Event, EventKind, RestorePoint, SegmentScan
from walarchiver.core.sums import NOTHING, Sums, sums_of, sums_of_events, xids_of
from walarchiver.core.tally import PREPARED_KINDS


def first_after(branch: Branch, walk: Walk, low: Lsn, time: CommitTime) -> Event | None:
    """A(T): the first event from `low` on with a time after `time`."""
    for number in _newer(branch, walk, low // branch.size, time):
        for event in branch.events(number, low, walk.end):
            if event.time > time:
                return event
    return None


def _newer(branch: Branch, walk: Walk, low: int, time: CommitTime) -> Iterator[int]:
    """The segments from `low` on that hold an event after `time`."""
    for piece in walk.between(low, walk.past):
        if isinstance(piece, SegmentScan):
            if piece.max_time is not None and piece.max_time > time:
                yield piece.segment.number
            continue
        number: int | None = piece.first
        while number is not None and number <= piece.last:
            number = branch.index.first_newer(piece.timeline, number, piece.last, time)
            if number is not None:
                yield number
                number += 1


def last_not_after(branch: Branch, walk: Walk, low: Lsn, time: CommitTime) -> Event | None:
    """P(T): the last event from `low` on with a time up to `time`."""
    for number in _not_newer(branch, walk, low // branch.size, time):
        for event in reversed(branch.events(number, low, walk.end)):
            if event.time <= time:
                return event
    return None


def _not_newer(branch: Branch, walk: Walk, low: int, time: CommitTime) -> Iterator[int]:
    """The segments from `low` on that hold an event up to `time`, last one first."""
    for piece in walk.backwards(low, walk.past):
        if isinstance(piece, SegmentScan):
            if piece.min_time is not None and piece.min_time <= time:
                yield piece.segment.number
            continue
        number: int | None = piece.last
        while number is not None and number >= piece.first:
            number = branch.index.last_not_newer(piece.timeline, piece.first, number, time)
            if number is not None:
                yield number
                number -= 1


def disputed_range(branch: Branch, walk: Walk, first: Event, last: Event) -> Disputed:
    """The events from `first` to `last`, both included, that clock steps put out of order."""
    begin, end = first.lsn // branch.size, last.lsn // branch.size
    sums = sums_of_events(branch.events(begin, first.lsn, last.lsn + 1))
    if end > begin:
        for piece in walk.between(begin + 1, end):
            sums = sums.followed_by(_sums(branch, piece))
        sums = sums.followed_by(sums_of_events(branch.events(end, 0, last.lsn + 1)))
    return Disputed(first.lsn, last.lsn, sums.events, sums.backward_us)


def _sums(branch: Branch, piece: SegmentScan | Stretch) -> Sums:
    if isinstance(piece, SegmentScan):
        return NOTHING if piece.first_event is None else sums_of(piece)
    return branch.index.sums(piece.timeline, piece.first, piece.last)


def ends_of(branch: Branch, walk: Walk, high: Lsn, xid: int) -> list[Event]:
    """Every commit or abort of `xid` before `high`; several only when ids wrapped around."""
    return [
        event
        for number in _with_xid(branch, walk, -(-high // branch.size), xid)
        for event in branch.events(number, 0, high)
        if event.xid == xid and event.kind.ends_transaction
    ]


def _with_xid(branch: Branch, walk: Walk, high: int, xid: int) -> Iterator[int]:
    """The segments before `high` in which a transaction of that id can have ended."""
    for piece in walk.between(walk.first, high):
        if isinstance(piece, SegmentScan):
            low, top = xids_of(piece) or (1, 0)
            if low <= xid <= top:
                yield piece.segment.number
            continue
        number: int | None = piece.first
        while number is not None and number <= piece.last:
            number = branch.index.first_with_xid(piece.timeline, number, piece.last, xid)
            if number is not None:
                yield number
                number += 1


def _having(
    branch: Branch, walk: Walk, low: int, high: int, what: str, name: str = ""
) -> Iterator[SegmentScan]:
    """The segments low..high (high excluded) that may have something of a list, at least all that do."""
    for piece in walk.between(low, high):
        if isinstance(piece, SegmentScan):
            yield piece
        else:
            for number in branch.index.listing(piece.timeline, piece.first, piece.last, what, name):
                yield branch.scan(number)


def restore_points(branch: Branch, walk: Walk, low: Lsn, high: Lsn, name: str) -> list[RestorePoint]:
    """Every restore point of that name."""
    return [
        point
        for scan in _having(branch, walk, walk.first, walk.past, "point", name)
        for point in scan.restore_points
        if point.name == name and low <= point.lsn < high
    ]


def last_commit_before(branch: Branch, walk: Walk, high: Lsn) -> Event | None:
    """The last commit that starts before `high`."""
    for scan in _with_commits(branch, walk, -(-high // branch.size)):
        assert scan.last_commit is not None
        if scan.last_commit.lsn < high:
            return scan.last_commit
        events = branch.events(scan.segment.number, Lsn(0), high)
        commits = [event for event in events if event.kind.is_commit]
        if commits:
            return commits[-1]
    return None


def _with_commits(branch: Branch, walk: Walk, high: int) -> Iterator[SegmentScan]:
    """The segments before `high` that hold a commit, last one first."""
    for piece in walk.backwards(walk.first, high):
        if isinstance(piece, SegmentScan):
            if piece.last_commit is not None:
                yield piece
            continue
        number: int | None = piece.last
        while number is not None and number >= piece.first:
            number = branch.index.last_with_commits(piece.timeline, piece.first, number)
            if number is not None:
                yield branch.scan(number)
                number -= 1


def event_at(branch: Branch, lsn: Lsn) -> Event | None:
    """The event whose record starts at `lsn`, if that record is one."""
    return next(iter(branch.events(lsn // branch.size, lsn, lsn + 1)), None)


def commits_from(branch: Branch, walk: Walk, low: Lsn) -> int:
    """How many commits start at or after `low`."""
    whole_from, whole_past = -(-low // branch.size), walk.end // branch.size
    count = 0
    for piece in walk.between(low // branch.size, walk.past):
        if isinstance(piece, SegmentScan):
            count += _commits_in(branch, walk, piece.segment.number, low)
            continue
        first, last = max(piece.first, whole_from), min(piece.last, whole_past - 1)
        if first <= last:
            count += branch.index.commits(piece.timeline, first, last)
        edge = min(first, piece.last + 1)
        for number in (*range(piece.first, edge), *range(max(last + 1, edge), piece.last + 1)):
            count += _commits_in(branch, walk, number, low)
    return count


def _commits_in(branch: Branch, walk: Walk, number: int, low: Lsn) -> int:
    """How many commits of one segment start at or after `low`."""
    scan = branch.scan(number)
    if scan.last_commit is None:
        return 0
    if low <= number * branch.size and (number + 1) * branch.size <= walk.end:
        return scan.commits
    return sum(event.kind.is_commit for event in branch.events(number, low, walk.end))


def prepared_at(branch: Branch, walk: Walk, high: Lsn) -> tuple[Event, ...]:
    """The transactions prepared before `high` and not ended before it, as far as the walk shows."""
    open_ones: dict[int, Event | int] = {}
    """By transaction id; where only the index was asked, the number of the segment that prepared it."""
    whole = high // branch.size
    for piece in walk.between(walk.first, whole):
        if isinstance(piece, SegmentScan):
            _open_or_end(open_ones, piece.prepared)
            continue
        for number, steps in branch.index.prepared(piece.timeline, piece.first, piece.last):
            for xid, begun in steps:
                if begun:
                    open_ones[xid] = number
                else:
                    open_ones.pop(xid, None)
    if walk.first <= whole < walk.past and high % branch.size:
        _open_or_end(open_ones, branch.events(whole, 0, high))
    found = (
        one if isinstance(one, Event) else _prepared_in(branch.scan(one), xid)
        for xid, one in open_ones.items()
    )
    return tuple(sorted(found, key=lambda event: event.lsn))


def _open_or_end(open_ones: dict[int, Event | int], events: Iterable[Event]) -> None:
    for event in events:
        if event.kind is EventKind.PREPARE:
            open_ones[event.xid] = event
        elif event.kind in PREPARED_KINDS:
            open_ones.pop(event.xid, None)


def _prepared_in(scan: SegmentScan, xid: int) -> Event:
    """The last PREPARE of a transaction id in a segment that has one."""
    prepares = (one for one in reversed(scan.prepared) if one.xid == xid and one.kind is EventKind.PREPARE)
    return next(prepares)


def limits_until(branch: Branch, walk: Walk, start: Lsn, high: Lsn, backup: Limits) -> Limits:
    """The largest limits from the backup's start up to `high`."""
    changes = [
        change
        for scan in _having(branch, walk, walk.first, -(-high // branch.size), "limits")
        for change in scan.parameter_changes
        if start <= change.lsn < high
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


def newest_time_before(branch: Branch, walk: Walk, lsn: Lsn) -> CommitTime | None:
    """The newest time of any walked event that starts before `lsn`; None when there is none."""
    edge = lsn // branch.size
    times: list[CommitTime | None] = []
    for piece in walk.between(walk.first, edge):
        if isinstance(piece, SegmentScan):
            times.append(piece.max_time)
        else:
            times.append(branch.index.newest(piece.timeline, piece.first, piece.last))
    newest = max((time for time in times if time is not None), default=None)
    if walk.first <= edge < walk.past and lsn % branch.size:
        here = branch.scan(edge).max_time
        if here is not None and (newest is None or here > newest):
            inside = [event.time for event in branch.events(edge, 0, lsn)]
            newest = max([*inside, *([] if newest is None else [newest])], default=None)
    return newest


def last_event(branch: Branch, walk: Walk) -> Event | None:
    """The last event of a walk."""
    for piece in walk.backwards(walk.first, walk.past):
        scan: SegmentScan | None = piece if isinstance(piece, SegmentScan) else None
        if isinstance(piece, Stretch):
            number = branch.index.last_with_events(piece.timeline, piece.first, piece.last)
            scan = None if number is None else branch.scan(number)
        if scan is None or scan.last_event is None:
            continue
        if scan.last_event.lsn < walk.end:
            return scan.last_event
        if events := branch.events(scan.segment.number, 0, walk.end):
            return events[-1]
    return None


def newest_checkpoint(branch: Branch, walk: Walk) -> tuple[CommitTime, Lsn] | None:
    """Time and position of the newest checkpoint of a walk."""
    found: list[tuple[CommitTime, Lsn] | None] = []
    for piece in walk.pieces:
        if isinstance(piece, SegmentScan):
            found += [(check.time, check.lsn) for check in piece.checkpoints if check.lsn < walk.end]
        else:
            found.append(branch.index.newest_checkpoint(piece.timeline, piece.first, piece.last))
    return max((one for one in found if one is not None), default=None)


def oldest_time_from(branch: Branch, walk: Walk, lsn: Lsn) -> CommitTime | None:
    """The oldest time of the walked events that start at or after `lsn`; None when there is none."""
    edge = lsn // branch.size
    times: list[CommitTime | None] = []
    for piece in walk.between(max(edge + 1, walk.first), walk.past):
        if isinstance(piece, SegmentScan):
            times.append(_oldest_in(branch, walk, piece))
        else:
            times.append(branch.index.oldest(piece.timeline, piece.first, piece.last))
    oldest = min((time for time in times if time is not None), default=None)
    if walk.first <= edge < walk.past:
        here = branch.scan(edge).min_time
        if here is not None and (oldest is None or here < oldest):
            inside = [event.time for event in branch.events(edge, lsn, walk.end)]
            oldest = min([*inside, *([] if oldest is None else [oldest])], default=None)
    return oldest


def _oldest_in(branch: Branch, walk: Walk, scan: SegmentScan) -> CommitTime | None:
    """A scan's oldest time, without what a change to wal_level=minimal cut off."""
    if scan.last_event is None or scan.last_event.lsn < walk.end:
        return scan.min_time
    events = branch.events(scan.segment.number, 0, walk.end)
    return min((event.time for event in events), default=None)


def record_end(branch: Branch, lsn: Lsn) -> Lsn:
    """A position in the segment where the record at `lsn` ends, at most one past that end.

    Only a segment's last record can end in another segment.
    """
    scan = branch.scan(lsn // branch.size)
    if scan.last == lsn:
        return scan.end
    return Lsn(lsn + 1)
