"""Open the index of a bucket's versions, whichever engine keeps it."""

from __future__ import annotations

from pathlib import Path

from walarchiver.bucketports import VersionIndex
from walarchiver.evidence.sqliteindex import SqliteIndex


def open_index(path: Path) -> VersionIndex:
    """Open or make the index in this file. Raises IndexUnavailable, IndexForeign."""
    return SqliteIndex(path)
