"""`walarchiver bucket as-of --at WHEN`: what the bucket held at a moment. Asks the index only."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from restore.core.bucketlines import store_time
from restore.core.wording import counted
from walarchiver.bucketports import Uncertain
from walarchiver.cli.bucketmoment import Moment, Watched, key_text, watched
from walarchiver.cli.bucketwindowlines import Vouched, vouched
from walarchiver.cli.context import Context, Output
from walarchiver.core.version import Row

if TYPE_CHECKING:
    from walarchiver.cli.main import Subparsers

SHOWN_MAX = 20
LISTED_MAX = 1000


def register(subparsers: Subparsers) -> None:
    """Add `as-of`."""
    parser = subparsers.add_parser("as-of", help="what the bucket held at a moment")
    parser.add_argument("--at", required=True, metavar="WHEN", help="a time with its zone, or latest")
    parser.add_argument("--prefix", metavar="KEYS", help="only keys that begin so")
    parser.add_argument("--long", action="store_true", help="every object, with version, size and time")


def run(context: Context, args: argparse.Namespace) -> int:
    with watched(context) as bucket:
        prefix = bucket.prefix(args.prefix)
        moment = bucket.moment(args.at, "--at", prefix)
        window = vouched(bucket, moment.at, prefix)
        if args.long and context.output is Output.TEXT:
            return _long(context, bucket, moment, prefix, window)
        return _short(context, bucket, moment, prefix, window, everything=args.long)


def _long(context: Context, bucket: Watched, moment: Moment, prefix: str, window: Vouched) -> int:
    context.progress("\n".join([f"as of {moment.text}", *window.lines]))
    for row in bucket.index.as_of(moment.at, prefix=prefix):
        entry = row.entry
        since = store_time(row.placed.begin)
        print(f"{since} {entry.size:>14,} {entry.version_id} {_named(row)}", file=context.stdout)
    return window.exit_status


def _short(
    context: Context, bucket: Watched, moment: Moment, prefix: str, window: Vouched, *, everything: bool
) -> int:
    totals = bucket.index.totals(moment.at, prefix=prefix)
    doubtful = 0
    uncertain: list[Uncertain] = []
    for each in bucket.index.uncertain(moment.at, prefix=prefix):
        doubtful += 1
        if len(uncertain) < LISTED_MAX:
            uncertain.append(each)
    objects: list[Row] = []
    for row in bucket.index.as_of(moment.at, prefix=prefix):
        if len(objects) == (totals.objects if everything else SHOWN_MAX):
            break
        objects.append(row)
    lines = [
        f"{bucket.location.url} as of {moment.text}",
        *window.lines,
        f"{totals.objects:,} objects, {totals.bytes:,} bytes; {totals.gone:,} of them removed for ever since",
        f"{counted(doubtful, 'key')} of which the state at the moment is not certain"
        + (":" if doubtful else ""),
    ]
    lines += [f"  {key_text(each.key)}: {', '.join(each.doubts)}" for each in uncertain[:SHOWN_MAX]] + _more(
        doubtful
    )
    lines += ["objects:", *(f"  {row.entry.size:>14,} {_named(row)}" for row in objects)]
    if totals.objects > SHOWN_MAX:
        lines.append(f"  and {totals.objects - SHOWN_MAX:,} more: --long shows all")
    context.result(
        "\n".join(lines),
        {
            "bucket": bucket.location.url,
            "prefix": prefix,
            "requested": moment.text,
            "moment": store_time(moment.at),
            "listed": store_time(bucket.listed(prefix)),
            "window": window.members,
            "objects": totals.objects,
            "bytes": totals.bytes,
            "gone": totals.gone,
            "uncertain": doubtful,
            "uncertain_keys": [{"key": each.key, "doubts": list(each.doubts)} for each in uncertain],
            "keys": [row_members(row) for row in objects],
        },
    )
    return window.exit_status


def _more(count: int) -> list[str]:
    return [f"  and {count - SHOWN_MAX:,} more"] if count > SHOWN_MAX else []


def _named(row: Row) -> str:
    return key_text(row.entry.key) + ("  (removed for ever since)" if row.is_gone else "")


def row_members(row: Row | None) -> dict[str, object] | None:
    """A version for machines."""
    if row is None:
        return None
    entry = row.entry
    return {
        "key": entry.key,
        "version": entry.version_id,
        "size": entry.size,
        "etag": entry.etag,
        "storage_class": entry.storage_class,
        "from": store_time(row.placed.begin),
        "until": store_time(row.placed.until),
        "removed_for_ever": row.is_gone,
    }
