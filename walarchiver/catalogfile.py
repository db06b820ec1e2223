"""The SQLite file of a catalog: its tables, and what its failures mean.

Rules:
- A file that is no database, or was written by another release, is made again: it is a cache.
- Every failure of SQLite leaves as CatalogUnavailable.
- A file that cannot be written (disk full, read-only, no permission) keeps nobody from working: what it
  held goes on in memory, the transaction under way is done there again, and one warning says so. The
  next process begins with the file, or with nothing, and loses nothing by it.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from walarchiver.errors import CatalogUnavailable

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entry (
    seq INTEGER PRIMARY KEY, sha256 TEXT NOT NULL, time INTEGER NOT NULL, writer TEXT NOT NULL,
    void INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS record (
    kind TEXT NOT NULL, name TEXT NOT NULL, seq INTEGER NOT NULL, idx INTEGER NOT NULL,
    content TEXT NOT NULL, PRIMARY KEY (kind, name, seq, idx));
CREATE TABLE IF NOT EXISTS segment (
    timeline INTEGER NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (timeline, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS run (
    timeline INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    PRIMARY KEY (timeline, first)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS horizon (
    time INTEGER NOT NULL, lsn INTEGER NOT NULL, timeline INTEGER NOT NULL, seq INTEGER NOT NULL,
    PRIMARY KEY (timeline, lsn, time)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS record_in_order ON record (kind, seq, idx);
CREATE INDEX IF NOT EXISTS scan_bad ON record (name)
    WHERE kind='scan' AND instr(content, '"ending":"bad"') > 0;
CREATE INDEX IF NOT EXISTS horizon_by_time ON horizon (timeline, time);
CREATE INDEX IF NOT EXISTS horizon_in_order ON horizon (timeline, seq);
CREATE TABLE IF NOT EXISTS scanned (
    timeline INTEGER NOT NULL, number INTEGER NOT NULL, origin TEXT NOT NULL,
    first_prev INTEGER NOT NULL, last INTEGER NOT NULL, PRIMARY KEY (timeline, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS span (
    timeline INTEGER NOT NULL, level INTEGER NOT NULL, number INTEGER NOT NULL, until INTEGER NOT NULL,
    commits INTEGER NOT NULL, events INTEGER NOT NULL, oldest INTEGER, newest INTEGER,
    first_time INTEGER, last_time INTEGER, backward INTEGER NOT NULL,
    checkpoint_time INTEGER, checkpoint_lsn INTEGER, xid_low INTEGER, xid_high INTEGER,
    PRIMARY KEY (timeline, level, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS chain (
    timeline INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    PRIMARY KEY (timeline, first)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS chain_by_last ON chain (timeline, last);
CREATE TABLE IF NOT EXISTS listed (
    timeline INTEGER NOT NULL, what TEXT NOT NULL, number INTEGER NOT NULL, name TEXT NOT NULL,
    PRIMARY KEY (timeline, what, number, name)) WITHOUT ROWID;
"""
PROJECTED_TABLES = {
    "entry": "seq",
    "record": "kind, name, seq, idx",
    "segment": "timeline, number",
    "run": "timeline, first",
    "horizon": "timeline, lsn, time",
    "scanned": "timeline, number",
    "span": "timeline, level, number",
    "chain": "timeline, first",
    "listed": "timeline, what, number, name",
}
"""Each table, and the order of its rows."""
SCHEMA_VERSION = 7
_NOT_A_DATABASE = frozenset({sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT})


_CANNOT_WRITE = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_IOERR,
    }
)
_PRIMARY_CODE = 0xFF
"""The low byte of SQLite's extended error codes."""


class CatalogFile:
    """A catalog's database: in its file, or in memory from the moment the file cannot be written.

    Not thread-safe; the catalog's lock guards it. Raises sqlite3.Error.
    """

    def __init__(self, path: Path | None, warn: Callable[[str], None]) -> None:
        self._path = path
        self._warn = warn
        self._under_way: list[tuple[str, tuple[object, ...]]] = []
        """The statements of the open transaction."""
        try:
            self._db = _opened(path)
        except sqlite3.DatabaseError as error:
            if not self._is_cannot_write(error):
                raise
            self._db = _opened(None)
            self._leave_file(error)

    @property
    def in_transaction(self) -> bool:
        return self._db.in_transaction

    def execute(self, sql: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        """One statement; in memory when the file cannot take it."""
        if sql.startswith("BEGIN"):
            self._under_way.clear()
        try:
            cursor = self._db.execute(sql, values)
        except sqlite3.Error as error:
            if not self._is_cannot_write(error):
                raise
            cursor = self._again_in_memory(sql, values, error)
        if sql.startswith(("COMMIT", "ROLLBACK")):
            self._under_way.clear()
        elif self._db.in_transaction and not sql.startswith("SELECT"):
            self._under_way.append((sql, values))
        return cursor

    def executemany(self, sql: str, rows: Iterable[tuple[object, ...]]) -> None:
        for row in rows:
            self.execute(sql, row)

    def close(self) -> None:
        self._db.close()

    def _is_cannot_write(self, error: sqlite3.Error) -> bool:
        code = getattr(error, "sqlite_errorcode", 0)
        return self._path is not None and code & _PRIMARY_CODE in _CANNOT_WRITE

    def _again_in_memory(self, sql: str, values: tuple[object, ...], error: sqlite3.Error) -> sqlite3.Cursor:
        """Copy what the file holds, and do there what the transaction has done so far."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        memory = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        try:
            self._db.backup(memory)
        except sqlite3.Error:
            # Not readable either. What is under way rests on what the file held: it must begin anew.
            memory.close()
            self._db.close()
            self._db = _opened(None)
            self._leave_file(error)
            raise error from None
        self._db.close()
        self._db = memory
        self._leave_file(error)
        for earlier in self._under_way:
            self._db.execute(*earlier)
        return self._db.execute(sql, values)

    def _leave_file(self, error: sqlite3.Error) -> None:
        self._warn(
            f"the catalog {self._path} cannot be written ({error}): it is kept in memory, nothing is lost"
        )
        self._path = None


def open_catalog_file(path: Path | None, warn: Callable[[str], None] = lambda _line: None) -> CatalogFile:
    """Open or make the file; None keeps everything in memory. Raises CatalogUnavailable.

    `warn` gets a line when the file cannot be written, now or later.
    """
    with translated():
        try:
            return CatalogFile(path, warn)
        except sqlite3.DatabaseError as error:
            if path is None or error.sqlite_errorcode not in _NOT_A_DATABASE:
                raise
            for tail in ("", "-wal", "-shm"):
                path.with_name(path.name + tail).unlink(missing_ok=True)
            return CatalogFile(path, warn)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raises CatalogUnavailable for whatever SQLite raises inside."""
    try:
        yield
    except sqlite3.Error as error:
        raise CatalogUnavailable(f"the catalog cannot be used: {error}") from error


def _opened(path: Path | None) -> sqlite3.Connection:
    db = sqlite3.connect(
        ":memory:" if path is None else path, check_same_thread=False, isolation_level=None, timeout=30
    )
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version != SCHEMA_VERSION:  # else nothing is written: opening is part of every command
            if version:
                for table in PROJECTED_TABLES:
                    db.execute(f"DROP TABLE IF EXISTS {table}")
            db.executescript(_SCHEMA)
            db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    except BaseException:
        db.close()
        raise
    return db
