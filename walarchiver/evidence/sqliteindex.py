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
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from walarchiver.bucketports import Change, Ingested, KeyRange, Observation, Totals, Uncertain
from walarchiver.core.keyhistory import placed_again
from walarchiver.core.version import Entry, Row, StoreMs
from walarchiver.errors import StoreMisbehaves
from walarchiver.evidence.indexrow import (
    LAST_KEY,
    Facts,
    Stored,
    facts_of,
    key_bytes,
    key_text,
    row_of,
    stored_rows,
)
from walarchiver.evidence.spool import Spool
from walarchiver.evidence.sqliteclasses import Classes
from walarchiver.evidence.sqlitefile import FINISHING, IndexFile
from walarchiver.evidence.sqliteingest import ROWS_AT_ONCE, Base, NoBase, Taking, Writes
from walarchiver.evidence.sqlitequestions import Bounds, Questions, bounds

_LOADED_AT_ONCE = 5_000


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
        first, end = _ends(keys)
        if end <= first:
            return Ingested(0, 0, 0)
        with contextlib.closing(Spool(self._file.path.parent, self._lines(first, end, entries))) as spool:
            taking = Taking(self._file, self._classes, self._base, first=first, end=end, asked=asked)
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
            old, is_in_base = self._stored(db, whole)
            rows = [row_of(key, row, self._classes.name) for row in reversed(old)]
            if any(row.entry.version_id == version_id for row in rows):
                new = stored_rows(placed_again(rows, {version_id: at}), self._classes.number)
                if new != old:
                    writes = Writes()
                    writes.put(whole, old, new, is_in_base=is_in_base)
                    writes.write(db)
                return
            db.execute(
                "INSERT INTO completion VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET at=min(at, excluded.at)",
                (whole, version_id, at),
            )

    def load(self, key: str, rows: Iterable[Row]) -> None:
        self.load_many(((key, tuple(rows)),))

    def load_many(self, histories: Iterable[tuple[str, tuple[Row, ...]]]) -> int:
        total, coming = 0, iter(histories)
        while several := list(islice(coming, _LOADED_AT_ONCE)):
            number = self._classes.number
            new = {key_bytes(key): stored_rows(rows, number) for key, rows in several}
            with self._file.writing() as db:
                writes = Writes()
                for key, stored in new.items():
                    old, is_in_base = self._stored(db, key)
                    writes.put(key, old, stored, is_in_base=is_in_base)
                writes.write(db, is_pending=False)
                db.executemany("DELETE FROM pending WHERE key=?", ((key,) for key in new))
            total += sum(len(rows) for _, rows in several)
        return total

    # --- questions
    def history(self, key: str) -> tuple[Row, ...]:
        ((_, rows),) = self.histories((key,))
        return rows

    def histories(self, keys: Iterable[str]) -> Iterator[tuple[str, tuple[Row, ...]]]:
        with self._file.reading(is_one_state=False) as db:
            questions = self._asking(db)
            for key in keys:
                yield key, questions.rows(key, questions.stored(key_bytes(key)))

    def entries_there(self, keys: KeyRange) -> Iterator[tuple[str, int]]:
        with self._file.reading() as db:
            for key, count in self._asking(db).entries_there(_ends(keys)):
                yield key_text(key), count

    def as_of(self, moment: StoreMs, *, prefix: str = "", after: str = "") -> Iterator[Row]:
        with self._file.reading() as db:
            yield from self._asking(db).as_of(moment, bounds(prefix, after))

    def totals(self, moment: StoreMs, *, prefix: str = "") -> Totals:
        with self._file.reading() as db:
            return self._asking(db).totals(moment, bounds(prefix))

    def diff(self, earlier: StoreMs, later: StoreMs, *, prefix: str = "") -> Iterator[Change]:
        first, last = min(earlier, later), max(earlier, later)
        with self._file.reading() as db:
            for change in self._asking(db).diff(first, last, bounds(prefix)):
                yield change if earlier <= later else Change(change.key, change.after, change.before)

    def uncertain(self, moment: StoreMs, *, prefix: str = "", band_ms: int = 1000) -> Iterator[Uncertain]:
        with self._file.reading() as db:
            yield from self._asking(db).uncertain(moment, bounds(prefix), band_ms)

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
            (change,) = db.execute("SELECT value FROM counter WHERE name='changes'").fetchone()
            self._unship_all(db, change)

    def _unship_all(self, db: sqlite3.Connection, change: int) -> None:
        db.execute("INSERT OR REPLACE INTO pending SELECT DISTINCT key, ? FROM version", (change,))

    @property
    def changes(self) -> int:
        with self._file.reading() as db:
            (count,) = db.execute("SELECT value FROM counter WHERE name='changes'").fetchone()
        return int(count)

    @property
    def rows_here(self) -> int:
        """How many rows are in SQLite."""
        with self._file.reading() as db:
            (count,) = db.execute("SELECT value FROM counter WHERE name='rows'").fetchone()
        return int(count)

    @property
    def has_parts(self) -> bool:
        """Whether rows lie in Parquet parts, too."""
        with self._file.reading() as db:
            return db.execute("SELECT 1 FROM part LIMIT 1").fetchone() is not None

    def close(self) -> None:
        self._file.close()

    # --- what an engine on top of this one has elsewhere
    def _asking(self, db: sqlite3.Connection) -> Questions:
        return Questions(db, self._classes.name)

    def _base(self, db: sqlite3.Connection) -> Base:
        del db
        return NoBase()

    def _stored(self, db: sqlite3.Connection, key: bytes) -> tuple[list[Stored], bool]:
        """A key's rows, and whether they lie in the base."""
        stored = self._asking(db).stored(key)
        if not stored:
            base, _ = self._base(db).known(key, key + b"\0", 1)
            if key in base:
                return base[key], True
        return stored, False


def _ends(keys: KeyRange) -> Bounds:
    return key_bytes(keys.first), LAST_KEY if keys.last is None else key_bytes(keys.last) + b"\0"
