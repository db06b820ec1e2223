"""`walarchiver rescue --at WHEN --table T`: tables or rows as they were, into a file or a side schema."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from restore.core.model import AtTime
from restore.rescue import (
    Form,
    Loaded,
    Wanted,
    Written,
    check_new,
    find_tables,
    load_aside,
    new_file,
    write_out,
)
from restore.throwaway import Throwaway
from walarchiver.cli.aside import Asked, add_options, ask, made, show_dry_run, stop_members, stop_text
from walarchiver.cli.context import Context, Output
from walarchiver.core.moment import as_datetime
from walarchiver.core.table import TableName, quote_identifier
from walarchiver.errors import UsageError
from walarchiver.postgres.tablecopy import check_side_schema

if TYPE_CHECKING:
    from walarchiver.cli.main import Subparsers

STDOUT = "-"


def register(subparsers: Subparsers) -> None:
    """Add `rescue`."""
    parser = subparsers.add_parser("rescue", help="only some tables or rows, as they were at a moment")
    add_options(parser)
    parser.add_argument(
        "--table",
        action="append",
        required=True,
        metavar="NAME",
        help="SCHEMA.NAME as in SQL, '\"Quoted\"' too; may be given several times",
    )
    parser.add_argument("--where", metavar="SQL", help="only rows for which this condition holds (one table)")
    parser.add_argument(
        "--database", metavar="NAME", help="where the tables are (default: the one database that has them)"
    )
    parser.add_argument("--out", metavar="FILE", help="a new file for the rows; - is stdout")
    parser.add_argument(
        "--format",
        choices=[form.value for form in Form],
        default=Form.SQL.value,
        help="sql (default), COPY text, or CSV with a header",
    )
    parser.add_argument("--into-dsn", metavar="DSN", help="load the rows into a new schema of this database")
    parser.add_argument("--into-schema", metavar="NAME", help="its name (default: rescued_ and the moment)")


def run(context: Context, args: argparse.Namespace) -> int:
    names = [TableName.parse(text) for text in args.table]
    _check(context, args, names)
    asked = ask(context, args, "rescue", stdout_is_taken=args.out == STDOUT)
    if args.dry_run:
        return show_dry_run(asked)
    schema = args.into_schema or _schema_of(asked)
    if args.into_dsn is not None:
        check_side_schema(args.into_dsn, schema)
    written: Written | None = None
    loaded: Loaded | None = None
    with made(asked) as one:
        wanted = find_tables(one, names, database=args.database, where=args.where)
        if args.out is not None:
            written = _write(asked, one, wanted)
        if args.into_dsn is not None:
            loaded = load_aside(one, wanted, args.into_dsn, schema, asked.say)
    _tell(asked, one, wanted, written, loaded)
    return 0


def _check(context: Context, args: argparse.Namespace, names: list[TableName]) -> None:
    """What can be refused before anything is asked. Raises UsageError."""
    if args.out is None and args.into_dsn is None and not args.dry_run:
        raise UsageError("neither --out nor --into-dsn is given", hint="Say where the rows shall go.")
    if args.into_schema is not None and args.into_dsn is None:
        raise UsageError("--into-schema is given without --into-dsn")
    if len(names) > 1 and args.where is not None:
        raise UsageError("--where is for one table", hint="Give one command for each table.")
    if len(names) > 1 and args.out is not None and args.format != Form.SQL:
        raise UsageError(
            f"a {args.format} file holds one table", hint="Use --format sql, or one command for each table."
        )
    if args.out == STDOUT and context.output is Output.JSON:
        raise UsageError("the rows and the JSON cannot both go to stdout", hint="Name a file with --out.")
    if args.out is not None and args.out != STDOUT:
        check_new(Path(args.out))
    if args.into_schema is not None and (
        not args.into_schema or len(args.into_schema.encode()) > 63 or args.into_schema.startswith("pg_")
    ):
        raise UsageError(f"--into-schema {args.into_schema!r} cannot be a schema's name")


def _schema_of(asked: Asked) -> str:
    """`rescued_20261122t143206z`, by the moment asked for, else by the commit that the state ends at."""
    target = asked.found.understood.target
    stop = asked.found.decision.stop
    assert stop is not None
    time = asked.host.clock.now_us()
    if isinstance(target, AtTime):
        time = target.time
    elif (event := stop.last_commit or stop.stop_event) is not None:
        time = event.time
    return f"rescued_{as_datetime(time):%Y%m%dt%H%M%Sz}"


def _write(asked: Asked, one: Throwaway, wanted: Wanted) -> Written:
    tables = ", ".join(table.name.sql for table in wanted.tables)
    comments = (
        f"{tables} of database {wanted.database}, cluster {one.order.plan.cluster}, rescued by walarchiver",
        f"as of {asked.found.understood.text}: {stop_text(one.order.plan)}",
        *(() if wanted.where is None else (f"only rows with: {wanted.where}",)),
    )

    def write(out: BinaryIO) -> Written:
        return write_out(one, wanted, Form(asked.args.format), out, comments=comments, say=asked.say)

    if asked.args.out == STDOUT:
        return write(sys.stdout.buffer)
    with new_file(Path(asked.args.out)) as out:
        return write(out)


def _tell(
    asked: Asked, one: Throwaway, wanted: Wanted, written: Written | None, loaded: Loaded | None
) -> None:
    args = asked.args
    counts = written.rows if written is not None else loaded.rows if loaded is not None else ()
    named = [(table.name.sql, count) for table, count in zip(wanted.tables, counts, strict=True)]
    lines = [f"{count} rows of {name} as of {asked.found.understood.text}" for name, count in named]
    members: dict[str, object] = {
        "plan": one.order.plan.id,
        "at": asked.found.understood.text,
        "stop": stop_members(one.order.plan),
        "database": wanted.database,
        "tables": [{"table": name, "rows": count} for name, count in named],
        "out": None,
        "into": None,
    }
    if written is not None:
        lines.append(f"written to {args.out}: {written.bytes} bytes of {args.format}")
        members["out"] = {"file": args.out, "format": args.format, "bytes": written.bytes}
    if loaded is not None:
        lines += [
            f"loaded into the new schema {loaded.schema}, and counted there; nothing else was changed",
            "to bring back what is missing, look at it there first, then run:",
            *(f"\n{statement}" for statement in loaded.statements),
            f"\nand once all is well: DROP SCHEMA {quote_identifier(loaded.schema)} CASCADE;",
        ]
        members["into"] = {"schema": loaded.schema, "statements": loaded.statements}
    if args.out == STDOUT:
        for line in lines:
            asked.say(line)
        return
    asked.context.result("\n".join(lines), members)
