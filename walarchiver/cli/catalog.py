"""`walarchiver catalog rebuild`: make the local catalog again from the ledger alone."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from walarchiver.assembly import open_archive
from walarchiver.cli.context import Context

if TYPE_CHECKING:
    from walarchiver.cli.main import Subparsers


def register(subparsers: Subparsers) -> None:
    """Add `catalog`."""
    parser = subparsers.add_parser("catalog", help="rebuild the local catalog from the ledger")
    parser.add_argument("verb", choices=["rebuild"])


def run(context: Context, args: argparse.Namespace) -> int:
    host = context.host()
    archive = open_archive(host, context.cluster)
    assert args.verb == "rebuild"
    state = archive.ledger.rebuild()
    counts = archive.catalog.counts()
    listed = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    context.result(
        f"catalog of system {archive.system} made again from {state.next_seq} ledger entries: {listed}",
        {"system": archive.system, "entries": state.next_seq, "records": counts},
    )
    return 0
