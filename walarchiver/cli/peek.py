"""`walarchiver peek --at WHEN`: a throwaway read-only instance with psql attached, gone afterwards."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from restore.rescue import check_database, find_psql
from restore.throwaway import Throwaway
from walarchiver.cli.aside import Asked, add_options, ask, clean, made, show_dry_run, stop_members
from walarchiver.cli.context import Context, Output
from walarchiver.errors import BinariesMissing, Interrupted, UsageError
from walarchiver.postgres.tablecopy import answers

if TYPE_CHECKING:
    from walarchiver.cli.main import Subparsers

FAILED = 1


def register(subparsers: Subparsers) -> None:
    """Add `peek`."""
    parser = subparsers.add_parser("peek", help="a throwaway read-only instance at a moment, with psql")
    add_options(parser)
    parser.add_argument(
        "-c",
        "--command",
        dest="statements",
        action="append",
        default=[],
        metavar="SQL",
        help="run this instead of reading from the terminal; with --output json the rows come as JSON",
    )
    parser.add_argument(
        "--database", default="postgres", metavar="NAME", help="the database to begin in (default: postgres)"
    )
    parser.add_argument(
        "--clean", action="store_true", help="only end and remove what interrupted commands left"
    )


def run(context: Context, args: argparse.Namespace) -> int:
    if args.clean:
        return _clean(context, args)
    if context.output is Output.JSON and not args.statements and not args.dry_run:
        raise UsageError("--output json needs --command: a session on a terminal has no JSON")
    asked = ask(context, args, "peek")
    if args.dry_run:
        return show_dry_run(asked)
    with made(asked) as one:
        check_database(one, args.database)
        if context.output is Output.JSON:
            return _answer(asked, one)
        return _attach(asked, one)


def _clean(context: Context, args: argparse.Namespace) -> int:
    removed = clean(context, context.host(), args.workdir, "peek")
    context.result(
        f"{len(removed)} abandoned throwaway instances removed",
        {"removed": [{"folder": str(one.folder), "ended": list(one.ended)} for one in removed]},
    )
    return 0


def _answer(asked: Asked, one: Throwaway) -> int:
    """Run the statements over our own connection; their rows as JSON."""
    dsn = one.dsn(asked.args.database)
    results = [answer for statement in asked.args.statements for answer in answers(dsn, statement)]
    asked.context.result(
        "",
        {
            "at": asked.found.understood.text,
            "stop": stop_members(one.order.plan),
            "results": [
                {"status": answer.status, "columns": answer.columns, "rows": answer.rows}
                for answer in results
            ],
        },
    )
    return 0


def _attach(asked: Asked, one: Throwaway) -> int:
    """Give the terminal to psql; Ctrl-C is its affair meanwhile."""
    psql = find_psql(one.order.bin_dir)
    if psql is None:
        raise BinariesMissing(
            f"no psql is in {one.order.bin_dir} or on PATH",
            hint="Install PostgreSQL's client, or use --command with --output json, which needs none.",
        )
    command = [str(psql), "--dbname", one.dsn(asked.args.database)]
    by_hand = not asked.args.statements and sys.stdin.isatty()
    if by_hand:
        moment = asked.found.requested.replace("%", "%%")
        command += ["--set", f"PROMPT1=[{moment}] %/%R%x%# ", "--set", f"PROMPT2=[{moment}] %/%R%x%# "]
    else:
        command += ["--no-psqlrc", "--set", "ON_ERROR_STOP=1"]
        command += [f"--command={statement}" for statement in asked.args.statements]
    child = _Child(by_hand=by_hand)
    with _signals_for(child), subprocess.Popen(command, env=_environment()) as child.process:
        child.catch_up()
        status = child.process.wait()
    if child.ended or (child.interrupted and not by_hand):
        raise Interrupted("interrupted; the throwaway instance was removed")
    return 0 if status == 0 else FAILED


def _environment() -> dict[str, str]:
    """Ours, without what would lead psql elsewhere (PGHOSTADDR, PGSERVICE, PGOPTIONS, ...)."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


class _Child:
    """A psql and what happened to it."""

    def __init__(self, *, by_hand: bool) -> None:
        self.by_hand = by_hand
        self.process: subprocess.Popen[bytes] | None = None
        self.interrupted = False
        self.ended = False

    def interrupt(self, _number: int, _frame: FrameType | None) -> None:
        """A terminal's Ctrl-C goes to psql as well, which cancels a statement; another's does not."""
        self.interrupted = True
        if self.process is not None and not self.by_hand:
            self.process.send_signal(signal.SIGINT)

    def end(self, _number: int, _frame: FrameType | None) -> None:
        self.ended = True
        if self.process is not None:
            self.process.terminate()

    def catch_up(self) -> None:
        """Pass on what came while psql was being started."""
        if self.process is not None and (self.ended or (self.interrupted and not self.by_hand)):
            self.process.terminate()


@contextmanager
def _signals_for(child: _Child) -> Iterator[None]:
    handlers = {signal.SIGINT: child.interrupt, signal.SIGTERM: child.end, signal.SIGHUP: child.end}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
