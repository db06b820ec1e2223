"""Remembers which content a version has, and which contents lie in a backup bucket: so no byte is read twice.

Rules:
- A file beside the index, of this host alone; losing it costs reading the versions again. A version's bytes
  never change, but for `null` versions, of which nothing is remembered.
- What lies in the backup bucket is listed anew for each pin, and noted as copies are made.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path

from walarchiver.core.pinning import PinnedVersion
from walarchiver.core.version import NULL_VERSION
from walarchiver.errors import IndexUnavailable

_SCHEMA = """
CREATE TABLE IF NOT EXISTS content (
    bucket TEXT, key TEXT, version TEXT, etag TEXT, size INTEGER, sha256 BLOB,
    PRIMARY KEY (bucket, key, version)
) WITHOUT ROWID;
CREATE TEMP TABLE there (sha256 BLOB PRIMARY KEY, size INTEGER) WITHOUT ROWID;
"""


class CopyMemory:
    """One file. Thread-safe."""

    def __init__(self, path: Path) -> None:
        """Raises IndexUnavailable."""
        self._lock = threading.Lock()
        try:
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._db.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; {_SCHEMA}")
        except sqlite3.Error as failure:
            raise IndexUnavailable(f"{path}: {failure}") from failure

    def content_of(self, bucket: str, version: PinnedVersion) -> str | None:
        """SHA-256 of a version that was read before, in hexadecimal."""
        rows = self._rows(
            "SELECT sha256 FROM content WHERE (bucket, key, version, etag, size) = (?, ?, ?, ?, ?)",
            (bucket, version.key, version.version_id, version.etag, version.size),
        )
        return bytes(rows[0][0]).hex() if rows else None

    def note_content(self, bucket: str, version: PinnedVersion, sha256: str) -> None:
        if version.version_id != NULL_VERSION:
            self._rows(
                "INSERT OR REPLACE INTO content VALUES (?, ?, ?, ?, ?, ?)",
                (bucket, version.key, version.version_id, version.etag, version.size, bytes.fromhex(sha256)),
            )

    def is_there(self, sha256: str, size: int) -> bool:
        """Whether the backup bucket has this content."""
        return bool(
            self._rows("SELECT 1 FROM there WHERE (sha256, size) = (?, ?)", (bytes.fromhex(sha256), size))
        )

    def note_there(self, contents: Iterable[tuple[str, int]]) -> None:
        rows = [(bytes.fromhex(sha256), size) for sha256, size in contents]
        with self._lock:
            self._db.executemany("INSERT OR REPLACE INTO there VALUES (?, ?)", rows)

    def close(self) -> None:
        self._db.close()

    def _rows(self, sql: str, values: tuple[object, ...]) -> list[tuple[bytes, ...]]:
        try:
            with self._lock:
                return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as failure:
            raise IndexUnavailable(f"what is known of copies: {failure}") from failure
