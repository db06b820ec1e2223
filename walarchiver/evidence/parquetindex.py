"""The index of a very large bucket: a base in Parquet parts, changes in SQLite before it.

Rules:
- The file is the one of sqliteindex.py, and any such file may be opened so; its folder of parts lies beside.
- When SQLite has more than `CHANGES_MAX` rows they are merged into the base: only parts between whose keys
  something changed are written anew. That is one transaction; parts nobody names any more are removed by
  the next merge, so who reads meanwhile finds his.
- One key costs some ten milliseconds here: this engine is for listings, not for single events.
"""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from walarchiver.bucketports import Ingested, KeyRange
from walarchiver.core.version import Entry, Row, StoreMs
from walarchiver.evidence.indexrow import COLUMNS, LAST_KEY, Stored, key_bytes
from walarchiver.evidence.parquetparts import PART_ROWS, Part, Shelf
from walarchiver.evidence.parquetquestions import ParquetQuestions
from walarchiver.evidence.sqliteindex import SqliteIndex
from walarchiver.evidence.sqliteingest import ROWS_AT_ONCE, Base
from walarchiver.evidence.sqlitequestions import Bounds

CHANGES_MAX = 1_000_000
_FREE_BYTES = 1 << 30
_LIVE = "SELECT name, first, last, rows FROM part WHERE is_retired=0 ORDER BY first"
ALL: Bounds = (b"", LAST_KEY)
Line = tuple[bytes, Stored]


class ParquetIndex(SqliteIndex):
    """`VersionIndex` in a file and a folder beside it. Thread-safe; several processes may have it open."""

    def __init__(
        self,
        path: Path,
        *,
        rows_at_once: int = ROWS_AT_ONCE,
        changes_max: int = CHANGES_MAX,
        part_rows: int = PART_ROWS,
    ) -> None:
        """Open or make it. Raises IndexUnavailable, IndexForeign."""
        super().__init__(path, rows_at_once=rows_at_once)
        self._changes_max, self._part_rows = changes_max, part_rows
        self._shelf = Shelf(folder_of(path))

    def ingest(self, keys: KeyRange, entries: Iterable[Entry], *, asked: StoreMs) -> Ingested:
        told = super().ingest(keys, entries, asked=asked)
        if self.rows_here > self._changes_max:
            self.merge(above=self._changes_max)
        return told

    def histories(self, keys: Iterable[str]) -> Iterator[tuple[str, tuple[Row, ...]]]:
        with self._file.reading() as db:
            yield from self._asking(db).several(keys)

    def close(self) -> None:
        super().close()
        self._shelf.close()

    def _unship_all(self, db: sqlite3.Connection, change: int) -> None:
        super()._unship_all(db, change)
        asking = self._asking(db)
        found = asking.shelf.select(asking.parts, "DISTINCT key", "true", (), ALL, tail="ORDER BY key")
        keys = ((key_bytes(str(key)), change) for (key,) in found)
        db.executemany("INSERT OR REPLACE INTO pending VALUES (?, ?)", asking.visible(keys, ALL))

    def _asking(self, db: sqlite3.Connection) -> ParquetQuestions:
        parts = tuple(Part(*line) for line in db.execute(_LIVE))
        return ParquetQuestions(db, self._classes.name, self._shelf, parts)

    def _base(self, db: sqlite3.Connection) -> Base:
        return self._asking(db)

    # --- changes into the base
    def merge(self, *, above: int = -1) -> None:
        """Bring the changes into the base, if these are more than `above` rows."""
        with self._file.writing() as db:
            (rows,) = db.execute("SELECT value FROM counter WHERE name='rows'").fetchone()
            if rows <= above:
                return  # another thread was faster
            named = {name for (name,) in db.execute("SELECT name FROM part WHERE is_retired=0")}
            for name in self._shelf.files():
                if name not in named:
                    self._shelf.remove(name)
            db.execute("DELETE FROM part WHERE is_retired=1")
            for within, part in _slots(self._asking(db).parts):
                self._merge_slot(db, within, part)
            db.execute("DELETE FROM version")
            db.execute("DELETE FROM shadow")
            db.execute("UPDATE counter SET value=0 WHERE name IN ('rows', 'finished')")
        self._file.shrink(_FREE_BYTES)

    def _merge_slot(self, db: sqlite3.Connection, within: Bounds, part: Part | None) -> None:
        """The changes of a stretch of keys, and the part that lies in it, if any."""
        select = "SELECT count(*), min(key) FROM (SELECT key FROM version WHERE key>=? AND key<? LIMIT ?)"
        worth_a_part = max(1, self._part_rows // 4)
        rows, lowest = db.execute(select, (*within, worth_a_part)).fetchone()
        shadowed = db.execute("SELECT 1 FROM shadow WHERE key>=? AND key<? LIMIT 1", within).fetchone()
        if not rows and not shadowed:
            return
        changes = db.execute(
            f"SELECT key, {COLUMNS} FROM version WHERE key>=? AND key<? ORDER BY key, place",  # noqa: S608
            within,
        )
        lines: Iterator[Line] = ((line[0], line[1:]) for line in changes)
        if part is not None and (shadowed or lowest <= part.last or rows < worth_a_part):
            asking = self._asking(db)
            kept = asking.visible(self._shelf.rows((part,), within), within)
            lines = heapq.merge(kept, lines, key=itemgetter(0))
            db.execute("UPDATE part SET is_retired=1 WHERE name=?", (part.name,))
        pieces = _Pieces(lines)
        while pieces.head is not None:
            first = pieces.head[0]
            db.execute("UPDATE counter SET value=value+1 WHERE name='parts'")
            (number,) = db.execute("SELECT value FROM counter WHERE name='parts'").fetchone()
            name = f"{number:08}.parquet"
            count = self._shelf.write(name, pieces.take(self._part_rows))
            db.execute("INSERT INTO part VALUES (?, ?, ?, ?, 0)", (name, first, pieces.last, count))


class _Pieces:
    """Lines in key order, so many at a time, keys whole."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self._groups = groupby(lines, key=itemgetter(0))
        self.head = next(self._groups, None)
        self.last = b""

    def take(self, rows_max: int) -> Iterator[Line]:
        count = 0
        while self.head is not None and count < rows_max:
            self.last, group = self.head
            for line in group:
                count += 1
                yield line
            self.head = next(self._groups, None)


def _slots(parts: Sequence[Part]) -> Iterator[tuple[Bounds, Part | None]]:
    """The order of keys cut at the parts' beginnings."""
    if not parts:
        yield ALL, None
    for at, part in enumerate(parts):
        end = parts[at + 1].first if at + 1 < len(parts) else LAST_KEY
        yield (part.first if at else b"", end), part


def folder_of(path: Path) -> Path:
    """Where the parts of an index lie."""
    return path.with_name(path.name + ".parts")
