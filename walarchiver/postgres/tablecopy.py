"""Move rows out of a server and into another, byte by byte as COPY writes them, and ask it questions.

Rules:
- Rows pass through as they come; memory does not grow with the table.
- A side schema is made, filled and counted in one transaction: it is there whole or not at all. It never
  exists before: nothing is ever loaded into a table that somebody else made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg.rows import TupleRow

from walarchiver.core.table import TableName, quote_identifier
from walarchiver.errors import DatabaseUnavailable, RescueFailed, SchemaTaken, StatementFailed
from walarchiver.postgres.connection import conninfo, one_line
from walarchiver.postgres.tables import Connection, reading

LOCK_TIMEOUT_S = 30

_BOOL, _INTEGERS, _JSON = 16, frozenset({20, 21, 23, 26}), frozenset({114, 3802})
"""OIDs of built-in types (src/include/catalog/pg_type.dat)."""

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]


@dataclass(frozen=True, slots=True)
class Answered:
    """What one statement gave."""

    status: str
    """As psql shows it: `SELECT 3`."""
    columns: tuple[str, ...]
    rows: tuple[tuple[JsonValue, ...], ...]


def count_rows(connection: Connection, query: str) -> int:
    """How many rows a query gives. Raises RescueFailed with the server's words."""
    with _taking():
        row = connection.execute(f"SELECT count(*) FROM ({query}) AS r".encode()).fetchone()  # noqa: S608
    assert row is not None
    return int(row[0])


def check_query(connection: Connection, query: str) -> None:
    """Whether PostgreSQL understands it; nothing is read. Raises RescueFailed with its words."""
    with _taking():
        connection.execute(f"SELECT FROM ({query}) AS r LIMIT 0".encode())


def copy_out(connection: Connection, query: str, options: str, write: Callable[[bytes], object]) -> int:
    """Write a query's rows as COPY gives them; how many there were. Raises RescueFailed."""
    with _taking(), connection.cursor() as cursor:
        with cursor.copy(f"COPY ({query}) TO STDOUT {options}".encode()) as copy:
            for chunk in copy:
                write(bytes(chunk))
        return cursor.rowcount


def copied_lines(connection: Connection, query: str) -> Iterator[bytes]:
    """The rows as lines of COPY's text format, without their line feeds. Raises RescueFailed."""
    with _taking(), connection.cursor() as cursor, cursor.copy(f"COPY ({query}) TO STDOUT".encode()) as copy:
        rest = b""
        for chunk in copy:
            *lines, rest = (rest + bytes(chunk)).split(b"\n")
            yield from lines
        assert not rest, "COPY ends every row with a line feed"


def answers(dsn: str, sql: str) -> tuple[Answered, ...]:
    """What each statement of `sql` gave, with values that JSON has; others as the server's text.

    Raises StatementFailed, DatabaseUnavailable.
    """
    found = []
    with reading(dsn) as connection, connection.cursor() as cursor:
        try:
            connection.execute("RESET search_path")
            cursor.execute(sql.encode())
        except psycopg.Error as cause:
            raise StatementFailed(one_line(str(cause))) from cause
        more: bool | None = True
        while more:
            found.append(_answered(cursor))
            more = cursor.nextset()
    return tuple(found)


def _answered(cursor: psycopg.Cursor[TupleRow]) -> Answered:
    result = cursor.pgresult
    assert result is not None
    columns = tuple(
        (result.fname(number) or b"").decode("utf-8", "replace") for number in range(result.nfields)
    )
    rows = tuple(
        tuple(_value(result.ftype(column), result.get_value(row, column)) for column in range(len(columns)))
        for row in range(result.ntuples)
    )
    return Answered(cursor.statusmessage or "", columns, rows)


def _value(oid: int, raw: bytes | None) -> JsonValue:
    if raw is None:
        return None
    text = raw.decode("utf-8", "replace")
    if oid == _BOOL:
        return text == "t"
    if oid in _INTEGERS:
        return int(text)
    if oid in _JSON:
        parsed: JsonValue = json.loads(text)
        return parsed
    return text


class SideSchema:
    """A new schema, being filled inside one transaction."""

    def __init__(self, connection: Connection, schema: str) -> None:
        self._connection = connection
        self.schema = schema

    def fill(
        self, name: TableName, create: str, columns: str, feed: Callable[[Callable[[bytes], object]], int]
    ) -> int:
        """Make one table and fill it with what `feed` writes; the rows that are in it then.

        `feed` gets a function that takes COPY text, and returns how many rows it gave.
        Raises RescueFailed also when other than the given rows arrived.
        """
        with _loading():
            self._connection.execute(create.encode())
            with (
                self._connection.cursor() as cursor,
                cursor.copy(f"COPY {name.sql} ({columns}) FROM STDIN".encode()) as copy,
            ):
                given = feed(copy.write)
            row = self._connection.execute(f"SELECT count(*) FROM {name.sql}".encode()).fetchone()  # noqa: S608
        assert row is not None
        if int(row[0]) != given:
            raise RescueFailed(f"{given} rows were given to {name.sql}, but {row[0]} are in it")
        return given


@contextmanager
def side_schema(dsn: str, schema: str) -> Iterator[SideSchema]:
    """A schema that did not exist, committed when the caller is done with it without a failure.

    Raises SchemaTaken, RescueFailed, DatabaseUnavailable, ConfigError.
    """
    connection = _connect(dsn)
    try:
        with _loading():
            for name, value in (
                ("statement_timeout", "0"),
                ("lock_timeout", f"{LOCK_TIMEOUT_S}s"),
                ("search_path", ""),
                ("datestyle", "ISO"),
                ("intervalstyle", "postgres"),
            ):
                connection.execute("SELECT pg_catalog.set_config(%s, %s, true)", (name, value))
            try:
                connection.execute(f"CREATE SCHEMA {quote_identifier(schema)}".encode())
            except psycopg.errors.DuplicateSchema as cause:
                raise SchemaTaken(f"the database of --into-dsn has a schema {schema} already") from cause
        yield SideSchema(connection, schema)
        _commit(connection, schema)
    finally:
        connection.close()  # rolls back what was not committed


def check_side_schema(dsn: str, schema: str) -> None:
    """Whether such a schema could be made there now; changes nothing.

    Raises SchemaTaken, RescueFailed, DatabaseUnavailable, ConfigError.
    """
    connection = _connect(dsn)
    try:
        with _loading():
            row = connection.execute(
                "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = %s), "
                "pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE'), "
                "pg_catalog.pg_is_in_recovery()",
                (schema,),
            ).fetchone()
    finally:
        connection.close()
    assert row is not None
    taken, may, standby = row
    if taken:
        raise SchemaTaken(f"the database of --into-dsn has a schema {schema} already")
    if standby or not may:
        why = "it is a standby" if standby else "the role has no CREATE right on the database"
        raise RescueFailed(
            f"no schema can be made in the database of --into-dsn: {why}",
            hint="Nothing was changed there. Name the primary, and a role that may make schemas.",
        )


def _connect(dsn: str) -> Connection:
    try:
        return psycopg.connect(conninfo(dsn))
    except psycopg.Error as cause:
        raise DatabaseUnavailable(
            f"the database of --into-dsn: {one_line(str(cause))}", hint="Correct --into-dsn."
        ) from cause


def _commit(connection: Connection, schema: str) -> None:
    try:
        connection.commit()
    except psycopg.OperationalError as cause:
        raise RescueFailed(
            f"the connection broke while schema {schema} was committed: {one_line(str(cause))}",
            hint=f"Look whether schema {schema} is there: if so it is complete, else give the command again.",
        ) from cause
    except psycopg.Error as cause:
        raise RescueFailed(f"schema {schema} was not committed: {one_line(str(cause))}") from cause


@contextmanager
def _taking() -> Iterator[None]:
    try:
        yield
    except psycopg.Error as cause:
        raise RescueFailed(f"the throwaway instance says: {one_line(str(cause))}") from cause


@contextmanager
def _loading() -> Iterator[None]:
    try:
        yield
    except psycopg.Error as cause:
        raise RescueFailed(
            f"the database of --into-dsn says: {one_line(str(cause))}",
            hint="Nothing was changed there. Is a type, an extension or a right missing? Try --out.",
        ) from cause
