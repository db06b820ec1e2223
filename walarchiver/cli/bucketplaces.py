"""The buckets and indexes of one bucket restore, put together from the configuration and the options.

Rules:
- Every bucket that is read or written is listed first, to its end, so the plan rests on what is there now.
  The index of a bucket that is not the cluster's own lives only while the plan is made.
- A second bucket, and one to restore into, are reached as the cluster's is, but for what the options say;
  that is noted beside the plan (never a secret), so --plan finds them again.
- Without any listing of the cluster's own bucket (all is lost, the index too) the second one tells what was
  there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

from restore.bucketcopies import copies_made
from restore.bucketplan import BucketPlan, Ground, listed_at, read_plan
from walarchiver.assembly import Host
from walarchiver.bucketassembly import bucket_at, bucket_section, index_of, multipart_time_of
from walarchiver.bucketports import EvidenceBucket, LifecycleRule, VersionIndex
from walarchiver.cli.bucketmoment import Moment, Watched, understood_moment
from walarchiver.cli.bucketwindowlines import Vouched, vouched
from walarchiver.cli.context import Context
from walarchiver.core.version import StoreMs
from walarchiver.errors import MalformedObject, StoreDenied, UsageError
from walarchiver.evidence.openindex import open_index
from walarchiver.evidence.scanning import Progress, Scan, ScanOptions
from walarchiver.settings_schema import BucketSettings
from walarchiver.storage.options import S3Location

PLAN_FILE = "plan.jsonl"
JOURNAL_FILE = "journal.jsonl"
PLACES_FILE = "places.json"
PROGRESS_INTERVAL_S = 2.0


@dataclass(frozen=True, slots=True)
class Other:
    """A bucket that is not the cluster's own, and how it is reached where that differs."""

    url: str
    endpoint: str | None = None
    credentials: str | None = None

    def section(self, own: BucketSettings) -> BucketSettings:
        changed = replace(own, url=self.url)
        if self.endpoint is not None:
            changed = replace(changed, endpoint=self.endpoint)
        if self.credentials is not None:
            changed = replace(changed, credentials_file=Path(self.credentials), credentials_command=None)
        return changed


@dataclass(frozen=True, slots=True, kw_only=True)
class Buckets:
    """The buckets of a restore, open."""

    source: EvidenceBucket
    target: EvidenceBucket


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """What a new plan is made of."""

    buckets: Buckets
    ground: Ground
    states_url: str
    prefix: str
    to_prefix: str
    moment: Moment
    scanned: StoreMs
    window: Vouched
    others: dict[str, Other]


def others_of(args: argparse.Namespace) -> dict[str, Other]:
    """What the options say of other buckets: `into` and `from`. Raises ConfigError for a bad URL."""
    found = {}
    for name, url in (("into", args.into), ("from", args.from_bucket)):
        if url is None:
            continue
        whole = url if "://" in url else f"s3://{url}"
        credentials = getattr(args, f"{name}_credentials")
        found[name] = Other(
            S3Location.parse(whole).url,
            getattr(args, f"{name}_endpoint"),
            None if credentials is None else str(credentials.absolute()),
        )
    return found


def open_buckets(
    host: Host, own: BucketSettings, others: dict[str, Other], stack: ExitStack
) -> tuple[EvidenceBucket, Buckets]:
    """The cluster's bucket, the one that is read and the one that is written; closed with the stack."""
    opened = {name: bucket_at(host, other.section(own)) for name, other in others.items()}
    mine = bucket_at(host, own)
    for bucket in (mine, *opened.values()):
        stack.callback(bucket.close)
    return mine, Buckets(source=opened.get("from", mine), target=opened.get("into", mine))


def gather(context: Context, host: Host, args: argparse.Namespace, stack: ExitStack) -> Gathered:
    """Open and list everything that a new plan needs. Raises UsageError, NoBucket, Store…, Index…."""
    section = bucket_section(host, context.cluster)
    understood_moment(host, args.at, "--at")  # refused before anything is listed
    others = others_of(args)
    mine, buckets = open_buckets(host, section, others, stack)
    index = index_of(host, context.cluster)
    stack.callback(index.close)
    location = S3Location.parse(section.url)
    prefix = Watched(host, section, location, index).prefix(args.prefix)
    to_prefix = S3Location.parse(others["into"].url).prefix if "into" in others else ""
    lister = _Lister(context, host, section, stack, scan=not args.no_scan)
    states, states_bucket, origins, targets = index, mine, index, index
    known = listed_at(index, prefix) is not None
    if buckets.target is mine or buckets.source is mine:
        lister.own(mine, index, prefix)
    if buckets.source is not mine:
        origins = lister.other(buckets.source, prefix)
    if buckets.target is not mine:
        targets = lister.other(buckets.target, to_prefix + prefix)
    if not known and origins is not index:
        context.warning(
            f"nothing was known of {mine.url}: what it held is taken from {buckets.source.url}, where what "
            "was not replicated by then, or was removed since, is missing"
        )
        states, states_bucket = origins, buckets.source
    looked = Watched(host, section, S3Location.parse(states_bucket.url), states)
    moment = looked.moment(args.at, "--at", prefix)
    return Gathered(
        buckets=buckets,
        ground=Ground(
            states=states,
            origins=origins,
            targets=targets,
            source=buckets.source,
            target=buckets.target,
            rules=_rules(states_bucket),
            copied_before=copies_made(
                restores_folder(host), buckets.target.url, plan=PLAN_FILE, journal=JOURNAL_FILE
            ),
        ),
        states_url=states_bucket.url,
        prefix=prefix,
        to_prefix=to_prefix,
        moment=moment,
        scanned=looked.listed(prefix),
        window=vouched(looked, moment.at, prefix),
        others=others,
    )


def _rules(bucket: EvidenceBucket) -> tuple[LifecycleRule, ...]:
    """Why versions may be gone; nothing where that is hidden, or the bucket is lost."""
    try:
        return bucket.lifecycle()
    except StoreDenied:
        return ()


class _Lister:
    """Lists buckets into indexes, and tells how far it is."""

    def __init__(
        self, context: Context, host: Host, section: BucketSettings, stack: ExitStack, *, scan: bool
    ) -> None:
        self._context, self._host, self._section, self._scan = context, host, section, scan
        self._stack = stack
        self._told_s = host.clock.monotonic_s()

    def own(self, bucket: EvidenceBucket, index: VersionIndex, prefix: str) -> None:
        if self._scan:
            self._list(bucket, index, prefix)

    def other(self, bucket: EvidenceBucket, prefix: str) -> VersionIndex:
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="walarchiver-bucket-"))
        index = open_index(Path(folder) / "index.sqlite")
        self._stack.enter_context(closing(index))
        self._list(bucket, index, prefix)
        return index

    def _list(self, bucket: EvidenceBucket, index: VersionIndex, prefix: str) -> None:
        options = ScanOptions(
            listings=self._section.listings, multipart_time=multipart_time_of(self._section)
        )
        Scan(bucket, index, options, self._tell(bucket.url)).run(prefix)

    def _tell(self, url: str) -> Callable[[Progress], None]:
        def tell(now: Progress) -> None:
            now_s = self._host.clock.monotonic_s()
            if now_s - self._told_s >= PROGRESS_INTERVAL_S:
                self._told_s = now_s
                of = "" if now.expected is None else f" of about {now.expected:,}"
                self._context.progress(f"restore: {url}: {now.entries:,}{of} versions listed")

        return tell


# --- plans on disk -----------------------------------------------------------------------------------------


def restores_folder(host: Host) -> Path:
    return host.settings.server.state / "buckets" / "restores"


def plan_folder(host: Host, plan_id: str) -> Path:
    """Where a plan and its journal are kept. Raises UsageError."""
    if not plan_id.isalnum():
        raise UsageError(f"{plan_id!r} is not the id of a plan")
    return restores_folder(host) / plan_id


def note_others(folder: Path, others: dict[str, Other]) -> None:
    document = {
        name: {"url": other.url, "endpoint": other.endpoint, "credentials": other.credentials}
        for name, other in others.items()
    }
    (folder / PLACES_FILE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def reopened(context: Context, host: Host, plan_id: str, stack: ExitStack) -> tuple[BucketPlan, Buckets]:
    """A plan that was made before, and its buckets. Raises UsageError, MalformedObject, NoBucket, Store…"""
    folder = plan_folder(host, plan_id)
    if not (folder / PLAN_FILE).exists():
        raise UsageError(f"there is no plan {plan_id} in {folder.parent}", hint="Make one without --plan.")
    plan = read_plan(folder / PLAN_FILE)
    try:
        found = json.loads((folder / PLACES_FILE).read_text(encoding="utf-8"))
        others = {name: Other(**other) for name, other in found.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise MalformedObject(f"{folder / PLACES_FILE} cannot be read: {error}") from error
    _, buckets = open_buckets(host, bucket_section(host, context.cluster), others, stack)
    if (buckets.source.url, buckets.target.url) != (plan.header.source, plan.header.target):
        raise UsageError(
            f"plan {plan_id} is for {plan.header.target}, the chosen cluster's bucket is another one",
            hint="Choose the cluster with --cluster.",
        )
    return plan, buckets
