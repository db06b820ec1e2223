"""Tables as SQL knows them: names as people write them, columns, and the quoting of both.

Rules:
- A written name follows SQL: unquoted parts are folded to lower case, "quoted" ones are taken as they are,
  a doubled quote stands for one quote. Nothing is ever passed to PostgreSQL but quoted again by us.
- Types are kept as PostgreSQL spells them under an empty search_path, so they mean the same elsewhere.
Source: PostgreSQL documentation, "Identifiers and Key Words"; src/backend/utils/adt/ruleutils.c
(quote_identifier), src/backend/parser/scansup.c (downcase_identifier, truncate_identifier).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from walarchiver.errors import UsageError

NAME_BYTES_MAX = 63
"""NAMEDATALEN - 1: PostgreSQL cuts longer names off, silently."""

_PART = re.compile(r'\s*(?:"((?:[^"]|"")+)"|([^\s".]+))\s*')


@dataclass(frozen=True, slots=True, order=True)
class TableName:
    """A table's name; without a schema it stands for any table of that name."""

    schema: str | None
    name: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `orders`, `Sales.Orders` or `"Sales"."Ord""ers"`. Raises UsageError."""
        parts: list[str] = []
        at = 0
        while True:
            match = _PART.match(text, at)
            if match is None:
                break
            quoted, plain = match[1], match[2]
            parts.append(quoted.replace('""', '"') if quoted is not None else plain.lower())
            at = match.end()
            if at == len(text):
                return cls._of(parts, text)
            if text[at] != ".":
                break
            at += 1
        raise UsageError(
            f"{text!r} is no table's name",
            hint='Write NAME, SCHEMA.NAME or "Schema"."Name"; in a shell, put single quotes around it.',
        )

    @classmethod
    def _of(cls, parts: list[str], text: str) -> Self:
        if len(parts) > 2:
            raise UsageError(
                f"{text!r} has {len(parts)} parts; a table has a schema and a name",
                hint="Name the database with --database.",
            )
        for part in parts:
            if len(part.encode("utf-8", "surrogateescape")) > NAME_BYTES_MAX or "\0" in part:
                raise UsageError(f"{part!r} is longer than the {NAME_BYTES_MAX} bytes that a name may have")
        return cls(parts[0] if len(parts) == 2 else None, parts[-1])

    @property
    def sql(self) -> str:
        """As a statement spells it."""
        return ".".join(quote_identifier(part) for part in (self.schema, self.name) if part is not None)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table, as it was."""

    name: str
    type: str
    """As format_type() spells it under an empty search_path."""
    collation: str | None
    """Quoted, when it is not the type's own."""
    not_null: bool
    generated: bool
    """Computed from other columns: it cannot be written."""
    identity_always: bool
    """Written only with OVERRIDING SYSTEM VALUE."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table that holds rows, or stands for those of its partitions and children."""

    name: TableName
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...]
    """Its columns in the key's order; empty: none, or not one that a plain PRIMARY KEY says."""
    below: tuple[TableName, ...]
    """Partitions and inheriting tables, at any depth."""
    comparable: bool
    """Whether whole rows can be compared for equality."""

    @property
    def written(self) -> tuple[Column, ...]:
        """The columns that can be written."""
        return tuple(column for column in self.columns if not column.generated)


def quote_identifier(name: str) -> str:
    """A name as SQL, always in quotes. Raises UsageError for NUL, which no name holds."""
    if "\0" in name:
        raise UsageError(f"{name!r} holds a NUL")
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """A text as SQL, for standard_conforming_strings = on."""
    return "'" + text.replace("'", "''") + "'"


def column_list(columns: tuple[Column, ...]) -> str:
    """The columns' names as SQL, separated by commas."""
    return ", ".join(quote_identifier(column.name) for column in columns)
