"""The SQLite file of a catalog: its tables, and what its failures mean.

Rules:
- A file that is no database, or was written by another release, is made again: it is a cache.
- Every failure of SQLite leaves as CatalogUnavailable.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from walarchiver.errors import CatalogUnavailable

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entry (
    seq INTEGER PRIMARY KEY, sha256 TEXT NOT NULL, time INTEGER NOT NULL, writer TEXT NOT NULL,
    void INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS record (
    kind TEXT NOT NULL, name TEXT NOT NULL, seq INTEGER NOT NULL, idx INTEGER NOT NULL,
    content TEXT NOT NULL, PRIMARY KEY (kind, name, seq, idx)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS segment (
    timeline INTEGER NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (timeline, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS run (
    timeline INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    PRIMARY KEY (timeline, first)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS horizon (
    time INTEGER NOT NULL, lsn INTEGER NOT NULL, timeline INTEGER NOT NULL, seq INTEGER NOT NULL,
    PRIMARY KEY (timeline, lsn, time)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS record_in_order ON record (kind, seq, idx);
"""
PROJECTED_TABLES = {
    "entry": "seq",
    "record": "kind, name, seq, idx",
    "segment": "timeline, number",
    "run": "timeline, first",
    "horizon": "timeline, lsn, time",
}
"""Each table, and the order of its rows."""
SCHEMA_VERSION = 3
_NOT_A_DATABASE = frozenset({sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT})


def open_catalog_file(path: Path | None) -> sqlite3.Connection:
    """Open or make the file; None keeps everything in memory. Raises CatalogUnavailable."""
    with translated():
        try:
            return _opened(path)
        except sqlite3.DatabaseError as error:
            if path is None or error.sqlite_errorcode not in _NOT_A_DATABASE:
                raise
            for tail in ("", "-wal", "-shm"):
                path.with_name(path.name + tail).unlink(missing_ok=True)
            return _opened(path)


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
        if version not in (0, SCHEMA_VERSION):
            for table in PROJECTED_TABLES:
                db.execute(f"DROP TABLE IF EXISTS {table}")
        db.executescript(_SCHEMA)
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    except BaseException:
        db.close()
        raise
    return db
