"""`walarchiver bucket diff --from A --to B`: what changed in the bucket between two moments."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from restore.core.bucketlines import store_time
from walarchiver.bucketports import Change
from walarchiver.cli.bucketasof import row_members
from walarchiver.cli.bucketmoment import key_text, watched
from walarchiver.cli.bucketwindowlines import vouched
from walarchiver.cli.context import Context
from walarchiver.errors import UsageError

if TYPE_CHECKING:
    from walarchiver.cli.main import Subparsers

LISTED_MAX = 1000


def register(subparsers: Subparsers) -> None:
    """Add `diff`."""
    parser = subparsers.add_parser("diff", help="what changed between two moments")
    parser.add_argument("--from", dest="first", required=True, metavar="WHEN", help="a time with its zone")
    parser.add_argument("--to", dest="last", default="latest", metavar="WHEN", help="default: latest")
    parser.add_argument("--prefix", metavar="KEYS", help="only keys that begin so")
    parser.add_argument(
        "--limit",
        type=int,
        default=LISTED_MAX,
        metavar="N",
        help="list at most so many keys (all are counted)",
    )


def run(context: Context, args: argparse.Namespace) -> int:
    if args.limit < 0:
        raise UsageError(f"--limit {args.limit} lists nothing")
    with watched(context) as bucket:
        prefix = bucket.prefix(args.prefix)
        first, last = bucket.moment(args.first, "--from", prefix), bucket.moment(args.last, "--to", prefix)
        if first.at > last.at:
            raise UsageError(
                f"--from {store_time(first.at)} is later than --to {store_time(last.at)}",
                hint="Give the earlier moment as --from.",
            )
        window = vouched(bucket, first.at, prefix)
        counts = dict.fromkeys(("added", "changed", "deleted"), 0)
        listed: list[Change] = []
        for change in bucket.index.diff(first.at, last.at, prefix=prefix):
            counts[kind_of(change)] += 1
            if len(listed) < args.limit:
                listed.append(change)
    total = sum(counts.values())
    lines = [
        f"{bucket.location.url} from {first.text} to {last.text}",
        *window.lines,
        ", ".join(f"{count:,} {kind}" for kind, count in counts.items()),
        *(f"  {_MARKS[kind_of(change)]} {key_text(change.key)}{_sizes(change)}" for change in listed),
    ]
    if total > len(listed):
        lines.append(f"  and {total - len(listed):,} more: raise --limit")
    context.result(
        "\n".join(lines),
        {
            "bucket": bucket.location.url,
            "prefix": prefix,
            "from": store_time(first.at),
            "to": store_time(last.at),
            "window": window.members,
            **counts,
            "changes": [
                {
                    "key": change.key,
                    "kind": kind_of(change),
                    "before": row_members(change.before),
                    "after": row_members(change.after),
                }
                for change in listed
            ],
        },
    )
    return window.exit_status


_MARKS = {"added": "+", "changed": "~", "deleted": "-"}


def kind_of(change: Change) -> str:
    if change.before is None:
        return "added"
    return "deleted" if change.after is None else "changed"


def _sizes(change: Change) -> str:
    sizes = [f"{row.entry.size:,}" for row in (change.before, change.after) if row is not None]
    return f" ({' -> '.join(sizes)} bytes)"
