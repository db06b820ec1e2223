"""What a database refers to in the bucket: runs the configured query, row by row.

Rules:
- One read-only, repeatable-read transaction with a server-side cursor: a big answer never fills memory, and
  the query cannot change anything.
- The first column is the key, whatever its name. Further columns are known by name: version_id, sha256, etag,
  size. A digest may be bytea or hex text. Another name is an error: a misspelt column would weaken the check.
- Keys and ids may be bytea, or the text of a database without an encoding: UTF-8 then. What cannot be
  understood is an error, never a reference to something else.
- NULL means that the database does not say. A row without a key refers to nothing and is counted apart.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg.rows import TupleRow

from walarchiver.errors import ConfigError
from walarchiver.postgres.connection import database_errors, open_connection

COLUMNS = ("version_id", "sha256", "etag", "size")
ROWS_AT_ONCE = 5000
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ReferenceRow:
    """One row of the query's answer."""

    key: str | None
    version_id: str | None
    sha256: str | None
    etag: str | None
    size: int | None


def read_references(
    dsn: str, query: str, *, dbname: str | None = None
) -> Generator[ReferenceRow, None, None]:
    """The rows of the query, in its order. `dbname`: instead of the dsn's.

    Raises ConfigError for a query that cannot be used, DatabaseUnavailable.
    """
    with database_errors(), _query_errors(), open_connection(dsn, dbname=dbname) as connection:
        connection.execute("SET statement_timeout = 0")
        connection.execute("SET idle_in_transaction_session_timeout = 0")  # bytes may be read in between
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        with connection.cursor(name="walarchiver_references") as cursor:
            cursor.itersize = ROWS_AT_ONCE
            cursor.execute(query.encode())
            places = _places(cursor, query)
            for row in cursor:
                yield _row(row, places)


@contextmanager
def _query_errors() -> Iterator[None]:
    """Inside, what is wrong with the query itself becomes ConfigError (classes 22, 42 and 25006)."""
    try:
        yield
    except (psycopg.ProgrammingError, psycopg.DataError, psycopg.errors.ReadOnlySqlTransaction) as cause:
        said = cause.diag.message_primary or str(cause)
        raise ConfigError(
            f"the `references` query cannot be used: {said}",
            hint="It must be one SELECT that the configured role may run.",
        ) from cause


def _places(cursor: psycopg.ServerCursor[TupleRow], query: str) -> dict[str, int]:
    names = [column.name for column in cursor.description or ()]
    unknown = [name for name in names[1:] if name not in COLUMNS]
    if not names or unknown or len(set(names[1:])) < len(names[1:]):
        raise ConfigError(
            f"the `references` query {query!r} has the columns {', '.join(names) or '(none)'}",
            hint=f"The first is the key; the others may be {', '.join(COLUMNS)}, once each, so named.",
        )
    return {name: at for at, name in enumerate(names) if at > 0}


def _row(row: TupleRow, places: dict[str, int]) -> ReferenceRow:
    def value(name: str) -> object:
        return row[places[name]] if name in places else None

    return ReferenceRow(
        key=_text(row[0], "key"),
        version_id=_text(value("version_id"), "version_id"),
        sha256=_digest(value("sha256")),
        etag=_text(value("etag"), "etag"),
        size=_size(value("size")),
    )


def _text(value: object, column: str) -> str | None:
    if not isinstance(value, bytes | memoryview):
        return None if value is None else str(value)
    try:
        return bytes(value).decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(
            f"the `references` query gives {bytes(value)[:80]!r} as {column}",
            hint="Names of objects are UTF-8; give it as text.",
        ) from None


def _size(value: object) -> int | None:
    if value is None:
        return None
    try:
        size = int(str(value)) if isinstance(value, str) else int(value)  # type: ignore[call-overload]
        exact = isinstance(value, str) or size == value
    except (TypeError, ValueError, OverflowError):
        size, exact = -1, False
    if not exact or size < 0:
        raise ConfigError(
            f"the `references` query gives {str(value)[:80]!r} as size",
            hint="It must be a whole number of bytes.",
        )
    return int(size)


def _digest(value: object) -> str | None:
    if value is None:
        return None
    spelled = bytes(value).hex() if isinstance(value, bytes | memoryview) else str(value).strip().lower()
    spelled = spelled.removeprefix("\\x").removeprefix("sha256:")
    if _SHA256.fullmatch(spelled) is None:
        raise ConfigError(
            f"the `references` query gives {str(value)[:80]!r} as sha256",
            hint="It must be 64 hex digits, or a bytea of 32 bytes.",
        )
    return spelled
