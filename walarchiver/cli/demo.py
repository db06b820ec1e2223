"""`walarchiver demo`: the whole story on embedded PostgreSQL and S3; exit 0 only if the proof held."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from walarchiver.cli.context import Context, Output

if TYPE_CHECKING:
    from walarchiver.cli.main import Subparsers


def register(subparsers: Subparsers) -> None:
    """Add `demo`."""
    parser = subparsers.add_parser("demo", help="the whole story on embedded PostgreSQL and S3")
    parser.add_argument("--fast", action="store_true", help="a shorter workload")
    parser.add_argument(
        "--chaos",
        action="store_true",
        help="kill the archiving server while it uploads",
    )
    parser.add_argument("--keep", action="store_true", help="leave the folder with everything in it")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the workload (default: 1)")
    parser.add_argument("--major", type=int, default=18, choices=range(15, 19), help="PostgreSQL version")


def run(context: Context, args: argparse.Namespace) -> int:
    say = context.progress if context.output is Output.JSON else _printer(context)
    say("walarchiver demo: starting (the first run fetches PostgreSQL and an S3 server)")
    from walarchiver.demo.story import Options, Story  # loads every part; the line above comes first

    options = Options(major=args.major, seed=args.seed, fast=args.fast, keep=args.keep, chaos=args.chaos)
    outcome = Story(options, say).tell()
    text = (
        f"RTO {outcome.rto_s:.1f} s (from the command to a proven, running server), "
        f"RPO {outcome.rpo_s:.1f} s (newest commit before the kill, minus the latest restorable moment)"
    )
    context.result(text, outcome.members())
    return 0 if outcome.proof.holds else 1


def _printer(context: Context) -> Callable[[str], None]:
    def say(line: str) -> None:
        print(line, file=context.stdout, flush=True)

    return say
