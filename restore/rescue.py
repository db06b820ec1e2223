"""Rescue: take tables, or rows of one, out of a throwaway instance into a file or a side schema.

Rules:
- A table is looked for before anything is written; a name that several tables have is refused.
- A file appears whole or not at all: written beside its place, closed to others, flushed, then moved; it
  never takes another file's place.
- What is loaded is counted where it was taken, where it was put, and by the server that has it now.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from restore.core.rescuesql import (
    SCRIPT_END,
    bring_back,
    comment_lines,
    create_table,
    insert_statements,
    script_head,
    select_rows,
)
from restore.throwaway import SAY_INTERVAL_S, Throwaway
from walarchiver.core.table import Table, TableName, column_list
from walarchiver.errors import RescueFailed, UnknownTable, UsageError
from walarchiver.postgres.process import server_environment
from walarchiver.postgres.tablecopy import check_query, copied_lines, copy_out, count_rows, side_schema
from walarchiver.postgres.tables import Connection, open_databases, read_table, reading, table_names

SAY_BYTES = 64 << 20
NAMES_SHOWN = 5
HOME = "postgres"
"""The database that every cluster has, unless somebody dropped it."""


class Form(StrEnum):
    """How rows are written."""

    SQL = "sql"
    COPY = "copy"
    CSV = "csv"


@dataclass(frozen=True, slots=True)
class Wanted:
    """The tables, as they were, and which rows of them."""

    database: str
    tables: tuple[Table, ...]
    where: str | None


@dataclass(frozen=True, slots=True)
class Written:
    """What a file holds."""

    rows: tuple[int, ...]
    """By table, in the order wanted."""
    bytes: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a side schema holds, and the statements that would bring rows back from it."""

    schema: str
    rows: tuple[int, ...]
    statements: tuple[str, ...]


# --- which tables --------------------------------------------------------------------------------


def find_tables(
    made: Throwaway, names: Sequence[TableName], *, database: str | None, where: str | None
) -> Wanted:
    """What was asked for, as it was. Without a database, the one that has all of the tables.

    Raises UnknownTable with the nearest names, RescueFailed for a condition that PostgreSQL refuses.
    """
    if database is not None:
        check_database(made, database)
    databases = (database,) if database is not None else open_databases(made.dsn(HOME))
    having: dict[str, tuple[TableName, ...]] = {}
    several: list[UnknownTable] = []
    known: dict[str, tuple[TableName, ...]] = {}
    for each in databases:
        with reading(made.dsn(each)) as connection:
            known[each] = table_names(connection)
        if not all(matching(name, known[each]) for name in names):
            continue
        try:
            having[each] = tuple(choose(name, known[each]) for name in names)
        except UnknownTable as refusal:
            several.append(refusal)
    if several:
        raise several[0]
    if not having:
        everything = tuple(dict.fromkeys(name for there in known.values() for name in there))
        missing = next((name for name in names if not matching(name, everything)), names[0])
        together = "" if not matching(missing, everything) else " beside the other tables"
        where_not = f"database {database}" if database is not None else "no database"
        verb = "had no" if database is not None else "had"
        raise UnknownTable(
            f"{where_not} {verb} table {missing.sql}{together} at that moment{nearest(missing, everything)}"
        )
    if len(having) > 1:
        raise UnknownTable(
            f"databases {', '.join(sorted(having))} each have {', '.join(name.sql for name in names)}",
            hint="Choose one with --database NAME.",
        )
    ((chosen, found),) = having.items()
    with reading(made.dsn(chosen)) as connection:
        tables = tuple(read_table(connection, name) for name in dict.fromkeys(found))
        if where is not None:
            check_query(connection, select_rows(tables[0], where, generated=False))
    return Wanted(chosen, tables, where)


def check_database(made: Throwaway, database: str) -> None:
    """Raises UsageError, naming those that can be connected to, when this is none of them."""
    known = open_databases(made.dsn(HOME))
    if database not in known:
        raise UsageError(
            f"there was no database {database!r} at that moment; there were: {', '.join(known)}",
            hint="Name one of these with --database.",
        )


def choose(name: TableName, known: Sequence[TableName]) -> TableName:
    """The one of several known tables that is meant. Raises UnknownTable when the name fits more than one."""
    matches = matching(name, known)
    if len(matches) == 1:
        return matches[0]
    assert matches, name
    raise UnknownTable(
        f"several tables are called {name.name!r}: {', '.join(match.sql for match in matches)}",
        hint="Write the one you mean with its schema.",
    )


def matching(name: TableName, known: Sequence[TableName]) -> list[TableName]:
    """The tables that the name fits."""
    return [each for each in known if each.name == name.name and name.schema in (None, each.schema)]


def nearest(name: TableName, known: Sequence[TableName]) -> str:
    """Up to a handful of similar names, as the end of a message."""
    spelled: dict[str, list[TableName]] = {}
    for each in known:
        for text in {each.name, each.name.lower(), f"{each.schema}.{each.name}".lower()}:
            spelled.setdefault(text, []).append(each)
    asked = [name.name, name.name.lower(), *([f"{name.schema}.{name.name}".lower()] if name.schema else [])]
    close: dict[TableName, None] = {}
    for text in asked:
        for match in difflib.get_close_matches(text, spelled, n=NAMES_SHOWN, cutoff=0.6):
            close.update(dict.fromkeys(spelled[match]))
    if not close:
        return ""
    return f"; similar: {', '.join(each.sql for each in list(close)[:NAMES_SHOWN])}"


# --- into a file ---------------------------------------------------------------------------------


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its place, complete, when the caller is done without a failure.

    Raises UsageError when the place is taken or cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", hint="Name another --out.") from error
    try:
        with open(handle, "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        _take_place(draft, path)
    except OSError as error:
        raise RescueFailed(f"{path} could not be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()


def _take_place(draft: Path, path: Path) -> None:
    try:
        os.link(draft, path)  # unlike a rename it never replaces
    except FileExistsError:
        raise UsageError(f"{path} was made meanwhile", hint="Name another --out.") from None
    except OSError:  # a file system without links
        check_new(path)
        draft.rename(path)


def check_new(path: Path) -> None:
    """Raises UsageError unless a new file can be made there; writes nothing."""
    if path.exists() or path.is_symlink():
        raise UsageError(f"{path} exists already", hint="Name another --out, or remove it.")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path.absolute().parent} is no folder", hint="Name another --out.")


def write_out(
    made: Throwaway,
    wanted: Wanted,
    form: Form,
    out: BinaryIO,
    *,
    comments: Sequence[str],
    say: Callable[[str], None],
) -> Written:
    """Write the rows. Raises RescueFailed."""
    counting = _Counting(out, say)
    dump = made.order.bin_dir / "pg_dump"
    with reading(made.dsn(wanted.database)) as connection:
        if form is Form.SQL and wanted.where is None and os.access(dump, os.X_OK):
            return _dumped(made, connection, wanted, dump, out, comments, say)
        if form is Form.SQL:
            rows = _inserts(connection, wanted, counting, comments)
        else:
            options = "(FORMAT csv, HEADER)" if form is Form.CSV else "(FORMAT text)"
            query = select_rows(wanted.tables[0], wanted.where, generated=form is Form.CSV)
            rows = (copy_out(connection, query, options, counting.write),)
    out.flush()
    return Written(rows, counting.total)


class _Counting:
    """Counts what it passes on, and says so now and then."""

    def __init__(self, out: BinaryIO, say: Callable[[str], None]) -> None:
        self._out = out
        self._say = say
        self._next = SAY_BYTES
        self.total = 0

    def write(self, chunk: bytes) -> None:
        self._out.write(chunk)
        self.total += len(chunk)
        if self.total >= self._next:
            self._next += SAY_BYTES
            self._say(f"{self.total / 1e6:,.0f} MB written")


def _inserts(
    connection: Connection, wanted: Wanted, counting: _Counting, comments: Sequence[str]
) -> tuple[int, ...]:
    """INSERT statements of our own; the rows of each table."""
    counting.write(script_head(comments).encode())
    counts = []
    for table in wanted.tables:
        count = 0

        def counted(lines: Iterator[bytes]) -> Iterator[bytes]:
            nonlocal count
            for line in lines:
                count += 1
                yield line

        lines = copied_lines(connection, select_rows(table, wanted.where, generated=False))
        for statement in insert_statements(table, counted(lines)):
            counting.write(statement)
        counts.append(count)
    counting.write(SCRIPT_END.encode())
    return tuple(counts)


def _dumped(
    made: Throwaway,
    connection: Connection,
    wanted: Wanted,
    dump: Path,
    out: BinaryIO,
    comments: Sequence[str],
    say: Callable[[str], None],
) -> Written:
    """The tables, with all that belongs to them, by the pg_dump of their own version."""
    counts = tuple(
        count_rows(connection, select_rows(table, None, generated=False)) for table in wanted.tables
    )
    names = dict.fromkeys(name for table in wanted.tables for name in (table.name, *table.below))
    command = [str(dump), "--dbname", made.dsn(wanted.database), "--strict-names", "--no-password"]
    command += [f"--table={name.sql}" for name in names]
    out.write(comment_lines(comments).encode())
    out.flush()
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.PIPE,
        env=server_environment({"PGCLIENTENCODING": "UTF8"}),
    ) as running:
        try:
            while True:
                try:
                    said = running.communicate(timeout=SAY_INTERVAL_S)[1]
                    break
                except subprocess.TimeoutExpired:
                    say("pg_dump is at work")
        except BaseException:
            running.kill()
            raise
    if running.returncode != 0:
        text = "; ".join(said.decode("utf-8", "replace").strip().splitlines())
        raise RescueFailed(f"pg_dump ended with status {running.returncode}: {text}")
    size = out.seek(0, os.SEEK_END) if out.seekable() else 0
    return Written(counts, size)


# --- into a side schema --------------------------------------------------------------------------


def load_aside(made: Throwaway, wanted: Wanted, dsn: str, schema: str, say: Callable[[str], None]) -> Loaded:
    """Load the rows into a new schema of another database, in one transaction.

    Raises SchemaTaken, RescueFailed, DatabaseUnavailable; nothing is left behind then.
    """
    places = [TableName(schema, table.name.name) for table in wanted.tables]
    if len(set(places)) != len(places):
        raise UsageError(
            "two of the tables have one name, in different schemas: they do not fit into one schema",
            hint="Give one command for each.",
        )
    counts = []
    with (
        reading(made.dsn(wanted.database)) as source,
        side_schema(dsn, schema) as side,
    ):
        for table, place in zip(wanted.tables, places, strict=True):
            query = select_rows(table, wanted.where, generated=False)

            def feed(write: Callable[[bytes], object], query: str = query) -> int:
                return copy_out(source, query, "", write)

            counts.append(side.fill(place, create_table(table, place), column_list(table.written), feed))
            say(f"{counts[-1]} rows of {table.name.sql} loaded and counted")
    statements = tuple(bring_back(table, place) for table, place in zip(wanted.tables, places, strict=True))
    return Loaded(schema, tuple(counts), statements)


def find_psql(bin_dir: Path) -> Path | None:
    """psql beside the server's programs, else the one on PATH."""
    if os.access(bin_dir / "psql", os.X_OK):
        return bin_dir / "psql"
    found = shutil.which("psql")
    return None if found is None else Path(found)
