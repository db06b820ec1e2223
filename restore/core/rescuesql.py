"""The SQL around rescued rows: a table as it was, its rows as INSERT, and what brings missing rows back.

Rules:
- Everything is schema-qualified and quoted; values are the server's own text form, so each type reads
  back exactly what it wrote (the way of pg_dump).
- What brings rows back adds only: with a primary key, rows whose key is there are left alone, and any
  other conflict is an error; without one, whole rows are compared, counting duplicates.
- A copied table has types, collations, NOT NULL and the primary key; no defaults, triggers, other indexes,
  foreign keys or partitions: it holds rows, it does not act.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from walarchiver.core.table import Table, TableName, column_list, quote_identifier

INSERT_ROWS_MAX = 100
"""Rows in one INSERT statement."""

_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_ESCAPED = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


def create_table(table: Table, name: TableName) -> str:
    """CREATE TABLE for a copy of `table` under another name."""
    lines = []
    for column in table.written:
        collate = f" COLLATE {column.collation}" if column.collation else ""
        null = " NOT NULL" if column.not_null else ""
        lines.append(f"    {quote_identifier(column.name)} {column.type}{collate}{null}")
    if table.primary_key:
        lines.append(f"    PRIMARY KEY ({_names(table.primary_key)})")
    return f"CREATE TABLE {name.sql} (\n" + ",\n".join(lines) + "\n)"


def select_rows(table: Table, where: str | None, *, generated: bool) -> str:
    """The query for the rows; `generated`: also the columns that only the server writes."""
    columns = column_list(table.columns if generated else table.written)
    condition = "" if where is None else f" WHERE (\n{where}\n)"  # a comment in it ends with its line
    return f"SELECT {columns} FROM {table.name.sql}{condition}"  # noqa: S608 (quoted)


def bring_back(table: Table, side: TableName) -> str:
    """The statement that inserts the rows of `side` that the table does not have.

    A comment when there is none that can be said in general.
    """
    columns = column_list(table.written)
    select = f"SELECT {columns} FROM {side.sql}"  # noqa: S608 (quoted)
    insert = f"INSERT INTO {table.name.sql} ({columns}){_overriding(table)}\n"
    if table.primary_key:
        return f"{insert}{select}\nON CONFLICT ({_names(table.primary_key)}) DO NOTHING;"
    if table.comparable:
        return f"{insert}{select}\nEXCEPT ALL\nSELECT {columns} FROM {table.name.sql};"
    return (
        f"-- {_comment(table.name.sql)} has no primary key, and a column whose type has no equality: choose "
        f"the missing rows of {_comment(side.sql)} by hand"
    )


def insert_statements(table: Table, rows: Iterator[bytes]) -> Iterator[bytes]:
    """INSERT statements for lines of COPY's text format, a bounded number of rows in each."""
    begin = (
        f"INSERT INTO {table.name.sql} ({column_list(table.written)}){_overriding(table)} VALUES\n".encode()
    )
    end = b";\n"
    if table.primary_key:
        end = f"\nON CONFLICT ({_names(table.primary_key)}) DO NOTHING;\n".encode()
    waiting: list[bytes] = []
    for row in rows:
        waiting.append(b"  (" + b", ".join(literals(row)) + b")")
        if len(waiting) == INSERT_ROWS_MAX:
            yield begin + b",\n".join(waiting) + end
            waiting = []
    if waiting:
        yield begin + b",\n".join(waiting) + end


def literals(line: bytes) -> list[bytes]:
    """The values of a line of COPY's text format (without its line feed) as SQL."""
    return [_literal(field) for field in line.split(b"\t")]


def _literal(field: bytes) -> bytes:
    if field == b"\\N":
        return b"NULL"
    plain = _ESCAPE.sub(lambda match: _ESCAPED.get(match[1], match[1]), field)
    return b"'" + plain.replace(b"'", b"''") + b"'"


def script_head(comments: Sequence[str]) -> str:
    """The beginning of a script of INSERT statements: what it is, and the settings that it is written for."""
    settings = "SET LOCAL client_encoding = 'UTF8';\nSET LOCAL standard_conforming_strings = on;\n"
    return f"{comment_lines(comments)}BEGIN;\n{settings}"


def comment_lines(comments: Sequence[str]) -> str:
    """Comments that cannot end their lines."""
    return "".join(f"-- {_comment(comment)}\n" for comment in comments)


SCRIPT_END = "COMMIT;\n"


def _overriding(table: Table) -> str:
    return " OVERRIDING SYSTEM VALUE" if any(column.identity_always for column in table.written) else ""


def _names(names: Sequence[str]) -> str:
    return ", ".join(quote_identifier(name) for name in names)


def _comment(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
