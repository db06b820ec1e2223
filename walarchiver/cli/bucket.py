"""`walarchiver bucket`: the application's versioned bucket, listed, looked at, compared, restored.

Each verb is a module of its own with `register` and `run`, imported only when it was chosen.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from walarchiver.cli.context import Context

if TYPE_CHECKING:
    from walarchiver.cli.main import Command, Subparsers

VERBS = {
    "scan": "list every version into the index",
    "as-of": "what the bucket held at a moment",
    "diff": "what changed between two moments",
    "check": "compare the bucket with what the database refers to",
    "pin": "keep a moment of database and bucket, or look at one that is kept",
    "pins": "the moments of database and bucket that are kept",
    "restore": "bring the bucket, or what is missing of it, back to a moment",
}


def _module(verb: str) -> Command:
    return cast("Command", importlib.import_module(f"walarchiver.cli.bucket{verb.replace('-', '')}"))


class Verbs(argparse._SubParsersAction):  # type: ignore[type-arg]  # noqa: SLF001  argparse has no public name
    """Lets the chosen verb's module add its own parser, just before it is used."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        chosen = values[0] if values else None
        if chosen in VERBS:
            self.load(chosen)
        super().__call__(parser, namespace, values, option_string)

    def load(self, verb: str) -> None:
        """Put the verb's own parser in the place of its mere name."""
        assert self.choices is not None, "there is a parser for every verb"
        self.choices.pop(verb)  # it is the dict of parsers
        _module(verb).register(self)


def register(subparsers: Subparsers) -> None:
    """Add `bucket` and its verbs."""
    parser = subparsers.add_parser("bucket", help="the application's versioned bucket")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, action=Verbs)
    for verb, summary in VERBS.items():
        verbs.add_parser(verb, help=summary, add_help=False)


def run(context: Context, args: argparse.Namespace) -> int:
    return _module(args.verb).run(context, args)
