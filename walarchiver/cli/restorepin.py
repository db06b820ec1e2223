"""`walarchiver bucket restore --pin ID --into BUCKET`: the versions of a pin, brought into a bucket.

Rules:
- Without --apply it only says what would be done. A key is written only where nothing is.
- Exit status: 0 every key holds what it should; 15 versions are lost; 3 keys hold something else, or versions
  are archived.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack, closing

from restore.core.wording import counted
from walarchiver.assembly import open_archive
from walarchiver.bucketassembly import bucket_at, bucket_of, bucket_section
from walarchiver.bucketpins import copies_beside, pin_folder, pin_named
from walarchiver.cli.bucketmoment import key_text
from walarchiver.cli.bucketpins import pin_members, pin_text
from walarchiver.cli.bucketplaces import others_of
from walarchiver.cli.context import Context
from walarchiver.errors import PinIncomplete, UsageError
from walarchiver.evidence.pinrestore import Fate, PinRestore, PinRestored
from walarchiver.evidence.pins import read_pin
from walarchiver.format.records import PinRecord
from walarchiver.operate.findings import DEGRADED
from walarchiver.storage.options import S3Location

LISTED = 20
THREADS = 8
_ALONE = (
    "at",
    "prefix",
    "keys",
    "plan",
    "from_bucket",
    "missing_only",
    "in_place",
    "delete_newer",
    "manifest",
)


def restore_pin(context: Context, args: argparse.Namespace) -> int:
    """Look, or carry out. Raises UsageError, KeyCannotOpen, BucketNotVersioned, Store…"""
    for name in _ALONE:
        if getattr(args, name):
            raise UsageError(f"--pin has its own moment and keys: --{name.replace('_', '-')} does not fit")
    if args.into is None:
        raise UsageError("--pin goes with --into", hint="Name the bucket to restore into.")
    host = context.host()
    archive = open_archive(host, context.cluster)
    record = pin_named(archive.catalog, args.pin)
    section = bucket_section(host, context.cluster)
    into = others_of(args)["into"]
    with ExitStack() as stack:
        watched = stack.enter_context(closing(bucket_of(host, context.cluster)))
        target = stack.enter_context(closing(bucket_at(host, into.section(section))))
        backup = copies_beside(host, context.cluster, record, context.warning)
        if backup is not None:
            stack.callback(backup.close)

        def progress(now: PinRestored) -> None:
            done = sum(now.keys.values())
            context.progress(f"restore: {done:,} of {record.objects:,} keys, {now.bytes / 1e6:,.0f} MB")

        job = PinRestore(
            watched, backup, target, S3Location.parse(into.url).prefix, THREADS, progress=progress
        )
        versions = read_pin(
            archive.repository, archive.system, record, folder=pin_folder(host, context.cluster)
        )
        done = job.carry_out(versions) if args.apply else job.look(versions)
    return _told(context, args, record, done, into.url)


def _told(context: Context, args: argparse.Namespace, record: PinRecord, done: PinRestored, url: str) -> int:
    words = {
        Fate.COPIED: f"copied, {done.bytes:,} bytes" if args.apply else f"to copy, {done.bytes:,} bytes",
        Fate.THERE: "as they should be",
        Fate.OTHER: "hold something else, left as they are",
        Fate.UNREADABLE: "archived, or encrypted by a customer's key",
        Fate.LOST: "LOST",
    }
    lines = [pin_text(record), f"into {url}:"]
    lines += [f"{done.keys[fate]:>16,}  {words[fate]}" for fate in Fate if done.keys[fate]]
    lines += [f"  {fate}: {key_text(key)}" for fate, key in done.listed[:LISTED]]
    if not args.apply:
        lines.append("this was a dry run, nothing was written; --apply does it")
    context.result(
        "\n".join(lines),
        {
            "pin": pin_members(record),
            "target": url,
            "applied": args.apply,
            "keys": {fate.value: done.keys[fate] for fate in Fate},
            "bytes": done.bytes,
            "listed": [{"key": key, "fate": fate.value} for fate, key in done.listed],
        },
    )
    if done.keys[Fate.LOST]:
        failure = PinIncomplete(f"pin {record.pin}: {counted(done.keys[Fate.LOST], 'version')} lost")
        context.failure(failure)
        return failure.exit_status
    return DEGRADED if done.keys[Fate.OTHER] + done.keys[Fate.UNREADABLE] else 0
