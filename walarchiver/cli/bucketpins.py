"""`walarchiver bucket pins`: the moments of database and bucket that are kept."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from walarchiver.assembly import open_archive
from walarchiver.cli.context import Context
from walarchiver.core.lsn import format_lsn
from walarchiver.core.moment import format_rfc3339
from walarchiver.format.records import PinRecord

if TYPE_CHECKING:
    from walarchiver.cli.main import Subparsers


def register(subparsers: Subparsers) -> None:
    """Add `pins`."""
    subparsers.add_parser("pins", help="the moments of database and bucket that are kept")


def run(context: Context, _args: argparse.Namespace) -> int:
    host = context.host()
    archive = open_archive(host, context.cluster)
    pins = archive.catalog.pins()
    text = "\n".join(pin_text(one) for one in pins) or "no pins; `walarchiver bucket pin` makes one"
    context.result(text, {"cluster": archive.cluster.name, "pins": [pin_members(one) for one in pins]})
    return 0


def pin_text(one: PinRecord) -> str:
    """A pin for people, in two lines."""
    kept = f"copies in {one.kept_in}" if one.kept_in else "no copies: in the watched bucket alone"
    return (
        f"{one.pin}  {format_rfc3339(one.time)}  {one.objects:,} objects, {one.bytes:,} bytes; {one.reason}\n"
        f"  base backup {one.backup}, timeline {one.timeline}, {format_lsn(one.lsn)}; "
        f"{one.bucket}/{one.prefix} as of {format_rfc3339(one.cutoff)}; {kept}"
    )


def pin_members(one: PinRecord) -> dict[str, object]:
    """A pin for machines."""
    return {
        "id": one.pin,
        "time": format_rfc3339(one.time),
        "base_backup": one.backup,
        "timeline": one.timeline,
        "lsn": format_lsn(one.lsn),
        "bucket": one.bucket,
        "prefix": one.prefix,
        "cutoff": format_rfc3339(one.cutoff),
        "objects": one.objects,
        "bytes": one.bytes,
        "kept_in": one.kept_in or None,
        "reason": one.reason,
        "parts": len(one.parts),
    }
