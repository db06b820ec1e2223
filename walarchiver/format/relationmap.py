"""The `facts` part of a base backup: which relation had which file (docs/format.md, section 5).

Rules:
- Canonical JSON, with arrays instead of objects, since there may be 100 000 relations. It is written and
  read without canonical.py's checks of every value, which would take seconds: what is written has that
  spelling by itself (a test compares), and what is read has the digest that the ledger records.
- Permanent and unlogged tables, partitioned tables, materialized views and TOAST tables; of the system's
  own relations pg_class only, whose records tell what happens to the others.
- A database that could not be asked is there with its `problem` and without relations.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import NamedTuple, cast

from walarchiver.core.lsn import Lsn
from walarchiver.core.relfile import PG_CLASS, RelFile, Slot
from walarchiver.errors import MalformedObject
from walarchiver.format.canonical import JsonValue

_VERSION = 1


class Relation(NamedTuple):
    """One row of pg_class."""

    oid: int
    schema: str
    name: str
    kind: str
    """relkind: `r` table, `m` materialized view, `p` partitioned table, `t` TOAST table."""
    persistence: str
    """relpersistence: `p` permanent, `u` unlogged: nothing of its rows is in the WAL."""
    file: int
    """Number of its file; 0 for a partitioned table."""
    tablespace: int
    """OID, never 0."""
    toast: int
    """OID of its TOAST table; 0 for none."""
    parents: tuple[int, ...]
    """OIDs of the tables that it is a partition or a child of."""
    row: Slot
    """Place of this row in pg_class."""
    xmin: int
    """The id that wrote the row."""


@dataclass(frozen=True, slots=True)
class DatabaseRelations:
    """The relations of one database, as one statement saw them."""

    oid: int
    name: str
    before: Lsn
    """WAL position before the statement; on a standby the replayed one."""
    after: Lsn
    schemas: tuple[tuple[int, str], ...] = ()
    """OID and name."""
    relations: tuple[Relation, ...] = ()
    problem: str = ""
    """Why it could not be asked."""

    def file_of(self, relation: Relation) -> RelFile | None:
        """The relation's file; None when it has none of its own."""
        if relation.file == 0:
            return None
        return RelFile(relation.tablespace, self.oid, relation.file)

    def catalog(self) -> RelFile | None:
        """The file of its pg_class."""
        found = next((one for one in self.relations if one.oid == PG_CLASS), None)
        return None if found is None else self.file_of(found)


@dataclass(frozen=True, slots=True)
class RelationMap:
    """The relations of every database of a cluster."""

    databases: tuple[DatabaseRelations, ...]


def relation_map_bytes(found: RelationMap) -> bytes:
    """The part's plain bytes; `parse_relation_map` is the inverse."""
    document = {
        "v": _VERSION,
        "databases": [
            {
                "oid": one.oid,
                "name": one.name,
                "before": str(one.before),
                "after": str(one.after),
                "problem": one.problem,
                "schemas": [list(each) for each in one.schemas],
                "relations": [
                    [*each[:8], list(each.parents), list(each.row), each.xmin] for each in one.relations
                ],
            }
            for one in found.databases
        ],
    }
    return json.dumps(document, ensure_ascii=True, sort_keys=True, separators=(",", ":")).encode("ascii")


def parse_relation_map(raw: bytes) -> RelationMap:
    """Raises MalformedObject."""
    try:
        document = json.loads(raw)
        if document["v"] != _VERSION:
            raise MalformedObject(f"the relation map has version {document['v']!r}, known is {_VERSION}")
        databases = cast("list[dict[str, JsonValue]]", document["databases"])
        return RelationMap(tuple(map(_database, databases)))
    except (KeyError, TypeError, ValueError, RecursionError) as cause:
        raise MalformedObject(f"the relation map cannot be read: {cause!r}") from cause


def _database(one: dict[str, JsonValue]) -> DatabaseRelations:
    relations = cast("list[list[JsonValue]]", one["relations"])
    schemas = cast("list[list[JsonValue]]", one["schemas"])
    return DatabaseRelations(
        oid=_number(one["oid"]),
        name=_text(one["name"]),
        before=Lsn(int(_text(one["before"]))),
        after=Lsn(int(_text(one["after"]))),
        problem=_text(one["problem"]),
        schemas=tuple((_number(oid), _text(name)) for oid, name in schemas),
        relations=tuple(map(_relation, relations)),
    )


def _relation(value: list[JsonValue]) -> Relation:
    oid, schema, name, kind, persistence, file, tablespace, toast, parents, row, xmin = value
    block, offset = cast("list[JsonValue]", row)
    return Relation(
        _number(oid),
        _text(schema),
        _text(name),
        _text(kind),
        _text(persistence),
        _number(file),
        _number(tablespace),
        _number(toast),
        tuple(map(_number, cast("list[JsonValue]", parents))),
        Slot(_number(block), _number(offset)),
        _number(xmin),
    )


def _number(value: JsonValue) -> int:
    if type(value) is not int or not 0 <= value < 2**32:
        raise ValueError(f"{value!r} is not an OID or the like")
    return value


def _text(value: JsonValue) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value
