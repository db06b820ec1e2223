"""`walarchiver catalog`: make the local catalog again from the ledger, and complete what it knows of WAL."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from walarchiver.assembly import open_archive
from walarchiver.cli.context import Context
from walarchiver.operate.backfill import Backfilled, complete, unscanned

if TYPE_CHECKING:
    from walarchiver.cli.main import Subparsers

DEGRADED = 3
_EVERY = 50
"""Segments between two lines of progress."""


def register(subparsers: Subparsers) -> None:
    """Add `catalog`."""
    parser = subparsers.add_parser(
        "catalog", help="rebuild the local catalog from the ledger; scan segments archived without a scan"
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("rebuild", help="make the local catalog again from the ledger alone")
    scan = verbs.add_parser(
        "scan", help="open the segments that have no scan, walk them and record what they tell"
    )
    scan.add_argument("--dry-run", action="store_true", help="only say how many there are")


def run(context: Context, args: argparse.Namespace) -> int:
    return _rebuild(context) if args.verb == "rebuild" else _scan(context, dry_run=args.dry_run)


def _rebuild(context: Context) -> int:
    host = context.host()
    archive = open_archive(host, context.cluster)
    state = archive.ledger.rebuild()
    counts = archive.catalog.counts()
    listed = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    context.result(
        f"catalog of system {archive.system} made again from {state.next_seq} ledger entries: {listed}",
        {"system": archive.system, "entries": state.next_seq, "records": counts},
    )
    return 0


def _scan(context: Context, *, dry_run: bool) -> int:
    archive = open_archive(context.host(), context.cluster, write=not dry_run)
    segments = unscanned(archive)

    def progress(done: int) -> None:
        if done % _EVERY == 0:
            context.progress(f"{done} of {len(segments)} segments scanned")

    done = Backfilled() if dry_run else complete(archive, segments, progress)
    lines = [
        f"{len(segments)} archived segments have no scan" + ("" if dry_run else f"; {done.scanned} scanned")
    ]
    lines += [f"left: {name}: {why}" for name, why in done.left]
    context.result(
        "\n".join(lines),
        {
            "system": archive.system,
            "unscanned": len(segments),
            "scanned": done.scanned,
            "left": [{"segment": name, "reason": why} for name, why in done.left],
        },
    )
    return DEGRADED if done.left else 0
