"""`walarchiver catalog`: make the local catalog again from the ledger, and complete what it knows of WAL."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from walarchiver.assembly import open_archive, open_ledger
from walarchiver.cli.bucketindex import bring_index
from walarchiver.cli.context import Context
from walarchiver.core.moment import format_rfc3339
from walarchiver.errors import UsageError
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
    rebuild = verbs.add_parser("rebuild", help="make this user's local catalog again from the ledger alone")
    rebuild.add_argument(
        "--drop",
        metavar="FIRST..LAST",
        help="accept that these entries, read here before and gone from the store, are lost",
    )
    rebuild.add_argument("--repository", metavar="NAME", help="default: the cluster's first")
    rebuild.add_argument("--system", metavar="ID", help="an older system identifier of the same cluster name")
    scan = verbs.add_parser(
        "scan", help="open the segments that have no scan, walk them and record what they tell"
    )
    scan.add_argument("--dry-run", action="store_true", help="only say how many there are")


def run(context: Context, args: argparse.Namespace) -> int:
    return _rebuild(context, args) if args.verb == "rebuild" else _scan(context, dry_run=args.dry_run)


def _rebuild(context: Context, args: argparse.Namespace) -> int:
    drop = None if args.drop is None else _range(args.drop)
    _, ledger = open_ledger(
        context.host(), context.cluster, system=args.system, repository_name=args.repository
    )
    lost = ledger.rebuild(drop)
    entries, counts = ledger.state().next_seq, ledger.catalog.counts()
    listed = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) or "nothing"
    lines = [f"catalog of system {ledger.system} made again from {entries} ledger entries: {listed}"]
    members: dict[str, object] = {"system": ledger.system, "entries": entries, "records": counts}
    members["dropped"] = None
    if lost is not None:
        lines.append(f"dropped: {lost}")
        members["dropped"] = {
            "first": lost.first,
            "last": lost.last,
            "records": dict(lost.records),
            "files": list(lost.files),
            "backups": list(lost.backups),
        }
    host, index = context.host(), None
    if host.settings.cluster(host.settings.cluster_name(context.cluster)).bucket is not None:
        archive = open_archive(host, context.cluster, system=args.system, repository_name=args.repository)
        index = bring_index(context, host, archive)
    if index is not None:
        lines.append(
            f"index of the bucket made again from generation {index.generation}: {index.rows:,} rows read, "
            f"all known at {format_rfc3339(index.asked_us)} there; go on with `walarchiver bucket scan`"
        )
        members["bucket_index"] = {
            "generation": index.generation,
            "rows": index.rows,
            "asked": format_rfc3339(index.asked_us),
        }
    context.result("\n".join(lines), members)
    return 0


def _range(text: str) -> tuple[int, int]:
    """Raises UsageError."""
    found = re.fullmatch(r"([0-9]{1,18})\.\.([0-9]{1,18})", text)
    if found is None:
        raise UsageError(f"--drop {text!r} is no range of entries", hint="Write it as printed: 58..61.")
    return int(found[1]), int(found[2])


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
