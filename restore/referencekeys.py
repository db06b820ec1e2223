"""The keys that a database refers to, in key order, however many: a temporary SQLite file, not memory."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

_BATCH = 10_000


class ReferenceKeys:
    """A sorted set of keys. For one thread."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder`: where the temporary file lies; default: the system's place for them."""
        self._place = tempfile.TemporaryDirectory(prefix="walarchiver-references-", dir=folder)
        self._db = sqlite3.connect(Path(self._place.name) / "keys.sqlite", isolation_level=None)
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute("CREATE TABLE wanted (key BLOB PRIMARY KEY, plain INTEGER) WITHOUT ROWID")
        self._waiting: list[tuple[bytes, bool]] = []

    def add(self, keys: Iterable[tuple[str, bool]]) -> None:
        """Keys, each with whether a reference means just what the key held at the moment."""
        for key, plain in keys:
            self._waiting.append((key.encode("utf-8", "surrogateescape"), plain))
            if len(self._waiting) >= _BATCH:
                self._write()

    def _write(self) -> None:
        self._db.execute("BEGIN")
        self._db.executemany(
            "INSERT INTO wanted VALUES (?, ?)"
            " ON CONFLICT (key) DO UPDATE SET plain = plain OR excluded.plain",
            self._waiting,
        )
        self._db.execute("COMMIT")
        self._waiting.clear()

    def __iter__(self) -> Iterator[str]:
        """In the order of their UTF-8 bytes."""
        self._write()
        for (key,) in self._db.execute("SELECT key FROM wanted ORDER BY key"):
            yield key.decode("utf-8", "surrogateescape")

    def any_plain(self, key: str) -> bool:
        """Whether some reference means what the key held at the moment."""
        self._write()
        sql = "SELECT plain FROM wanted WHERE key=?"
        found = self._db.execute(sql, (key.encode("utf-8", "surrogateescape"),)).fetchone()
        return found is not None and bool(found[0])

    def close(self) -> None:
        self._db.close()
        self._place.cleanup()
