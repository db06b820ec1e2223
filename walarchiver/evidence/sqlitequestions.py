"""The questions of a version index, asked of one state of its SQLite file.

Rules:
- A question that looks at a whole range of keys says `+begin`, so that SQLite keeps to the order of keys.
- `bounds` gives the keys that begin with a prefix as a range; both ends are UTF-8, or LAST_KEY.
"""

from __future__ import annotations

import contextlib
import heapq
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from walarchiver.bucketports import Change, Doubt, Totals, Uncertain
from walarchiver.core.keyhistory import shown
from walarchiver.core.version import MultipartTime, Row, StoreMs
from walarchiver.evidence.indexrow import (
    COLUMNS,
    LAST_KEY,
    NULL,
    ORDER_CONFLICT,
    REINSTATED,
    UNKNOWN_BEGIN,
    Stored,
    key_bytes,
    key_text,
    row_of,
)

_HISTORY = f"SELECT {COLUMNS} FROM version WHERE key=? ORDER BY place"  # noqa: S608
_AS_OF = (
    f"SELECT key, {COLUMNS} FROM version WHERE key>=? AND key<?"  # noqa: S608
    " AND until>? AND +begin<=? AND size IS NOT NULL ORDER BY key"
)
_THERE = (
    "SELECT key, count(*) FROM version WHERE key>=? AND key<? AND gone_by IS NULL"  # noqa: S608
    f" AND flags & {REINSTATED} = 0 GROUP BY key ORDER BY key"
)
_TOTALS = (
    "SELECT count(size), coalesce(sum(size), 0) FROM version"
    " WHERE key>=? AND key<? AND until>? AND +begin<=? AND size IS NOT NULL"
)
_TOTALS_GONE = (
    "SELECT count(*) FROM version INDEXED BY removed"
    " WHERE gone_by>? AND begin<=? AND until>? AND size IS NOT NULL AND key>=? AND key<?"
)
_VERSION_COLUMNS = ", ".join(f"v.{name}" for name in COLUMNS.split(", "))
_DIFF = (
    f"SELECT t.key, {_VERSION_COLUMNS} FROM ("  # noqa: S608
    "SELECT key FROM version WHERE begin>:earlier AND begin<=:later AND +key>=:first AND +key<:end"
    " UNION SELECT key FROM version INDEXED BY removed"
    " WHERE gone_by>:earlier AND gone_by<=:later AND +key>=:first AND +key<:end ORDER BY key"
    ") AS t CROSS JOIN version AS v ON v.key=t.key WHERE v.size IS NOT NULL AND ("
    "(+v.begin<=:earlier AND v.until>:earlier) OR (+v.begin<=:later AND v.until>:later)) ORDER BY t.key"
)
_BOUNDARY = (
    f"SELECT DISTINCT key FROM version WHERE flags & {REINSTATED} = 0"  # noqa: S608
    " AND begin>? AND begin<=? AND +key>=? AND +key<? ORDER BY key"
)
_REMOVED = (
    "SELECT DISTINCT key FROM version INDEXED BY removed"
    " WHERE gone_by>? AND gone_after<? AND begin<=? AND until>? AND +key>=? AND +key<? ORDER BY key"
)
_DOUBTFUL = (
    "SELECT key, begin, until, flags, first_seen FROM version INDEXED BY doubtful"
    " WHERE flags & 13 AND key>=? AND key<? ORDER BY key"
)
_HABIT = "SELECT value FROM observation WHERE kind='multipart_time' ORDER BY at DESC, rowid DESC LIMIT 1"
Bounds = tuple[bytes, bytes]


def bounds(prefix: str, after: str = "") -> Bounds:
    """The keys that begin with `prefix`, behind `after`: from the first, up to the second."""
    first, end = key_bytes(prefix), LAST_KEY
    head = prefix.rstrip("\U0010ffff")
    if head:
        next_point = ord(head[-1]) + 1
        end = key_bytes(head[:-1] + chr(0xE000 if next_point == 0xD800 else next_point))
    return (max(first, key_bytes(after) + b"\0") if after else first, end)


@dataclass(frozen=True, slots=True)
class Questions:
    """Asks one connection; `name` gives a storage class for its number."""

    db: sqlite3.Connection
    name: Callable[[int], str]

    def habit(self) -> MultipartTime:
        found = self.db.execute(_HABIT).fetchone()
        return MultipartTime(found[0]) if found else MultipartTime.UNKNOWN

    def stored(self, key: bytes) -> list[Stored]:
        """Oldest first."""
        return self.db.execute(_HISTORY, (key,)).fetchall()

    def rows(self, key: str, stored: Sequence[Stored]) -> tuple[Row, ...]:
        """Newest first, as they are to be read."""
        rows = [row_of(key, row, self.name) for row in reversed(stored)]
        if any(row[4] & UNKNOWN_BEGIN for row in stored):
            habit = self.habit()
            rows = [shown(row, habit) for row in rows]
        return tuple(rows)

    def entries_there(self, within: Bounds) -> Iterator[tuple[bytes, int]]:
        with contextlib.closing(self.db.execute(_THERE, within)) as found:
            yield from found

    def as_of(self, moment: StoreMs, within: Bounds) -> Iterator[Row]:
        habit = self.habit()
        with contextlib.closing(self.db.execute(_AS_OF, (*within, moment, moment))) as found:
            for line in found:
                yield shown(row_of(key_text(line[0]), line[1:], self.name), habit)

    def totals(self, moment: StoreMs, within: Bounds) -> Totals:
        objects, size = self.db.execute(_TOTALS, (*within, moment, moment)).fetchone()
        (gone,) = self.db.execute(_TOTALS_GONE, (moment, moment, moment, *within)).fetchone()
        return Totals(objects, size, gone)

    def diff(self, earlier: StoreMs, later: StoreMs, within: Bounds) -> Iterator[Change]:
        values = {"earlier": earlier, "later": later, "first": within[0], "end": within[1]}
        with contextlib.closing(self.db.execute(_DIFF, values)) as found:
            yield from self.changes(((line[0], line[1:]) for line in found), earlier, later)

    def changes(
        self, lines: Iterable[tuple[bytes, Stored]], earlier: StoreMs, later: StoreMs
    ) -> Iterator[Change]:
        """The changes in rows that were current at one of the moments, in the order of keys."""
        habit = self.habit()
        for key, several in groupby(lines, key=itemgetter(0)):
            text = key_text(key)
            rows = [shown(row_of(text, stored, self.name), habit) for _, stored in several]
            before = next((row for row in rows if row.was_current(earlier)), None)
            after = next((row for row in rows if row.was_current(later)), None)
            if (before and before.entry) != (after and after.entry):
                yield Change(text, before, after)

    def uncertain(self, moment: StoreMs, within: Bounds, band_ms: int) -> Iterator[Uncertain]:
        with contextlib.ExitStack() as open_cursors:

            def asking(sql: str, *values: object) -> sqlite3.Cursor:
                return open_cursors.enter_context(contextlib.closing(self.db.execute(sql, values)))

            is_end_shown = self.habit() is MultipartTime.COMPLETION
            boundary = asking(_BOUNDARY, moment - band_ms, moment, *within)
            removed = asking(_REMOVED, moment, moment, moment, moment, *within)
            doubtful = asking(_DOUBTFUL, *within)
            yield from collected(
                heapq.merge(
                    ((key, Doubt.BOUNDARY) for (key,) in boundary),
                    ((key, Doubt.REMOVED) for (key,) in removed),
                    doubts(doubtful, moment, is_end_shown=is_end_shown),
                    key=itemgetter(0),
                )
            )


def collected(found: Iterable[tuple[bytes, Doubt]]) -> Iterator[Uncertain]:
    """The doubts of each key, from single ones in the order of keys."""
    for key, several in groupby(found, key=itemgetter(0)):
        kinds = {doubt for _, doubt in several}
        yield Uncertain(key_text(key), tuple(doubt for doubt in Doubt if doubt in kinds))


def doubts(
    rows: Iterable[tuple[bytes, int, int, int, int]], moment: StoreMs, *, is_end_shown: bool
) -> Iterator[tuple[bytes, Doubt]]:
    """What the traits of rows (key, begin, until, flags, first_seen) make uncertain at a moment."""
    for key, begin, until, flags, first_seen in rows:
        if flags & NULL and begin > moment and not flags & REINSTATED:
            yield key, Doubt.NULL
        if flags & ORDER_CONFLICT and begin <= moment:
            yield key, Doubt.ORDER
        if flags & UNKNOWN_BEGIN and not is_end_shown and begin <= moment < min(until, first_seen):
            yield key, Doubt.MULTIPART


def doubts_in(
    key: bytes, row: Stored, moment: StoreMs, *, band_ms: int, is_end_shown: bool
) -> Iterator[tuple[bytes, Doubt]]:
    """All doubts that one row raises at a moment."""
    _, begin, until, _, flags, _, _, _, first_seen, _, _, _, gone_after = row
    if moment - band_ms < begin <= moment and not flags & REINSTATED:
        yield key, Doubt.BOUNDARY
    if gone_after is not None and begin <= moment < until and gone_after < moment:
        yield key, Doubt.REMOVED
    yield from doubts([(key, begin, until, flags, first_seen)], moment, is_end_shown=is_end_shown)
