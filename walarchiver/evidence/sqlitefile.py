"""The SQLite file of a version index: its tables, its connections, and what its failures mean.

Rules:
- One thread of one process writes at a time; others read meanwhile, each what was committed when it began.
- A file of another schema, or no index at all, is refused: it is a cache, but removals and the ends of
  multipart uploads stand in no listing, so it is not thrown away unasked.
- Every failure of SQLite leaves as IndexUnavailable or IndexForeign.
- `by_begin` may be missing while very much is taken over at once; questions are then slower, not wrong.
- A question that looks at a whole range of keys must not be led through `by_begin`: it says `+begin`.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from walarchiver.errors import IndexForeign, IndexUnavailable

SCHEMA_VERSION = 1
APPLICATION_ID = 0x77616269
"""`wabi`: tells such a file from other databases."""
_PAGE_BYTES = 8192
_WRITER_CACHE_KIB = 65_536
_READER_CACHE_KIB = 16_384
_READERS_KEPT = 4
_BUSY_S = 60

_SCHEMA = (
    """CREATE TABLE version (
    key BLOB NOT NULL, place INTEGER NOT NULL, begin INTEGER NOT NULL, until INTEGER NOT NULL, size INTEGER,
    flags INTEGER NOT NULL, id, etag, class INTEGER NOT NULL, first_seen INTEGER NOT NULL,
    lag INTEGER NOT NULL, tie INTEGER NOT NULL, gone_by INTEGER, gone_after INTEGER,
    PRIMARY KEY (key, place)) WITHOUT ROWID""",
    # 13: NULL, UNKNOWN_BEGIN, ORDER_CONFLICT of core/version.py
    """CREATE INDEX doubtful ON version (key, place, begin, until, flags, first_seen)
    WHERE flags & 13""",
    """CREATE INDEX removed ON version (gone_by, gone_after, begin, until, size)
    WHERE gone_by IS NOT NULL""",
    "CREATE TABLE class (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
    """CREATE TABLE completion (
    key BLOB NOT NULL, id TEXT NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (key, id)) WITHOUT ROWID""",
    # From this key on, up to the next one here, a listing asked for then was the last that counted.
    "CREATE TABLE covered (first BLOB PRIMARY KEY, asked INTEGER) WITHOUT ROWID",
    "CREATE TABLE pending (key BLOB PRIMARY KEY, change INTEGER NOT NULL) WITHOUT ROWID",
    """CREATE TABLE observation (
    at INTEGER NOT NULL, kind TEXT NOT NULL, value TEXT NOT NULL, UNIQUE (kind, at, value))""",
    "CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    # Rows that lie in Parquet parts (parquetindex.py), and what of them is no longer so.
    """CREATE TABLE part (
    name TEXT PRIMARY KEY, first BLOB NOT NULL, last BLOB NOT NULL, rows INTEGER NOT NULL,
    is_retired INTEGER NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE shadow (
    key BLOB NOT NULL, place INTEGER NOT NULL, begin INTEGER NOT NULL, until INTEGER NOT NULL, size INTEGER,
    gone_by INTEGER, PRIMARY KEY (key, place)) WITHOUT ROWID""",
    "INSERT INTO class VALUES (0, ''), (1, 'STANDARD')",
    "INSERT INTO counter VALUES ('changes', 0), ('finished', 0), ('parts', 0), ('rows', 0)",
    "INSERT INTO covered VALUES (x'', NULL)",
)
FINISHING = (
    "CREATE INDEX IF NOT EXISTS by_begin ON version (begin)",
    "UPDATE counter SET value=(SELECT value FROM counter WHERE name='rows') WHERE name='finished'",
)
"""What is done when everything was taken over."""


class IndexFile:
    """Connections to one index. Thread-safe."""

    def __init__(self, path: Path) -> None:
        """Open or make it. Raises IndexUnavailable, IndexForeign."""
        self.path = path
        self._writing = threading.Lock()
        self._keeping = threading.Lock()
        self._readers: list[sqlite3.Connection] = []
        self._is_closed = False
        with translated(path):
            self._writer = _connected(path, _WRITER_CACHE_KIB)
            try:
                if _refuse_foreign(self._writer, path):  # else nothing is locked: somebody may be writing
                    _prepare(self._writer, path)
            except BaseException:
                self._writer.close()
                raise

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction; rolled back when the block raises."""
        with self._writing, translated(self.path):
            db = self._writer
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def reading(self, *, is_one_state: bool = True) -> Iterator[sqlite3.Connection]:
        """A connection of one's own. All its statements see one state of the index, unless not asked for."""
        with translated(self.path):
            with self._keeping:
                db = self._readers.pop() if self._readers else None
            if db is None:
                db = _connected(self.path, _READER_CACHE_KIB)
                db.execute("PRAGMA query_only=1")
            try:
                if is_one_state:
                    db.execute("BEGIN")
                yield db
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                with self._keeping:
                    is_kept = not self._is_closed and len(self._readers) < _READERS_KEPT
                    if is_kept:
                        self._readers.append(db)
                if not is_kept:
                    db.close()

    def shrink(self, free_bytes_max: int) -> None:
        """Give space back when there is more than so much free, and more than is used."""
        with self._writing, translated(self.path):
            (free,) = self._writer.execute("PRAGMA freelist_count").fetchone()
            (pages,) = self._writer.execute("PRAGMA page_count").fetchone()
            if free * _PAGE_BYTES > free_bytes_max and free > pages // 2:
                self._writer.execute("VACUUM")

    def close(self) -> None:
        with self._writing, self._keeping:
            self._is_closed = True
            for db in (*self._readers, self._writer):
                db.close()
            self._readers.clear()


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raises IndexUnavailable or IndexForeign for whatever SQLite raises inside."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            raise IndexForeign(f"{path} is damaged or no database: {error}") from error
        raise IndexUnavailable(f"the index {path} cannot be used: {error}") from error


def _connected(path: Path, cache_kib: int) -> sqlite3.Connection:
    db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=_BUSY_S)
    try:
        _refuse_foreign(db, path)
        db.execute(f"PRAGMA page_size={_PAGE_BYTES}")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute(f"PRAGMA cache_size=-{cache_kib}")
    except BaseException:
        db.close()
        raise
    return db


def _refuse_foreign(db: sqlite3.Connection, path: Path) -> bool:
    """Whether the file is empty. Raises IndexForeign, before anything was written."""
    (kind,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables == 0 and kind == 0:
        return True
    if kind != APPLICATION_ID:
        raise IndexForeign(f"{path} is another program's database")
    if version != SCHEMA_VERSION:
        raise IndexForeign(f"{path} has schema {version}, this release reads {SCHEMA_VERSION}")
    return False


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    """Make the tables of a new file, in one transaction."""
    db.execute("BEGIN IMMEDIATE")
    try:
        if _refuse_foreign(db, path):  # another process may have made them meanwhile
            for statement in (*_SCHEMA, *FINISHING):
                db.execute(statement)
            db.execute(f"PRAGMA application_id={APPLICATION_ID}")
            db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
