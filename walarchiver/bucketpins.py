"""Pins of a cluster's bucket, put together from the configuration: what is pinned, where copies go.

Rules:
- The first repository of a cluster holds its pins.
- Where something happened in the very second of the cutoff, a version is kept rather than an absence.
- The backup bucket is reached as the watched one is, but for what `copies_…` say.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from restore.core.bucketstate import want_of
from walarchiver.assembly import Host
from walarchiver.bucketassembly import bucket_at, bucket_section, index_path
from walarchiver.bucketports import EvidenceBucket, LifecycleRule, VersionIndex
from walarchiver.catalog import Catalog
from walarchiver.core.moment import as_datetime
from walarchiver.core.pinning import PinnedVersion, copies_endangered_by, endangered_by
from walarchiver.core.version import EntryKind, Row, StoreMs
from walarchiver.errors import ConfigError, StoreDenied, UsageError
from walarchiver.evidence.copymemory import CopyMemory
from walarchiver.format.records import PinRecord
from walarchiver.settings_schema import BucketSettings
from walarchiver.storage.options import S3Location


def new_pin_id(host: Host) -> str:
    """The id of a pin that is made now, spelled as backup ids."""
    return f"{as_datetime(host.clock.now_us()):%Y%m%dT%H%M%SZ}-{host.random.token(4).hex()}"


def keep_by_retention(host: Host, cluster: str | None) -> timedelta:
    """The longest time that anything of the cluster is kept for."""
    retention = host.settings.cluster(host.settings.cluster_name(cluster)).retention
    return max(retention.window, retention.daily, retention.weekly, retention.monthly)


def copies_section(host: Host, cluster: str | None) -> BucketSettings | None:
    """How the backup bucket is reached; None when there is none. Raises NoBucket, ConfigError."""
    own = bucket_section(host, cluster)
    if own.copies is None:
        return None
    mine, there = S3Location.parse(own.url), S3Location.parse(own.copies)
    if mine.bucket == there.bucket and own.copies_endpoint in (None, own.endpoint):
        raise ConfigError(
            f"`copies` names {there.url}, which lies in the watched bucket itself",
            hint="Name another bucket, best one of another account: what empties this one reaches it not.",
        )
    found = replace(own, url=own.copies)
    if own.copies_endpoint is not None:
        found = replace(found, endpoint=own.copies_endpoint)
    if own.copies_credentials_file is not None:
        found = replace(found, credentials_file=own.copies_credentials_file, credentials_command=None)
    return found


def open_copies(host: Host, cluster: str | None) -> EvidenceBucket | None:
    """The backup bucket; the caller closes it. Raises ConfigError, StoreDenied."""
    section = copies_section(host, cluster)
    return None if section is None else bucket_at(host, section)


def pin_named(catalog: Catalog, pin: str) -> PinRecord:
    """The record of a pin. Raises UsageError."""
    found = next((one for one in catalog.pins() if one.pin == pin), None)
    if found is None:
        raise UsageError(f"there is no pin {pin}", hint="`walarchiver bucket pins` lists them.")
    return found


def copies_beside(
    host: Host, cluster: str | None, record: PinRecord, warn: Callable[[str], None]
) -> EvidenceBucket | None:
    """The bucket with a pin's copies, where it is configured; the caller closes it. Raises ConfigError."""
    if not record.kept_in:
        return None
    found = open_copies(host, cluster)
    if found is not None and found.url == record.kept_in:
        return found
    if found is not None:
        found.close()
    warn(
        f"the copies of this pin lie in {record.kept_in}, which is not configured as `copies`: they are not "
        "looked at"
    )
    return None


def memory_of(host: Host, cluster: str | None) -> CopyMemory:
    """What this host remembers of copies. Raises IndexUnavailable."""
    section = copies_section(host, cluster)
    assert section is not None, "asked for only where copies are made"
    return CopyMemory(index_path(host, section).with_suffix(".copies"))


def pin_folder(host: Host, cluster: str | None) -> Path:
    """Where temporary files go: beside the index."""
    folder = index_path(host, bucket_section(host, cluster)).parent
    folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    return folder


@dataclass(frozen=True, slots=True)
class Danger:
    """Why versions or copies may vanish before the pin ends."""

    versions: tuple[str, ...]
    copies: tuple[str, ...] = ()


def danger_of(
    bucket: EvidenceBucket, copies: EvidenceBucket | None, *, cutoff: StoreMs, keep: timedelta
) -> Danger:
    """Ask both buckets how long they keep what. Raises Store…"""
    until = StoreMs(bucket.date() + int(keep.total_seconds() * 1000))
    versions = endangered_by(bucket.versioning(), _rules(bucket), cutoff=cutoff, until=until)
    return Danger(versions, () if copies is None else copies_endangered_by(_rules(copies)))


def _rules(bucket: EvidenceBucket) -> tuple[LifecycleRule, ...] | None:
    try:
        return bucket.lifecycle()
    except StoreDenied:
        return None


@dataclass(slots=True)
class State:
    """The versions of a moment, in key order, and what is not certain of them."""

    index: VersionIndex
    cutoff: StoreMs
    prefix: str
    uncertain: int = 0
    gone: int = 0
    """Versions that were removed for ever since: nobody can keep them."""

    def versions(self) -> Iterator[PinnedVersion]:
        """What was there; counts on the way."""
        kept = self._at_the_boundary()
        rows = self.index.as_of(self.cutoff, prefix=self.prefix)
        for row in heapq.merge(rows, kept, key=lambda row: row.entry.key):
            self.gone += row.is_gone
            yield PinnedVersion.of(row)

    def _at_the_boundary(self) -> list[Row]:
        kept = []
        for each in self.index.uncertain(self.cutoff, prefix=self.prefix):
            history = self.index.history(each.key)
            at = next((row for row in history if row.was_current(self.cutoff)), None)
            if at is not None and at.entry.kind is not EntryKind.VERSION:
                at = None
            want = want_of(each.key, at, each.doubts, history, self.cutoff)
            self.uncertain += want.uncertain
            if at is None and want.row is not None:
                kept.append(want.row)
        return kept
