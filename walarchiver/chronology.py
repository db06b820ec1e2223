"""The index over scans in the catalog: sums of segments and of blocks of segments, and what links to what.

Rules:
- It holds the segments that nothing is to be said of on their own: scanned, the scan being that of the
  file in force, records whole up to the end or up to a switch. All others are looked at one by one.
- A *chain* is a run of such segments of one timeline, of one server, each of which begins with the record
  that follows the last one of the segment before. So all but its last are whole without a doubt: where the
  last record of that one ends is for its reader to find out.
- Blocks hold the sums of the segments that are in the index. A range is asked for inside one chain only,
  so every block in it is full.
- Rows depend on the ledger's records alone, not on the order in which segments came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime
from walarchiver.core.scan import Ending, EventKind, SegmentScan
from walarchiver.core.segment import Segment
from walarchiver.core.sums import BLOCK, NOTHING, TOP_LEVEL, Sums, blocks, sums_of, xids_of

_SQLITE_INTEGERS = 2**63
_SUMS = (
    "commits, events, oldest, newest, first_time, last_time, backward, checkpoint_time, checkpoint_lsn,"
    " xid_low, xid_high"
)
_LISTS = ("limits", "minimal", "point", "prepared")

Row = tuple[object, ...]


class Rows(Protocol):
    """What takes statements: a database, or what stands before one."""

    def execute(self, sql: str, values: tuple[object, ...] = ()) -> Iterable[Row]: ...


def indexable(scan: SegmentScan) -> bool:
    """Whether the index may hold this scan."""
    whole = scan.ending is Ending.WHOLE or (scan.ending is Ending.ZERO and scan.switched)
    if not whole or scan.overwritten or scan.first is None or scan.first_prev is None or scan.last is None:
        return False
    times = [time for time in (scan.min_time, scan.max_time) if time is not None]
    numbers = [scan.end, scan.first_prev, scan.records, scan.backward_us, *map(abs, times)]
    numbers += xids_of(scan) or ()
    return max(numbers) < _SQLITE_INTEGERS


# --- writing -----------------------------------------------------------------------------------


def put(db: Rows, scan: SegmentScan, origin: str) -> None:
    """Take a segment in, in place of what stood there. `origin`: names the server and its file size."""
    timeline, number = scan.segment.timeline, scan.segment.number
    drop(db, scan.segment)
    if not indexable(scan):
        return
    sums = sums_of(scan)
    _write(db, timeline, 0, number, number, sums)
    db.execute(
        "INSERT INTO scanned VALUES (?,?,?,?,?)", (timeline, number, origin, scan.first_prev, scan.last)
    )
    for level in range(1, TOP_LEVEL + 1):
        _append(db, timeline, level, number, sums)
    _link(db, timeline, number, origin, scan)
    for what, name in sorted(_listed(scan)):
        db.execute("INSERT INTO listed VALUES (?,?,?,?)", (timeline, what, number, name))


def drop(db: Rows, segment: Segment) -> None:
    """Take a segment out, if it is there."""
    timeline, number = segment.timeline, segment.number
    place = (timeline, number)
    if _one(db, "SELECT 1 FROM scanned WHERE timeline=? AND number=?", place) is None:
        return
    db.execute("DELETE FROM scanned WHERE timeline=? AND number=?", place)
    for what in _LISTS:
        db.execute("DELETE FROM listed WHERE timeline=? AND what=? AND number=?", (timeline, what, number))
    db.execute("DELETE FROM span WHERE timeline=? AND level=0 AND number=?", place)
    for level in range(1, TOP_LEVEL + 1):
        _sum_anew(db, timeline, level, number // BLOCK**level)
    found = _one(
        db, "SELECT first, last FROM chain WHERE timeline=? AND first<=? ORDER BY first DESC LIMIT 1", place
    )
    assert found is not None
    first, last = _int(found[0]), _int(found[1])
    db.execute("DELETE FROM chain WHERE timeline=? AND first=?", (timeline, first))
    for low, high in ((first, number - 1), (number + 1, last)):
        if low <= high:
            db.execute("INSERT INTO chain VALUES (?,?,?)", (timeline, low, high))


def _listed(scan: SegmentScan) -> set[tuple[str, str]]:
    """Under what the segment is to be found again: (kind, name)."""
    found = {("point", point.name) for point in scan.restore_points}
    if scan.prepared:
        steps = (f"{'+' if one.kind is EventKind.PREPARE else '-'}{one.xid}" for one in scan.prepared)
        found.add(("prepared", " ".join(steps)))
    if scan.parameter_changes:
        found.add(("limits", ""))
    if any(change.wal_level == 0 for change in scan.parameter_changes):
        found.add(("minimal", ""))
    return found


def _append(db: Rows, timeline: int, level: int, number: int, sums: Sums) -> None:
    """Take a segment that has its row into the block of a level."""
    block = number // BLOCK**level
    sql = f"SELECT until, {_SUMS} FROM span WHERE timeline=? AND level=? AND number=?"  # noqa: S608
    row = _one(db, sql, (timeline, level, block))
    if row is None:
        _write(db, timeline, level, block, number, sums)
    elif _int(row[0]) < number:
        _write(db, timeline, level, block, number, _sums(row[1:]).followed_by(sums))
    else:
        _sum_anew(db, timeline, level, block)


def _sum_anew(db: Rows, timeline: int, level: int, block: int) -> None:
    """Sum up a block from those of the level below."""
    sql = (
        f"SELECT until, {_SUMS} FROM span WHERE timeline=? AND level=? AND number BETWEEN ? AND ?"  # noqa: S608
        " ORDER BY number"
    )
    rows = list(db.execute(sql, (timeline, level - 1, block * BLOCK, block * BLOCK + BLOCK - 1)))
    if not rows:
        db.execute("DELETE FROM span WHERE timeline=? AND level=? AND number=?", (timeline, level, block))
        return
    sums = NOTHING
    for row in rows:
        sums = sums.followed_by(_sums(row[1:]))
    _write(db, timeline, level, block, _int(rows[-1][0]), sums)


def _write(db: Rows, timeline: int, level: int, block: int, until: int, sums: Sums) -> None:
    db.execute(
        "INSERT OR REPLACE INTO span VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        span_row(timeline, level, block, until, sums),
    )


def span_row(timeline: int, level: int, block: int, until: int, sums: Sums) -> Row:
    """The row of a block."""
    return (
        *(timeline, level, block, until, sums.commits, sums.events, sums.oldest, sums.newest),
        *(sums.first_time, sums.last_time, sums.backward_us),
        *(sums.checkpoint or (None, None)),
        *(sums.xids or (None, None)),
    )


def _link(db: Rows, timeline: int, number: int, origin: str, scan: SegmentScan) -> None:
    """Join the segment with the chains on both sides that it fits to."""
    neighbours = {
        _int(row[0]): row[1:]
        for row in db.execute(
            "SELECT number, origin, first_prev, last FROM scanned WHERE timeline=? AND number IN (?,?)",
            (timeline, number - 1, number + 1),
        )
    }
    first = last = number
    before, after = neighbours.get(number - 1), neighbours.get(number + 1)
    if before is not None and before[0] == origin and before[2] == scan.first_prev:
        row = _one(db, "SELECT first FROM chain WHERE timeline=? AND last=?", (timeline, number - 1))
        assert row is not None
        first = _int(row[0])
        db.execute("DELETE FROM chain WHERE timeline=? AND first=?", (timeline, first))
    if after is not None and after[0] == origin and after[1] == scan.last:
        row = _one(db, "SELECT last FROM chain WHERE timeline=? AND first=?", (timeline, number + 1))
        assert row is not None
        last = _int(row[0])
        db.execute("DELETE FROM chain WHERE timeline=? AND first=?", (timeline, number + 1))
    db.execute("INSERT INTO chain VALUES (?,?,?)", (timeline, first, last))


def _one(db: Rows, sql: str, values: tuple[object, ...]) -> Row | None:
    return next(iter(db.execute(sql, values)), None)


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value


def _time(value: object) -> CommitTime | None:
    return None if value is None else CommitTime(_int(value))


def _sums(row: Row) -> Sums:
    commits, events, oldest, newest, first_time, last_time, backward, time, lsn, low, high = row
    return Sums(
        commits=_int(commits),
        events=_int(events),
        oldest=_time(oldest),
        newest=_time(newest),
        first_time=_time(first_time),
        last_time=_time(last_time),
        backward_us=_int(backward),
        checkpoint=None if time is None else (CommitTime(_int(time)), Lsn(_int(lsn))),
        xids=None if low is None else (_int(low), _int(high)),
    )


# --- reading -----------------------------------------------------------------------------------


class Chronology:
    """Questions to the index, about ranges first..last (both included) inside one chain.

    `rows(sql, *values)` runs one statement. Segments of other servers count as not being there.
    """

    def __init__(self, rows: Callable[..., list[Row]], origin: str) -> None:
        self._rows = rows
        self._origin = origin

    def whole_until(self, timeline: int, number: int) -> int | None:
        """The last segment such that `number` up to it are whole and fit together, the one behind it
        fitting too; None when that cannot be said of `number` itself."""
        rows = self._rows(
            "SELECT chain.last, origin FROM chain JOIN scanned ON scanned.timeline=chain.timeline"
            " AND scanned.number=chain.first WHERE chain.timeline=? AND first<=? ORDER BY first DESC LIMIT 1",
            timeline,
            number,
        )
        if not rows or rows[0][1] != self._origin or _int(rows[0][0]) <= number:
            return None
        return _int(rows[0][0]) - 1

    def sums(self, timeline: int, first: int, last: int) -> Sums:
        """The sums of a range."""
        found = NOTHING
        sql = (
            f"SELECT {_SUMS} FROM span WHERE timeline=? AND level=? AND number BETWEEN ? AND ?"  # noqa: S608
            " ORDER BY number"
        )
        for level, low, high in blocks(first, last):
            for row in self._rows(sql, timeline, level, low, high):
                found = found.followed_by(_sums(row))
        return found

    def commits(self, timeline: int, first: int, last: int) -> int:
        """How many commits a range holds."""
        return sum(value or 0 for value in self._each("sum(commits)", timeline, first, last))

    def oldest(self, timeline: int, first: int, last: int) -> CommitTime | None:
        """The oldest event time of a range."""
        found = self._each("min(oldest)", timeline, first, last)
        return min((CommitTime(time) for time in found if time is not None), default=None)

    def newest(self, timeline: int, first: int, last: int) -> CommitTime | None:
        """The newest event time of a range."""
        found = self._each("max(newest)", timeline, first, last)
        return max((CommitTime(time) for time in found if time is not None), default=None)

    def newest_checkpoint(self, timeline: int, first: int, last: int) -> tuple[CommitTime, Lsn] | None:
        """Time and position of the newest checkpoint of a range."""
        sql = (
            "SELECT checkpoint_time, checkpoint_lsn FROM span WHERE timeline=? AND level=? AND number"
            " BETWEEN ? AND ? AND checkpoint_time IS NOT NULL"
            " ORDER BY checkpoint_time DESC, checkpoint_lsn DESC LIMIT 1"
        )
        found = [
            (CommitTime(_int(time)), Lsn(_int(lsn)))
            for level, low, high in blocks(first, last)
            for time, lsn in self._rows(sql, timeline, level, low, high)
        ]
        return max(found, default=None)

    def first_newer(self, timeline: int, first: int, last: int, time: CommitTime) -> int | None:
        """The first segment of a range that holds an event after `time`."""
        return self._find("newest>?", (time,), timeline, first, last)

    def last_not_newer(self, timeline: int, first: int, last: int, time: CommitTime) -> int | None:
        """The last segment of a range that holds an event up to `time`."""
        return self._find("oldest<=?", (time,), timeline, first, last, backwards=True)

    def last_with_commits(self, timeline: int, first: int, last: int) -> int | None:
        """The last segment of a range with a commit."""
        return self._find("commits>?", (0,), timeline, first, last, backwards=True)

    def last_with_events(self, timeline: int, first: int, last: int) -> int | None:
        """The last segment of a range with any event."""
        return self._find("events>?", (0,), timeline, first, last, backwards=True)

    def first_with_xid(self, timeline: int, first: int, last: int, xid: int) -> int | None:
        """The first segment of a range in which a transaction of that id can have ended."""
        return self._find("xid_low<=? AND xid_high>=?", (xid, xid), timeline, first, last)

    def listing(self, timeline: int, first: int, last: int, what: str, name: str = "") -> list[int]:
        """The segments of a range that have `what`: limits, minimal (a change to wal_level=minimal), or
        a restore point (point) of that name."""
        rows = self._rows(
            "SELECT number FROM listed WHERE timeline=? AND what=? AND number BETWEEN ? AND ? AND name=?"
            " ORDER BY number",
            *(timeline, what, first, last, name),
        )
        return [_int(number) for (number,) in rows]

    def prepared(self, timeline: int, first: int, last: int) -> list[tuple[int, list[tuple[int, bool]]]]:
        """What a range's segments say of prepared transactions, in order: the segment's number, and each
        transaction id with whether it was prepared there (else a transaction prepared before was ended)."""
        rows = self._rows(
            "SELECT number, name FROM listed WHERE timeline=? AND what='prepared' AND number BETWEEN ? AND ?"
            " ORDER BY number",
            *(timeline, first, last),
        )
        return [
            (_int(number), [(int(step[1:]), step[0] == "+") for step in str(steps).split()])
            for number, steps in rows
        ]

    def chains(self, timeline: int, first: int, last: int) -> list[tuple[int, int]]:
        """The chains of a range of any segments, cut to it, in order."""
        rows = self._rows(
            "SELECT first, last FROM chain WHERE timeline=? AND first<=? AND last>=? ORDER BY first",
            *(timeline, last, first),
        )
        return [(max(first, _int(low)), min(last, _int(high))) for low, high in rows]

    def points(self, timeline: int, most: int) -> list[tuple[int, str]]:
        """Where restore points are, by segment and name; the last ones in the order of segments."""
        rows = self._rows(
            "SELECT number, name FROM listed WHERE timeline=? AND what='point' ORDER BY number DESC LIMIT ?",
            *(timeline, most),
        )
        return [(_int(number), str(name)) for number, name in rows[::-1]]

    def times(
        self, timeline: int, first: int, last: int, most: int
    ) -> list[tuple[int, CommitTime, CommitTime]]:
        """Where the events of a range lie in time: how many segments at most, oldest and newest, for each
        segment or for each block of the smallest level that gives no more than `most` rows."""
        level = next((k for k in range(TOP_LEVEL) if (last - first) // BLOCK**k < most), TOP_LEVEL)
        rows = self._rows(
            "SELECT oldest, newest FROM span WHERE timeline=? AND level=? AND number BETWEEN ? AND ?"
            " AND events>0 ORDER BY number",
            *(timeline, level, first // BLOCK**level, last // BLOCK**level),
        )
        return [(BLOCK**level, CommitTime(_int(low)), CommitTime(_int(high))) for low, high in rows]

    def _each(self, value: str, timeline: int, first: int, last: int) -> list[int | None]:
        """An aggregate of each of the ranges of blocks that make up a range."""
        sql = f"SELECT {value} FROM span WHERE timeline=? AND level=? AND number BETWEEN ? AND ?"  # noqa: S608
        found = [self._rows(sql, timeline, *one)[0][0] for one in blocks(first, last)]
        return [None if each is None else _int(each) for each in found]

    def _find(
        self,
        condition: str,
        values: tuple[int, ...],
        timeline: int,
        first: int,
        last: int,
        *,
        backwards: bool = False,
    ) -> int | None:
        """The first (or last) segment of a range whose row meets a condition; a block meets it at least when
        one of its segments does."""
        sql = (
            "SELECT number FROM span WHERE timeline=? AND level=? AND number BETWEEN ? AND ?"  # noqa: S608
            f" AND {condition} ORDER BY number {'DESC' if backwards else 'ASC'} LIMIT 1"
        )

        def within(level: int, low: int, high: int) -> int | None:
            while rows := self._rows(sql, timeline, level, low, high, *values):
                number = _int(rows[0][0])
                first = number * BLOCK
                found = number if level == 0 else within(level - 1, first, first + BLOCK - 1)
                if found is not None:
                    return found
                low, high = (low, number - 1) if backwards else (number + 1, high)
            return None

        ranges = blocks(first, last)
        found = (within(*one) for one in (reversed(ranges) if backwards else ranges))
        return next((number for number in found if number is not None), None)
