"""Look at the tables of a server: which there are, and what their columns, keys and partitions are.

Rules:
- Asked of throwaway instances, which nobody else uses: no statement timeout, and every session reads only.
- Names go in as parameters and come out as values; types and collations as they are spelled under an
  empty search_path, so that they mean the same in another database.
- System schemas do not count: what is in them is made anew by PostgreSQL, not rescued.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow

from walarchiver.core.table import Column, Table, TableName, column_list
from walarchiver.errors import RescueFailed, UnknownTable
from walarchiver.postgres.connection import database_errors, one_line, open_connection

Connection = psycopg.Connection[TupleRow]

_PLAIN = (
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("search_path", ""),
    ("row_security", "off"),
    ("datestyle", "ISO"),
    ("intervalstyle", "postgres"),
    ("timezone", "UTC"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
)

_NAMES = (
    "FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
    "WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
)

_COLUMNS = """
SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod),
       CASE WHEN a.attcollation NOT IN (0, t.typcollation)
            THEN pg_catalog.quote_ident(cn.nspname) || '.' || pg_catalog.quote_ident(co.collname) END,
       a.attnotnull, a.attgenerated <> '', a.attidentity = 'a'
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_catalog.pg_collation co ON co.oid = a.attcollation
LEFT JOIN pg_catalog.pg_namespace cn ON cn.oid = co.collnamespace
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""

# A temporal key (WITHOUT OVERLAPS, PostgreSQL 18) is no plain one; older catalogs lack the column.
_PRIMARY_KEY = """
SELECT a.attname FROM pg_catalog.pg_constraint k
CROSS JOIN LATERAL unnest(k.conkey) WITH ORDINALITY AS u (number, place)
JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.number
WHERE k.conrelid = %s AND k.contype = 'p'
AND (pg_catalog.to_jsonb(k) ->> 'conperiod') IS DISTINCT FROM 'true' ORDER BY u.place
"""

_BELOW = """
WITH RECURSIVE below (oid) AS (
    SELECT inhrelid FROM pg_catalog.pg_inherits WHERE inhparent = %s
    UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN below b ON i.inhparent = b.oid
)
SELECT n.nspname, c.relname, c.relkind FROM below b JOIN pg_catalog.pg_class c ON c.oid = b.oid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace ORDER BY 1, 2
"""


def private_dsn(dsn: str, *, user: str, dbname: str) -> str:
    """`dsn` of a private server for one role and database: sessions read only, and nothing in this
    process's environment (PGHOSTADDR and its kin) leads anywhere else."""
    given = conninfo_to_dict(dsn)
    chosen: dict[str, str | int | None] = {
        **given,
        "user": user,
        "dbname": dbname,
        "hostaddr": "",
        "sslmode": "disable",
        "gssencmode": "disable",
        "target_session_attrs": "any",
        "options": "-c default_transaction_read_only=on",
    }
    return make_conninfo("", **chosen)


@contextmanager
def reading(dsn: str) -> Iterator[Connection]:
    """An autocommit session whose text forms of values do not depend on the server's settings.

    Raises DatabaseUnavailable when it cannot be opened.
    """
    with database_errors():
        connection = open_connection(dsn)
    try:
        with database_errors():
            for name, value in _PLAIN:
                connection.execute("SELECT pg_catalog.set_config(%s, %s, false)", (name, value))
        yield connection
    finally:
        connection.close()


def open_databases(dsn: str) -> tuple[str, ...]:
    """The databases that may be connected to, without templates."""
    with reading(dsn) as connection, database_errors():
        rows = connection.execute(
            "SELECT datname FROM pg_catalog.pg_database WHERE datallowconn AND NOT datistemplate "
            "AND pg_catalog.has_database_privilege(oid, 'CONNECT') ORDER BY datname"
        ).fetchall()
    return tuple(str(name) for (name,) in rows)


def table_names(connection: Connection) -> tuple[TableName, ...]:
    """Every table of this database, partitions too."""
    with database_errors():
        rows = connection.execute(f"SELECT n.nspname, c.relname {_NAMES} ORDER BY 1, 2").fetchall()
    return tuple(TableName(str(schema), str(name)) for schema, name in rows)


def read_table(connection: Connection, name: TableName) -> Table:
    """What a table of this name was like. Raises UnknownTable, RescueFailed, DatabaseUnavailable."""
    with database_errors():
        row = connection.execute(
            f"SELECT c.oid {_NAMES} AND n.nspname = %s AND c.relname = %s",
            (name.schema, name.name),
        ).fetchone()
        if row is None:
            raise UnknownTable(f"there is no table {name.sql}")
        oid = row[0]
        columns = tuple(Column(*one) for one in connection.execute(_COLUMNS, (oid,)))
        key = tuple(str(column) for (column,) in connection.execute(_PRIMARY_KEY, (oid,)))
        below = connection.execute(_BELOW, (oid,)).fetchall()
    if foreign := [TableName(str(schema), str(part)).sql for schema, part, kind in below if kind == "f"]:
        raise RescueFailed(
            f"{name.sql} has foreign tables below it ({', '.join(foreign)}), whose rows are on other servers",
            hint="Name the other partitions one by one.",
        )
    if not any(not column.generated for column in columns):
        raise RescueFailed(f"{name.sql} has no column that could be rescued")
    found = Table(
        name=name,
        columns=columns,
        primary_key=key,
        below=tuple(TableName(str(schema), str(part)) for schema, part, _kind in below),
        comparable=True,
    )
    if key or _comparable(connection, found):
        return found
    return Table(found.name, found.columns, found.primary_key, found.below, comparable=False)


def _comparable(connection: Connection, table: Table) -> bool:
    """Whether PostgreSQL knows an equality for every column's type."""
    rows = f"SELECT {column_list(table.written)} FROM {table.name.sql}"  # noqa: S608 (quoted)
    try:
        connection.execute(f"EXPLAIN {rows} EXCEPT ALL {rows}".encode())
    except psycopg.errors.UndefinedFunction:
        return False
    except psycopg.Error as cause:
        raise RescueFailed(f"{table.name.sql} cannot be read: {one_line(str(cause))}") from cause
    return True
