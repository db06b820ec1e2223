"""Ask a running server for every relation's file: read-only, one statement per database.

Rules:
- The file number comes from pg_class itself, so that it belongs to the same moment as the row's place;
  pg_class's own stands in its relation map (pg_relation_filenode).
- A database that cannot be asked is named with the reason; it fails nothing.
- The WAL position is read before and after the statement, so a change between the two is noticed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import psycopg
from psycopg.rows import TupleRow

from walarchiver.core.lsn import Lsn, parse_lsn
from walarchiver.core.relfile import PG_CLASS, Slot
from walarchiver.errors import DatabaseUnavailable
from walarchiver.format.relationmap import DatabaseRelations, Relation, RelationMap
from walarchiver.postgres.connection import connected

_FIRST_OF_USERS = 16384
"""FirstNormalObjectId (PostgreSQL src/include/access/transam.h): below are the system's own relations."""

_RELATIONS = f"""
SELECT c.oid::bigint, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text,
       CASE WHEN c.oid = {PG_CLASS} THEN pg_relation_filenode(c.oid) ELSE c.relfilenode END::bigint,
       CASE WHEN c.reltablespace = 0 THEN d.dattablespace ELSE c.reltablespace END::bigint,
       c.reltoastrelid::bigint,
       coalesce(i.parents, '{{}}'), c.ctid::text, c.xmin::text::bigint
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_database d ON d.datname = current_database()
LEFT JOIN (SELECT inhrelid, array_agg(inhparent::bigint ORDER BY inhseqno) AS parents
           FROM pg_inherits GROUP BY inhrelid) i ON i.inhrelid = c.oid
WHERE (c.oid = {PG_CLASS} OR c.oid >= {_FIRST_OF_USERS})
  AND c.relkind IN ('r', 'm', 'p', 't') AND c.relpersistence <> 't'
ORDER BY c.oid
"""  # noqa: S608 (constants)

_POSITION = (
    "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() "
    "ELSE pg_current_wal_insert_lsn() END::text"
)


def read_relations(
    dsn: str, *, only: str | None = None, notice: Callable[[str], None] = lambda _line: None
) -> RelationMap:
    """Every database's relations, or those of the database `only`.

    Raises DatabaseUnavailable when the server itself cannot be asked.
    """
    with connected(dsn) as connection:
        names = connection.execute(
            "SELECT oid::bigint, datname::text, datallowconn AND has_database_privilege(oid, 'CONNECT') "
            "FROM pg_database ORDER BY oid"
        ).fetchall()
    found = []
    for oid, name, open_to_us in names:
        if only is not None and name != only:
            continue
        one = _read(dsn, int(oid), str(name)) if open_to_us else _closed(int(oid), str(name))
        if one.problem and open_to_us:
            notice(f"database {one.name}: its relations could not be listed: {one.problem}")
        found.append(one)
    return RelationMap(tuple(found))


def _closed(oid: int, name: str) -> DatabaseRelations:
    return DatabaseRelations(oid, name, Lsn(0), Lsn(0), problem="not open to connections of this role")


def _read(dsn: str, oid: int, name: str) -> DatabaseRelations:
    try:
        with connected(dsn, dbname=name) as connection:
            before = _position(connection)
            rows = connection.execute(_RELATIONS).fetchall()
            schemas = connection.execute("SELECT oid::bigint, nspname::text FROM pg_namespace ORDER BY oid")
            named = tuple((int(schema), str(text)) for schema, text in schemas)
            after = _position(connection)
    except DatabaseUnavailable as error:
        return DatabaseRelations(oid, name, Lsn(0), Lsn(0), problem=error.message)
    return DatabaseRelations(oid, name, before, after, named, tuple(_relations(rows)))


def _position(connection: psycopg.Connection[TupleRow]) -> Lsn:
    row = connection.execute(_POSITION).fetchone()
    if row is None or row[0] is None:
        raise DatabaseUnavailable("PostgreSQL does not tell its WAL position")
    return parse_lsn(str(row[0]))


def _relations(rows: Iterable[TupleRow]) -> Iterable[Relation]:
    for oid, schema, name, kind, persistence, file, tablespace, toast, parents, row, xmin in rows:
        yield Relation(
            oid,
            schema,
            name,
            kind,
            persistence,
            file,
            tablespace,
            toast,
            tuple(parents),
            Slot.parse(row),
            xmin,
        )
