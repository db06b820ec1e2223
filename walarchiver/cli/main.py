"""The command line: global options, one module per command, errors and exit statuses.

Rules:
- A command is a module with `register(subparsers)` and `run(context, args) -> exit status`. It is
  imported only when it was chosen, so `walarchiver --help` loads none of them.
- Global options may stand before or after the command.
- The exit status of an error is its class's; 130 after Ctrl-C; 2 for a wrong command line.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, Protocol, cast

from walarchiver.cli.context import Context, Output
from walarchiver.errors import Interrupted, UsageError, WalarchiverError
from walarchiver.settings import config_path

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001  argparse has no public name


class Command(Protocol):
    """What a command's module offers."""

    def register(self, subparsers: Subparsers) -> None:
        """Add the command's own parser, under the command's name."""
        ...

    def run(self, context: Context, args: argparse.Namespace) -> int:
        """Do it; the exit status. Raises WalarchiverError."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of `walarchiver --help`."""

    name: str
    summary: str

    @property
    def module(self) -> str:
        return f"walarchiver.cli.{self.name}"


COMMANDS = (
    Entry("demo", "the whole story on embedded PostgreSQL and S3, ending in a proof"),
    Entry("serve", "the daemon behind archive_command and restore_command"),
    Entry("status", "one screen, first the latest restorable second"),
    Entry("check", "prove archiving end to end with a forced WAL switch"),
    Entry("backup", "take a base backup"),
    Entry("backups", "list the base backups"),
    Entry("timeline", "coverage, gaps, forks and backups on one axis"),
    Entry("find", "which transactions deleted from, updated, truncated or dropped a table"),
    Entry("plan", "what a moment can be restored from; changes nothing"),
    Entry("restore", "restore a cluster to a moment, into a new directory"),
    Entry("peek", "a throwaway read-only instance at a moment, with psql"),
    Entry("rescue", "only some tables or rows, as they were at a moment"),
    Entry("bucket", "the application's versioned bucket: scan, as-of, diff, check, restore"),
    Entry("verify", "read every stored byte again and compare its hash; needs no key"),
    Entry("mark", "give this moment a name to restore to"),
    Entry("keys", "a repository and its keys: make, add, remove, rotate, test"),
    Entry("catalog", "rebuild the local catalog; scan segments that have no scan"),
    Entry("ledger", "verify the signed chain of everything archived"),
    Entry("config", "write, show or check the configuration"),
    Entry("doctor", "examine PostgreSQL, storage, clocks, disks, keys; --bundle for a report"),
    Entry("s3", "ask a store whether it does what is needed"),
    Entry("explain", "what an error code means and what to do"),
)

_VALUED = ("--config", "--cluster", "--output")
_FLAGS = ("--quiet", "--no-color")


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line the way every other error is reported."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"See `{self.prog} --help`.")


class _ShowVersion(argparse.Action):
    """Looks the version up only when asked: that costs as much as the rest of the start."""

    def __call__(self, parser: argparse.ArgumentParser, *_rest: object) -> NoReturn:
        import importlib.metadata  # half of the start: only this needs it

        print(f"walarchiver {importlib.metadata.version('walarchiver')}")
        parser.exit()


def main(words: Sequence[str] | None = None) -> int:
    """Run one command line; the exit status."""
    given = list(sys.argv[1:] if words is None else words)
    context = Context.plain()
    try:
        hoisted, rest = _hoist(given)
        chosen = next((entry for entry in COMMANDS if rest and entry.name == rest[0]), None)
        command = _loaded(chosen, alone=words is None) if chosen else None
        parser = _parser(chosen, command)
        context = _context(hoisted, context)
        args = parser.parse_args(hoisted + rest)
        if command is None:
            parser.print_help(context.stderr)
            return UsageError.exit_status
        return command.run(context, args)
    except WalarchiverError as error:
        context.failure(error)
        return error.exit_status
    except KeyboardInterrupt:
        context.failure(Interrupted("interrupted"))
        return Interrupted.exit_status
    except BrokenPipeError:
        # Whoever read the result has left; keep the interpreter's last flush from complaining.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _loaded(entry: Entry, *, alone: bool) -> Command:
    """The command's module; `alone`: this process does nothing else.

    What a module is made of stays for good. Not looking for garbage in it, then and later, spares a tenth of
    a short command's work.
    """
    if not alone:
        return cast(Command, importlib.import_module(entry.module))
    gc.disable()
    try:
        return cast(Command, importlib.import_module(entry.module))
    finally:
        gc.freeze()
        gc.enable()


def _hoist(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The global options, wherever they stand, and the rest in its order."""
    hoisted: list[str] = []
    rest: list[str] = []
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if word == "--":
            rest += [word, *waiting]
            break
        if word in _VALUED:
            hoisted += [word, *waiting[:1]]
            del waiting[:1]
        elif word in _FLAGS or word.partition("=")[0] in _VALUED:
            hoisted.append(word)
        else:
            rest.append(word)
    return hoisted, rest


def _parser(chosen: Entry | None, command: Command | None) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = _Parser(
        prog="walarchiver",
        description="PostgreSQL and its S3 bucket, back to any second, together, with proof.",
        allow_abbrev=False,
    )
    _add_global_options(parser)
    parser.add_argument("--version", action=_ShowVersion, nargs=0, help="print the version and end")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for entry in COMMANDS:
        if entry is chosen and command is not None:
            command.register(subparsers)
        else:
            subparsers.add_parser(entry.name, help=entry.summary, add_help=False)
    return parser


def _add_global_options(parser: argparse.ArgumentParser) -> None:
    options = parser.add_argument_group("options for every command, before or after it")
    options.add_argument("--config", metavar="FILE", help="default: as WALARCHIVER_CONFIG says")
    options.add_argument("--cluster", metavar="NAME", help="may be left out when there is only one")
    options.add_argument("--output", choices=[form.value for form in Output], default="text")
    options.add_argument("--quiet", action="store_true", help="no progress on stderr")
    options.add_argument("--no-color", action="store_true", help="as does the variable NO_COLOR")


def _context(hoisted: list[str], plain: Context) -> Context:
    """The context, known before the command's own options are parsed, so their errors obey it too."""
    parser = _Parser(prog="walarchiver", add_help=False, allow_abbrev=False)
    _add_global_options(parser)
    args = parser.parse_args(hoisted)
    return Context(
        config=config_path(args.config),
        cluster=args.cluster,
        output=Output(args.output),
        quiet=args.quiet,
        color=not args.no_color and not os.environ.get("NO_COLOR") and plain.stderr.isatty(),
        stdout=plain.stdout,
        stderr=plain.stderr,
    )


if __name__ == "__main__":
    sys.exit(main())
