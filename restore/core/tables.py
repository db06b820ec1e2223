"""From a table's name to what each list of relations says of it, its partitions and its namesakes.

Rules:
- A name may have belonged to several tables one after the other (dropped and made again): all count.
- Asking for a table covers its partitions and children, as any of the lists knows them.
- A name that fits in several databases or schemas is refused, with what it could be.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from restore.core.filehistory import Sighting
from walarchiver.core.lsn import Lsn
from walarchiver.core.relfile import RelFile
from walarchiver.errors import TableNotListed
from walarchiver.format.relationmap import DatabaseRelations, Relation

_DEFAULT_TABLESPACE, _PG_CLASS = 1663, 1259
_NAME = re.compile(r'(?:(?P<schema>"(?:[^"]|"")+"|[^".]+)\.)?(?P<table>"(?:[^"]|"")+"|[^".]+)')
_KINDS = "rmp"


@dataclass(frozen=True, slots=True)
class Listed:
    """One database in one list."""

    source: str
    database: DatabaseRelations


@dataclass(slots=True)
class Table:
    """One table to look for."""

    name: str
    oid: int = 0
    """0 when only its file is known."""
    files: set[RelFile] = field(default_factory=set)
    sightings: list[Sighting] = field(default_factory=list)
    unlogged: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """The tables of one question; all are in one database."""

    database: int
    database_name: str
    tables: tuple[Table, ...]
    catalog: RelFile
    """The file of the database's pg_class."""
    doubts: tuple[str, ...] = ()
    relname: str | None = None
    """The name asked for, without its schema; None when a file was asked for."""
    schemas: frozenset[int] = frozenset()
    """OIDs that the schema has had, as far as listed."""
    other_schemas: frozenset[int] = frozenset()
    list_lsns: tuple[Lsn, ...] = ()
    """Where the WAL was when each list had been made."""
    listed: frozenset[RelFile] = frozenset()
    """Files of every listed relation."""


def tables_named(lists: Sequence[Listed], asked: str, database: str | None) -> Wanted:
    """What `--table` means. Raises TableNotListed when that is nothing, or not one thing."""
    match = _NAME.fullmatch(asked)
    if match is None:
        raise TableNotListed(
            f"{asked!r} is not TABLE or SCHEMA.TABLE", hint="Put a name with dots into double quotes."
        )
    schema, name = (None if part is None else _unquoted(part) for part in (match["schema"], match["table"]))
    found: dict[tuple[int, str], set[int]] = {}
    for one in lists:
        if database is not None and one.database.name != database:
            continue
        for relation in one.database.relations:
            if relation.name == name and relation.kind in _KINDS and schema in (None, relation.schema):
                found.setdefault((one.database.oid, relation.schema), set()).add(relation.oid)
    if not found and schema is not None and database is not None:
        mine = [one for one in lists if one.database.name == database]
        if mine:  # it may have been made and dropped between two lists: the WAL will tell
            return _with_name(_wanted(mine, set()), mine, name or "", schema)
    if not found:
        known = sorted({one.source for one in lists}) or ["no list of relations at all"]
        raise TableNotListed(f"no table {asked} is in {', '.join(known)}")
    if len(found) > 1:
        names = {one.database.oid: one.database.name for one in lists}
        choices = ", ".join(f"{names[oid]}: {each}.{name}" for oid, each in sorted(found))
        raise TableNotListed(
            f"{asked} could be any of these: {choices}", hint="Add the schema to the name, and --database."
        )
    ((oid, schema), oids), *_none = found.items()
    mine = [one for one in lists if one.database.oid == oid]
    return _with_name(_wanted(mine, oids), mine, name or "", schema)


def _with_name(wanted: Wanted, lists: Sequence[Listed], name: str, schema: str) -> Wanted:
    schemas = {pair for one in lists for pair in one.database.schemas}
    files = (one.database.file_of(relation) for one in lists for relation in one.database.relations)
    return replace(
        wanted,
        relname=name,
        schemas=frozenset(oid for oid, each in schemas if each == schema),
        other_schemas=frozenset(oid for oid, each in schemas if each != schema),
        list_lsns=tuple(one.database.after for one in lists),
        listed=frozenset(file for file in files if file is not None),
    )


def table_of_file(lists: Sequence[Listed], file: RelFile) -> Wanted:
    """What `--relation` means: the table that has or had this file, or the file alone."""
    mine = [one for one in lists if one.database.oid == file.database]
    for one in mine:
        for relation in one.database.relations:
            if one.database.file_of(relation) == file and relation.kind in _KINDS:
                return _wanted(mine, {relation.oid}, partitions=False)
    catalog = next((found for one in mine if (found := one.database.catalog()) is not None), None)
    name = mine[0].database.name if mine else str(file.database)
    return Wanted(
        database=file.database,
        database_name=name,
        tables=(Table(str(file), files={file}),),
        catalog=catalog or RelFile(_DEFAULT_TABLESPACE, file.database, _PG_CLASS),
    )


def _unquoted(part: str) -> str:
    """As SQL reads a name: in small letters unless quoted (ASCII only, as PostgreSQL does in UTF-8)."""
    if part.startswith('"'):
        return part[1:-1].replace('""', '"')
    return "".join(letter.lower() if letter.isascii() else letter for letter in part)


def _wanted(lists: Sequence[Listed], oids: set[int], *, partitions: bool = True) -> Wanted:
    """All lists are of one database."""
    if partitions:
        oids = _with_partitions(lists, oids)
    catalogs = [found for one in lists if (found := one.database.catalog()) is not None]
    doubts = []
    if len(set(catalogs)) > 1:
        doubts.append(
            "pg_class itself was rewritten meanwhile, so not every change of a file can be followed"
        )
    return Wanted(
        database=lists[0].database.oid,
        database_name=lists[-1].database.name,
        tables=tuple(_table(lists, oid) for oid in sorted(oids)),
        catalog=catalogs[0],
        doubts=tuple(doubts),
    )


def _with_partitions(lists: Iterable[Listed], oids: set[int]) -> set[int]:
    children: dict[int, set[int]] = {}
    for one in lists:
        for relation in one.database.relations:
            for parent in relation.parents:
                children.setdefault(parent, set()).add(relation.oid)
    found: set[int] = set()
    waiting = list(oids)
    while waiting:
        oid = waiting.pop()
        if oid not in found:
            found.add(oid)
            waiting += children.get(oid, ())
    return found


def _table(lists: Sequence[Listed], oid: int) -> Table:
    table = Table("", oid)
    for one in lists:
        if one.database.problem:
            continue
        relation = next((each for each in one.database.relations if each.oid == oid), None)
        if relation is None:
            table.sightings.append(Sighting(one.database.after, one.source, None, there=False))
            continue
        table.name = f"{relation.schema}.{relation.name}"
        table.unlogged = table.unlogged or relation.persistence == "u"
        table.sightings.append(_sighting(one, relation))
    table.files = {one.file for one in table.sightings if one.file is not None}
    return table


def _sighting(one: Listed, relation: Relation) -> Sighting:
    file = one.database.file_of(relation)
    return Sighting(one.database.after, one.source, file, slot=relation.row, xmin=relation.xmin)
