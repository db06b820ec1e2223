"""What doctor says of the application's bucket: versioning, rules, rights, clock, and the references query.

Rule: nothing is written and no object is read; the query is run for its first row only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import islice

from walarchiver.assembly import Host
from walarchiver.bucketassembly import bucket_of, bucket_section, index_of
from walarchiver.bucketports import EvidenceBucket, KeyRange, Versioning
from walarchiver.bucketshipping import needs_rebuilding
from walarchiver.core.moment import format_rfc3339
from walarchiver.errors import StoreDenied
from walarchiver.operate.findings import Finding, fail, looked_at, ok, warn
from walarchiver.postgres.references import read_references
from walarchiver.settings import ClusterSettings
from walarchiver.settings_schema import BucketSettings

SKEW_WARN_US = 3_000_000
"""A Date header tells whole seconds, rounded down."""


def bucket_findings(host: Host, cluster: str, section: ClusterSettings) -> Iterator[Finding]:
    """Findings about the cluster's bucket; none when it has none."""
    if section.bucket is None:
        return
    bucket = bucket_section(host, cluster)
    with contextlib.closing(bucket_of(host, cluster)) as there:
        yield from looked_at("bucket", lambda: _versioning(there))
        yield from looked_at("bucket rules", lambda: _rules(there, section))
        yield from looked_at("bucket listing", lambda: _listing(there))
        yield from looked_at("bucket clock", lambda: _clock(host, there))
    yield from looked_at("bucket index", lambda: _index(host, cluster))
    yield from looked_at("references", lambda: _references(bucket, section))


def _versioning(bucket: EvidenceBucket) -> Iterator[Finding]:
    state = bucket.versioning()
    if state is Versioning.ENABLED:
        yield ok("bucket", f"{bucket.url} keeps versions")
    else:
        yield fail(
            "bucket",
            f"versioning of {bucket.url} is {state.value}: what is replaced or deleted is lost at once",
            "Enable versioning of the bucket.",
        )


def _rules(bucket: EvidenceBucket, section: ClusterSettings) -> Iterator[Finding]:
    try:
        removing = [rule for rule in bucket.lifecycle() if rule.noncurrent_days is not None]
    except StoreDenied:
        yield warn(
            "bucket rules",
            "lifecycle rules may not be read, so nothing is known of what they remove",
            "Grant s3:GetLifecycleConfiguration on the bucket.",
        )
        return
    window = section.retention.window
    short = [rule for rule in removing if (rule.noncurrent_days or 0) < window.days]
    for rule in short:
        yield fail(
            "bucket rules",
            f"rule {rule.id!r} removes replaced versions after {rule.noncurrent_days} days, the window is "
            f"{window.days} days",
            "Let the rule keep them longer, or shorten `window` in the retention section.",
        )
    if not short:
        kept = min((rule.noncurrent_days or 0 for rule in removing), default=None)
        yield ok(
            "bucket rules",
            "no rule removes replaced versions"
            if kept is None
            else f"replaced versions stay for {kept} days",
        )


def _listing(bucket: EvidenceBucket) -> Iterator[Finding]:
    first = next(iter(bucket.list_entries(KeyRange(bucket.prefix), page_entries=1)), ())
    yield ok("bucket listing", "versions may be listed" + ("" if first else "; there is none yet"))


def _clock(host: Host, bucket: EvidenceBucket) -> Iterator[Finding]:
    before_us = host.clock.now_us()
    shown_us = bucket.date() * 1000
    after_us = host.clock.now_us()
    apart_us = max(0, shown_us - after_us, before_us - shown_us - 1_000_000)
    if apart_us >= SKEW_WARN_US:
        yield warn(
            "bucket clock",
            f"the store's clock is {apart_us / 1e6:.1f} s from this host's",
            "Set both by NTP; joint restores count the difference in.",
        )
    else:
        yield ok("bucket clock", "the store's clock and this host's agree")


def _index(host: Host, cluster: str) -> Iterator[Finding]:
    if needs_rebuilding(host, cluster):
        yield warn(
            "bucket index",
            "this host has no index of the bucket",
            "`walarchiver catalog rebuild` brings it from the repository, `bucket scan` makes it.",
        )
        return
    with contextlib.closing(index_of(host, cluster)) as index:
        scans = [seen.at for seen in index.observations() if seen.kind == "scan"]
    if scans:
        yield ok("bucket index", f"last complete listing of {format_rfc3339(max(scans) * 1000)}")
    else:
        yield warn("bucket index", "the bucket was never listed to its end", "Run `walarchiver bucket scan`.")


def _references(bucket: BucketSettings, section: ClusterSettings) -> Iterator[Finding]:
    if bucket.references is None:
        yield warn(
            "references",
            "no query says what the database refers to, so joint restores cannot be compared",
            "Set `references` in the bucket's section.",
        )
        return
    if section.dsn is None:
        yield warn("references", "not tried: the cluster has no `dsn`", "Run this where the server runs.")
        return
    rows = read_references(section.dsn, bucket.references, dbname=bucket.database)
    first = list(islice(rows, 1))
    rows.close()
    if not first:
        yield ok("references", "the query runs; it has no rows yet")
        return
    given = [name for name in ("version_id", "sha256", "etag", "size") if getattr(first[0], name) is not None]
    if given:
        yield ok("references", f"the query runs; rows tell {', '.join(given)}")
    else:
        yield warn(
            "references",
            "the query tells keys only: any bytes under a name count as the right ones",
            "Add version_id (exact) or sha256 to the query.",
        )
