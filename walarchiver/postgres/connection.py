"""Connections to PostgreSQL, and its failures in our words.

Rules:
- Every connection has a connect timeout and TCP keepalives unless the dsn names its own.
- Statements that only ask have a statement timeout, so a stuck server cannot hold a thread.
- The client's encoding is UTF-8, whatever the database's, the dsn's or the environment's is: for a
  database in SQL_ASCII psycopg would otherwise hand out bytes instead of text.
- psycopg's exceptions do not leave this layer: they become DatabaseUnavailable.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow

from walarchiver.errors import ConfigError, DatabaseUnavailable

CONNECT_TIMEOUT_S = 10
STATEMENT_TIMEOUT_S = 30

_DEFAULTS = {
    "connect_timeout": str(CONNECT_TIMEOUT_S),
    "application_name": "walarchiver",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "6",
}


def conninfo(dsn: str, *, dbname: str | None = None, replication: bool = False) -> str:
    """`dsn` with our defaults below it and these choices above it. Raises ConfigError."""
    try:
        given = conninfo_to_dict(dsn)
        chosen: dict[str, str | int | None] = {**_DEFAULTS, **given, "client_encoding": "UTF8"}
        if dbname is not None:
            chosen["dbname"] = dbname
        if replication:
            chosen["replication"] = "true"
        return make_conninfo("", **chosen)
    except psycopg.Error as cause:
        raise ConfigError(f"the dsn cannot be read: {str(cause).strip()}") from cause


@contextmanager
def connected(
    dsn: str, *, dbname: str | None = None, replication: bool = False
) -> Iterator[psycopg.Connection[TupleRow]]:
    """An autocommit connection for a few questions. Raises DatabaseUnavailable."""
    with database_errors(), open_connection(dsn, dbname=dbname, replication=replication) as connection:
        yield connection


def open_connection(
    dsn: str, *, dbname: str | None = None, replication: bool = False
) -> psycopg.Connection[TupleRow]:
    """A connection that the caller closes. Raises psycopg.Error: use inside `database_errors`."""
    connection = psycopg.connect(conninfo(dsn, dbname=dbname, replication=replication), autocommit=True)
    if not replication:
        connection.execute(f"SET statement_timeout = '{STATEMENT_TIMEOUT_S}s'")
    return connection


@contextmanager
def database_errors() -> Iterator[None]:
    """Inside, psycopg's errors become DatabaseUnavailable with the server's message."""
    try:
        yield
    except psycopg.Error as cause:
        raise DatabaseUnavailable(one_line(str(cause)) or type(cause).__name__) from cause


def one_line(message: str) -> str:
    """A server message on one line, for ours."""
    return "; ".join(line.strip() for line in message.strip().splitlines() if line.strip())
