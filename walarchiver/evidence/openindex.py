"""Open the index of a bucket's versions, with the engine that fits its size (docs/adr has why).

Rules:
- Up to some 3 * 10^7 rows all is in SQLite. Beyond that, and once there are Parquet parts, the base is there.
- Both are the same file; opening a large one brings its rows into parts with the next listing.
"""

from __future__ import annotations

from pathlib import Path

from walarchiver.bucketports import VersionIndex
from walarchiver.evidence.sqliteindex import SqliteIndex

PARQUET_FROM_ROWS = 30_000_000


def open_index(path: Path, *, parquet_from_rows: int = PARQUET_FROM_ROWS) -> VersionIndex:
    """Open or make the index in this file. Raises IndexUnavailable, IndexForeign."""
    index = SqliteIndex(path)
    if index.rows_here <= parquet_from_rows and not index.has_parts:
        return index
    index.close()
    # DuckDB is large; who has a small bucket never loads it.
    from walarchiver.evidence.parquetindex import ParquetIndex

    return ParquetIndex(path)
