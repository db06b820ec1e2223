"""Rows of a version index as Parquet, and back (docs/format.md, `bucket_index`).

Rules:
- DuckDB writes and reads the files. It works in memory, with one thread, and reaches neither the network nor
  files other than the ones named.
- Texts travel to it in hexadecimal, so that no character of a key can be taken for syntax.
- Files come in the order of the rows given; what is read comes in the file's order.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from walarchiver.core.version import Entry, EntryKind, Placed, Row, StoreMs, Trait
from walarchiver.errors import MalformedObject

COLUMNS = (
    "key",
    "version_id",
    "kind",
    "modified",
    "tie",
    "begin",
    "until",
    "size",
    "etag",
    "storage_class",
    "traits",
    "first_seen",
    "gone_by",
    "gone_after",
    "is_latest",
)
_TEXTS = frozenset({"key", "version_id", "kind", "etag", "storage_class"})
_FETCH = 10_000
_GROUP_ROWS = 122_880
"""As DuckDB does by itself."""
_THREADS = 1
MEMORY = "256MB"


def write_rows(rows: Iterable[Row], target: Path) -> int:
    """Write a Parquet file (zstd); the number of rows. Overwrites `target`, not atomically."""
    spelled = (_spelled(row) for row in rows)
    return write_table(COLUMNS, _TEXTS, spelled, target)


def read_rows(source: Path) -> Iterator[Row]:
    """The rows of a file. Raises MalformedObject."""
    for values in read_table(COLUMNS, source):
        yield _row(values)


def write_table(
    columns: tuple[str, ...],
    texts: frozenset[str],
    rows: Iterable[tuple[str | int | None, ...]],
    target: Path,
    *,
    group_rows: int = _GROUP_ROWS,
) -> int:
    """Write rows of texts and whole numbers under these columns; the number of rows.

    A reader that looks for few keys opens whole groups of `group_rows`.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".csv", dir=target.parent, encoding="ascii") as lines:
        count = 0
        for row in rows:
            lines.write(",".join(_field(value) for value in row) + "\n")
            count += 1
        lines.flush()
        types = ", ".join(f"'{name}': '{'VARCHAR' if name in texts else 'BIGINT'}'" for name in columns)
        chosen = ", ".join(
            f"decode(unhex(substr({name}, 2))) AS {name}" if name in texts else name for name in columns
        )
        with _connection() as db:
            db.execute(  # COPY takes no parameters; the names are ours
                f"COPY (SELECT {chosen} FROM read_csv('{_quoted(Path(lines.name))}', header=false, "  # noqa: S608
                f"auto_detect=false, delim=',', quote='', escape='', columns={{{types}}})) "
                f"TO '{_quoted(target)}' (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {group_rows})"
            )
    return count


def read_table(columns: tuple[str, ...], source: Path) -> Iterator[tuple[object, ...]]:
    """The rows of a file, in its order. Raises MalformedObject when it has not these columns."""
    with _connection() as db:
        wanted = ", ".join(columns)
        cursor = db.execute(f"SELECT {wanted} FROM read_parquet(?)", [str(source)])  # noqa: S608  our own names
        while batch := cursor.fetchmany(_FETCH):
            yield from batch


def _field(value: str | int | None) -> str:
    """Texts are hexadecimal behind an `x`, so that an empty one is no NULL."""
    if value is None:
        return ""
    return f"x{value.encode('utf-8').hex()}" if isinstance(value, str) else str(value)


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


@contextmanager
def _connection() -> Iterator[duckdb.DuckDBPyConnection]:
    db = duckdb.connect(
        ":memory:",
        config={
            "threads": _THREADS,
            "memory_limit": MEMORY,
            "preserve_insertion_order": True,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        },
    )
    try:
        yield db
    except duckdb.Error as cause:
        raise MalformedObject(f"a Parquet file cannot be used: {str(cause).splitlines()[0]}") from cause
    finally:
        db.close()


def _spelled(row: Row) -> tuple[str | int | None, ...]:
    placed, entry = row.placed, row.entry
    return (
        entry.key,
        entry.version_id,
        entry.kind.value,
        entry.modified,
        placed.tie,
        placed.begin,
        placed.until,
        entry.size,
        entry.etag,
        entry.storage_class,
        placed.traits.value,
        row.first_seen,
        row.gone_by,
        row.gone_after,
        int(entry.is_latest),
    )


def _row(values: tuple[object, ...]) -> Row:
    texts = [value for value in values[:3] + values[8:10] if not isinstance(value, str)]
    numbers = [value for value in (*values[3:8], *values[10:12], values[14]) if not isinstance(value, int)]
    if texts or numbers:
        raise MalformedObject(
            f"a row of a version index has {(texts or numbers)[0]!r} in a column that needs a value"
        )
    key, version_id, kind, modified, tie, begin, until, size, etag, storage_class, traits, seen = values[:12]
    gone_by, gone_after, is_latest = values[12:]
    entry = Entry(
        key=str(key),
        version_id=str(version_id),
        kind=EntryKind(str(kind)),
        modified=_ms(modified),
        size=_ms(size),
        etag=str(etag),
        storage_class=str(storage_class),
        is_latest=bool(is_latest),
    )
    placed = Placed(entry, _ms(begin), _ms(until), _ms(tie), Trait(_ms(traits)))
    return Row(
        placed,
        _ms(seen),
        None if gone_by is None else _ms(gone_by),
        None if gone_after is None else _ms(gone_after),
    )


def _ms(value: object) -> StoreMs:
    assert isinstance(value, int)
    return StoreMs(value)
