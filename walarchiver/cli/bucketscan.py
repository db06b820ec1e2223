"""`walarchiver bucket scan`: bring the index of the bucket's versions up to date."""

from __future__ import annotations

import argparse
import fcntl
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from restore.core.bucketlines import store_time
from walarchiver.assembly import Host
from walarchiver.bucketassembly import (
    bucket_of,
    bucket_options,
    bucket_section,
    index_of,
    index_path,
    multipart_time_of,
)
from walarchiver.bucketports import EvidenceBucket, VersionIndex, Versioning
from walarchiver.bucketshipping import ship_index
from walarchiver.cli.context import Context
from walarchiver.errors import Locked, UsageError, WalarchiverError
from walarchiver.evidence.events import Follower
from walarchiver.evidence.openfeed import open_feed
from walarchiver.evidence.scanning import Progress, Scan, Scanned, ScanOptions
from walarchiver.evidence.scanplace import forget_place
from walarchiver.operate.findings import DEGRADED
from walarchiver.ports import Clock
from walarchiver.settings_schema import BucketSettings

if TYPE_CHECKING:
    from walarchiver.cli.main import Subparsers

_TELL_EVERY_S = 5.0


def register(subparsers: Subparsers) -> None:
    """Add `bucket scan`."""
    parser = subparsers.add_parser(
        "scan",
        help="list every version into the index",
        description="Lists every version and marker into the index; a scan that was interrupted goes on.",
    )
    parser.add_argument("--prefix", metavar="KEY", help="only keys that begin like this (whole keys)")
    parser.add_argument("--full", action="store_true", help="begin anew, even where one was interrupted")
    parser.add_argument(
        "--inventory",
        metavar="URL",
        help="begin an empty index with an inventory: its manifest.json as s3://… or file:///…; then scan",
    )
    parser.add_argument(
        "--events",
        nargs="?",
        const="",
        metavar="URL",
        help="list only what waiting notifications name; from `events`, an SQS URL, or file:///PLACE",
    )
    parser.add_argument(
        "--no-ship", action="store_true", help="do not keep what the index knows in the repository"
    )


def run(context: Context, args: argparse.Namespace) -> int:
    host = context.host()
    section = bucket_section(host, context.cluster)
    if sum((args.events is not None, args.inventory is not None, args.full or args.prefix is not None)) > 1:
        raise UsageError("--events, --inventory, and --full or --prefix exclude each other")
    with (
        closing(bucket_of(host, context.cluster)) as bucket,
        closing(index_of(host, context.cluster)) as index,
        _alone(_beside(index_path(host, section), "lock")),
    ):
        if args.events is not None:
            status = _follow(context, host, section, bucket, index, args.events or section.events)
        elif args.inventory is not None:
            status = _begin(context, host, section, bucket, index, args.inventory)
        else:
            status = _scan(context, host, section, bucket, index, prefix=args.prefix, anew=args.full)
        return status if args.no_ship else max(status, _ship(context, host, index))


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One scan at a time feeds an index: two would list everything twice. Raises Locked."""
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Locked(
                f"another `bucket scan` is at work on {path.with_suffix('.sqlite')}",
                hint="Wait for it to end; the daemon scans by itself every `scan`.",
            ) from None
        yield


def _ship(context: Context, host: Host, index: VersionIndex) -> int:
    """Keep in the repository what is new in the index: some of it no listing shows again."""
    try:
        shipped = ship_index(
            host,
            context.cluster,
            index,
            lambda done: context.progress(f"scan: {done.keys:,} keys of the index kept in the repository"),
        )
    except WalarchiverError as error:
        context.warning(f"the index was not kept in the repository: {error.code}: {error.message}")
        return DEGRADED
    if shipped is None:
        context.progress("scan: this host has no signing key, so the index is not kept in the repository")
    return 0


# --- the whole bucket ----------------------------------------------------------------------------


def _scan(
    context: Context,
    host: Host,
    section: BucketSettings,
    bucket: EvidenceBucket,
    index: VersionIndex,
    *,
    prefix: str | None,
    anew: bool,
) -> int:
    if prefix is not None and not prefix.startswith(bucket.prefix):
        raise UsageError(
            f"--prefix {prefix!r} lies outside of {bucket.url}",
            hint=f"Keys are whole: begin with {bucket.prefix!r}.",
        )
    place = _beside(index_path(host, section), "scan" if prefix is None else "scan-prefix")
    if anew:
        forget_place(place)
    options = ScanOptions(
        page_entries=section.page_entries,
        listings=section.listings,
        multipart_time=multipart_time_of(section),
        place=place,
    )
    began_s = host.clock.monotonic_s()
    found = Scan(bucket, index, options, teller(context, host.clock)).run(prefix)
    seconds = host.clock.monotonic_s() - began_s
    context.result(_text(bucket, found, seconds), _members(bucket, found, seconds))
    if found.versioning is Versioning.SUSPENDED:
        context.warning("versioning is suspended: what is replaced or deleted now is lost at once")
        return DEGRADED
    return 0


def teller(context: Context, clock: Clock) -> Callable[[Progress], None]:
    """Lines for who waits: how much, how fast, how long still."""
    began_s = told_s = clock.monotonic_s()
    first: int | None = None

    def tell(now: Progress) -> None:
        nonlocal began_s, told_s, first
        at_s = clock.monotonic_s()
        if first is None or now.entries < first:  # it begins, or begins anew
            first, began_s = now.entries, at_s
        if at_s - told_s < _TELL_EVERY_S:
            return
        told_s = at_s
        rate = (now.entries - first) / max(at_s - began_s, 0.001)
        left = ""
        if now.expected is not None and rate > 0 and now.expected > now.entries:
            left = f", about {(now.expected - now.entries) / rate:,.0f} s left"
        context.progress(
            f"scan: {now.keys:,} keys, {now.entries:,} entries, {rate:,.0f} entries a second{left}"
        )

    return tell


def _text(bucket: EvidenceBucket, found: Scanned, seconds: float) -> str:
    lines = [
        f"{bucket.url} as it was at {store_time(found.asked)} on its own clock",
        f"{found.keys:,} keys with {found.entries:,} versions and markers, in {seconds:,.1f} s"
        + (", going on with an interrupted scan" if found.resumed else ""),
        f"{found.added:,} are new, {found.gone:,} were removed for ever",
    ]
    if found.revived:
        lines.append(
            f"{found.revived:,} that had been taken as removed are there: an earlier listing lost them"
        )
    if found.carefully:
        lines.append(
            f"the store loses keys in its listings: everything was listed twice, {found.alone:,} keys alone"
        )
    return "\n".join(lines)


def _members(bucket: EvidenceBucket, found: Scanned, seconds: float) -> dict[str, object]:
    return {
        "bucket": bucket.url,
        "asked": store_time(found.asked),
        "keys": found.keys,
        "entries": found.entries,
        "added": found.added,
        "gone": found.gone,
        "revived": found.revived,
        "listed_alone": found.alone,
        "loses_keys": found.carefully,
        "resumed": found.resumed,
        "versioning": found.versioning.value,
        "seconds": round(seconds, 3),
    }


# --- an inventory --------------------------------------------------------------------------------


def _begin(
    context: Context,
    host: Host,
    section: BucketSettings,
    bucket: EvidenceBucket,
    index: VersionIndex,
    url: str,
) -> int:
    from walarchiver.evidence.inventory import parse_manifest, take_over  # DuckDB is loaded for this only
    from walarchiver.evidence.inventoryplace import InventoryPlace

    with closing(InventoryPlace(url, bucket_options(host, section), host.clock, host.random)) as place:
        manifest = parse_manifest(place.manifest())
        folder = index_path(host, section).parent
        done = take_over(manifest, place.fetch, bucket, index, folder=folder)
    context.result(
        f"{bucket.url}: {done.added:,} entries of an inventory begun at {store_time(manifest.begun)}\n"
        "nothing is vouched for before a complete scan: run `walarchiver bucket scan`",
        {"bucket": bucket.url, "begun": store_time(manifest.begun), "added": done.added, "gone": done.gone},
    )
    return 0


# --- notifications -------------------------------------------------------------------------------


def _follow(
    context: Context,
    host: Host,
    section: BucketSettings,
    bucket: EvidenceBucket,
    index: VersionIndex,
    url: str | None,
) -> int:
    if not url:
        raise UsageError(
            "the configuration names no notifications",
            hint="Set `events` in the bucket's section, or give a URL: an SQS queue or file:///PLACE.",
        )
    path = index_path(host, section)
    options = bucket_options(host, section)
    feed = open_feed(url, options, host.clock, host.random, aside=_beside(path, "aside.jsonl"))
    with closing(feed):
        done = Follower(bucket, index, feed, _beside(path, "events"), context.warning).drain()
    members = asdict(done) | {"bucket": bucket.url, "feed": feed.name}
    members["gap_since"] = None if done.gap_since is None else store_time(done.gap_since)
    text = (
        f"{bucket.url}: {done.messages:,} notifications, {done.keys:,} keys listed again with"
        f" {done.requests:,} requests\n{done.added:,} entries are new, {done.gone:,} were removed for ever,"
        f" {done.uploads:,} ends of uploads in parts"
    )
    if done.foreign:
        text += f"\n{done.foreign:,} changes were of other buckets or prefixes"
    if done.aside:
        text += f"\n{done.aside:,} messages were none and were put aside"
    if done.gap_since is not None:
        text += f"\nsince {store_time(done.gap_since)} notifications may have been lost: scan the bucket"
    context.result(text, members)
    return DEGRADED if done.aside or done.gap_since is not None else 0


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f"{path.stem}.{kind}")
