"""The index of a bucket's versions in one SQLite file: the engine up to some 3 * 10^7 versions.

Rules:
- The contract is bucketports.VersionIndex; what a key's history is, core/keyhistory.py says.
- What a question answers is one state of the index. A reader that is not read to its end, or closed, keeps
  SQLite from making its log smaller: do not hold one for long.
- Rows keep how they were placed as if nothing were known of the store's habit with multipart uploads; the
  last `multipart_time` observation counts when they are read.
"""

from __future__ import annotations

import contextlib
import heapq
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from walarchiver.bucketports import (
    Change,
    Doubt,
    Ingested,
    KeyRange,
    Observation,
    Totals,
    Uncertain,
)
from walarchiver.core.keyhistory import placed_again, shown
from walarchiver.core.version import Entry, MultipartTime, Row, StoreMs
from walarchiver.errors import StoreMisbehaves
from walarchiver.evidence.indexrow import (
    COLUMNS,
    LAST_KEY,
    REINSTATED,
    Facts,
    Stored,
    end_of,
    facts_of,
    key_bytes,
    key_text,
    row_of,
    stored_rows,
)
from walarchiver.evidence.spool import Spool
from walarchiver.evidence.sqliteclasses import Classes
from walarchiver.evidence.sqlitefile import FINISHING, IndexFile
from walarchiver.evidence.sqliteingest import ROWS_AT_ONCE, Taking, Writes, rows_of

_AS_OF = (
    f"SELECT key, {COLUMNS} FROM version WHERE key>=? AND key<?"  # noqa: S608
    " AND until>? AND +begin<=? AND size IS NOT NULL ORDER BY key"
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
_NULL, _UNKNOWN_BEGIN, _ORDER = 1, 4, 8


class SqliteIndex:
    """`VersionIndex` in a file. Thread-safe; several processes may have it open."""

    def __init__(self, path: Path, *, rows_at_once: int = ROWS_AT_ONCE) -> None:
        """Open or make it. Raises IndexUnavailable, IndexForeign."""
        self._file = IndexFile(path)
        self._rows_at_once = rows_at_once
        try:
            self._classes = Classes(self._file)
        except BaseException:
            self._file.close()
            raise

    # --- taking over
    def ingest(self, keys: KeyRange, entries: Iterable[Entry], *, asked: StoreMs) -> Ingested:
        first = key_bytes(keys.first)
        end = LAST_KEY if keys.last is None else key_bytes(keys.last) + b"\0"
        if end <= first:
            return Ingested(0, 0, 0)
        with contextlib.closing(Spool(self._file.path.parent, self._lines(first, end, entries))) as spool:
            taking = Taking(self._file, self._classes, first=first, end=end, asked=asked)
            taking.run(spool, rows_at_once=self._rows_at_once)
        return Ingested(taking.counts.added, taking.counts.gone, taking.counts.revived)

    def _lines(self, first: bytes, end: bytes, entries: Iterable[Entry]) -> Iterator[tuple[bytes, Facts]]:
        number = self._classes.number
        for entry in entries:
            key = key_bytes(entry.key)
            if not first <= key < end:
                raise StoreMisbehaves(f"a listing shows {entry.key!r}, which it was not asked for")
            yield key, facts_of(entry, number)

    def complete_upload(self, key: str, version_id: str, at: StoreMs) -> None:
        whole = key_bytes(key)
        with self._file.writing() as db:
            old = rows_of(db, whole)
            rows = [self._row(key, row) for row in reversed(old)]
            if any(row.entry.version_id == version_id for row in rows):
                new = stored_rows(placed_again(rows, {version_id: at}), self._classes.number)
                if new != old:
                    writes = Writes()
                    writes.put(whole, old, new)
                    writes.write(db)
                return
            db.execute(
                "INSERT INTO completion VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET at=min(at, excluded.at)",
                (whole, version_id, at),
            )

    def load(self, key: str, rows: Iterable[Row]) -> None:
        whole = key_bytes(key)
        new = stored_rows(tuple(rows), self._classes.number)
        with self._file.writing() as db:
            writes = Writes()
            writes.put(whole, rows_of(db, whole), new)
            writes.write(db, is_pending=False)
            db.execute("DELETE FROM pending WHERE key=?", (whole,))

    # --- questions
    def history(self, key: str) -> tuple[Row, ...]:
        ((_, rows),) = self.histories((key,))
        return rows

    def histories(self, keys: Iterable[str]) -> Iterator[tuple[str, tuple[Row, ...]]]:
        with self._file.reading(is_one_state=False) as db:
            habit = None
            for key in keys:
                stored = rows_of(db, key_bytes(key))
                rows = tuple([self._row(key, row) for row in reversed(stored)])
                if any(row[4] & _UNKNOWN_BEGIN for row in stored):
                    habit = habit or self._habit(db)
                    rows = tuple([shown(row, habit) for row in rows])
                yield key, rows

    def as_of(self, moment: StoreMs, *, prefix: str = "", after: str = "") -> Iterator[Row]:
        first, end = _bounds(prefix)
        if after:
            first = max(first, key_bytes(after) + b"\0")
        with self._file.reading() as db:
            habit = self._habit(db)
            with contextlib.closing(db.execute(_AS_OF, (first, end, moment, moment))) as found:
                for key, *row in found:
                    yield shown(self._row(key_text(key), _stored(row)), habit)

    def totals(self, moment: StoreMs, *, prefix: str = "") -> Totals:
        first, end = _bounds(prefix)
        with self._file.reading() as db:
            objects, size = db.execute(_TOTALS, (first, end, moment, moment)).fetchone()
            (gone,) = db.execute(_TOTALS_GONE, (moment, moment, moment, first, end)).fetchone()
        return Totals(objects, size, gone)

    def diff(self, earlier: StoreMs, later: StoreMs, *, prefix: str = "") -> Iterator[Change]:
        if later < earlier:
            for change in self.diff(later, earlier, prefix=prefix):
                yield Change(change.key, change.after, change.before)
            return
        first, end = _bounds(prefix)
        values = {"earlier": earlier, "later": later, "first": first, "end": end}
        with self._file.reading() as db:
            habit = self._habit(db)
            with contextlib.closing(db.execute(_DIFF, values)) as found:
                for key, lines in groupby(found, key=itemgetter(0)):
                    text = key_text(key)
                    rows = [shown(self._row(text, _stored(row)), habit) for _, *row in lines]
                    before = next((row for row in rows if row.was_current(earlier)), None)
                    after = next((row for row in rows if row.was_current(later)), None)
                    if (before and before.entry) != (after and after.entry):
                        yield Change(text, before, after)

    def uncertain(self, moment: StoreMs, *, prefix: str = "", band_ms: int = 1000) -> Iterator[Uncertain]:
        bounds = _bounds(prefix)
        with self._file.reading() as db, contextlib.ExitStack() as open_cursors:

            def asking(sql: str, *values: object) -> sqlite3.Cursor:
                return open_cursors.enter_context(contextlib.closing(db.execute(sql, values)))

            is_end_shown = self._habit(db) is MultipartTime.COMPLETION
            boundary = asking(_BOUNDARY, moment - band_ms, moment, *bounds)
            removed = asking(_REMOVED, moment, moment, moment, moment, *bounds)
            doubts = heapq.merge(
                ((key, Doubt.BOUNDARY) for (key,) in boundary),
                ((key, Doubt.REMOVED) for (key,) in removed),
                _doubts(asking(_DOUBTFUL, *bounds), moment, is_end_shown=is_end_shown),
                key=itemgetter(0),
            )
            for key, found in groupby(doubts, key=itemgetter(0)):
                kinds = {doubt for _, doubt in found}
                yield Uncertain(key_text(key), tuple(doubt for doubt in Doubt if doubt in kinds))

    # --- observations
    def observe(self, seen: Observation) -> None:
        with self._file.writing() as db:
            db.execute("INSERT OR IGNORE INTO observation VALUES (?, ?, ?)", (seen.at, seen.kind, seen.value))
            if seen.kind == "scan":
                for statement in FINISHING:
                    db.execute(statement)

    def observations(self) -> tuple[Observation, ...]:
        with self._file.reading() as db:
            found = db.execute("SELECT at, kind, value FROM observation ORDER BY at, rowid").fetchall()
        return tuple(Observation(StoreMs(at), kind, value) for at, kind, value in found)

    # --- shipping
    def unshipped(self, *, keys_max: int) -> tuple[str, ...]:
        with self._file.reading() as db:
            found = db.execute("SELECT key FROM pending ORDER BY key LIMIT ?", (keys_max,)).fetchall()
        return tuple(key_text(key) for (key,) in found)

    def mark_shipped(self, keys: Iterable[str], *, changes_before: int) -> None:
        marked = [(key_bytes(key), changes_before) for key in keys]
        with self._file.writing() as db:
            db.executemany("DELETE FROM pending WHERE key=? AND change<=?", marked)

    def unship_all(self) -> None:
        with self._file.writing() as db:
            db.execute("UPDATE counter SET value=value+1 WHERE name='changes'")
            db.execute(
                "INSERT OR REPLACE INTO pending"
                " SELECT DISTINCT key, (SELECT value FROM counter WHERE name='changes') FROM version"
            )

    @property
    def changes(self) -> int:
        with self._file.reading() as db:
            (count,) = db.execute("SELECT value FROM counter WHERE name='changes'").fetchone()
        return int(count)

    def close(self) -> None:
        self._file.close()

    def _row(self, key: str, stored: Stored) -> Row:
        return row_of(key, stored, self._classes.name)

    @staticmethod
    def _habit(db: sqlite3.Connection) -> MultipartTime:
        found = db.execute(
            "SELECT value FROM observation WHERE kind='multipart_time' ORDER BY at DESC, rowid DESC LIMIT 1"
        ).fetchone()
        return MultipartTime(found[0]) if found else MultipartTime.UNKNOWN


def _bounds(prefix: str) -> tuple[bytes, bytes]:
    first = key_bytes(prefix)
    return first, end_of(first)


def _stored(row: list[object]) -> Stored:
    return tuple(row)  # type: ignore[return-value]  # SQLite gives the columns of COLUMNS


def _doubts(
    rows: Iterable[tuple[bytes, int, int, int, int]], moment: StoreMs, *, is_end_shown: bool
) -> Iterator[tuple[bytes, Doubt]]:
    for key, begin, until, flags, first_seen in rows:
        if flags & _NULL and begin > moment and not flags & REINSTATED:
            yield key, Doubt.NULL
        if flags & _ORDER and begin <= moment:
            yield key, Doubt.ORDER
        if flags & _UNKNOWN_BEGIN and not is_end_shown and begin <= moment < min(until, first_seen):
            yield key, Doubt.MULTIPART
