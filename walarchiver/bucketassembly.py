"""The evidence bucket and the index of its versions, from the configuration.

Rules:
- A bucket is reached with the cluster's [cluster.NAME.bucket] section; without one NoBucket says so.
- The index is a file in the state folder, one per bucket and prefix: losing it costs a full scan, and the
  repository brings back what only the index knew.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from walarchiver.assembly import Host, s3_options_of
from walarchiver.bucketports import EvidenceBucket, VersionIndex
from walarchiver.core.version import MultipartTime
from walarchiver.errors import IndexUnavailable, NoBucket
from walarchiver.settings_schema import BucketSettings
from walarchiver.storage.options import S3Location, S3Options


def bucket_section(host: Host, cluster: str | None) -> BucketSettings:
    """The cluster's section. Raises NoBucket, UnknownCluster."""
    name = host.settings.cluster_name(cluster)
    section = host.settings.clusters[name].bucket
    if section is None:
        raise NoBucket(
            f"cluster {name!r} has no evidence bucket in {host.settings.source}",
            hint=f"Add a section [cluster.{name}.bucket] with `url`.",
        )
    return section


def bucket_of(host: Host, cluster: str | None) -> EvidenceBucket:
    """The cluster's evidence bucket; the caller closes it. Raises NoBucket, ConfigError, StoreDenied."""
    return bucket_at(host, bucket_section(host, cluster))


def bucket_at(host: Host, section: BucketSettings) -> EvidenceBucket:
    """The bucket of a section; the caller closes it. Raises ConfigError, StoreDenied."""
    from walarchiver.storage.evidence import S3EvidenceBucket  # botocore is loaded by those who need it
    from walarchiver.storage.evidencecopy import CopyLimits

    return S3EvidenceBucket(
        S3Location.parse(section.url),
        bucket_options(host, section),
        host.clock,
        host.random,
        limits=CopyLimits(part=section.copy_part),
    )


def bucket_options(host: Host, section: BucketSettings) -> S3Options:
    """How to reach the bucket; its pool has room for every listing, and for what asks beside them."""
    return replace(s3_options_of(host, section), pool_size=max(16, 2 * section.listings + 4))


def index_of(host: Host, cluster: str | None) -> VersionIndex:
    """The index of the cluster's bucket; the caller closes it. Raises NoBucket, Index…."""
    from walarchiver.evidence.openindex import open_index

    path = index_path(host, bucket_section(host, cluster))
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as failure:
        raise IndexUnavailable(f"{path.parent}: {failure.strerror}") from failure
    return open_index(path)


def index_path(host: Host, section: BucketSettings) -> Path:
    """The index's file: named by the bucket's address, as a bucket of the same name may exist elsewhere."""
    location = S3Location.parse(section.url)
    place = "\n".join((section.endpoint or "", location.bucket, location.prefix))
    tail = hashlib.sha256(place.encode()).hexdigest()[:12]
    return host.settings.server.state / "buckets" / f"{location.bucket}-{tail}.sqlite"


def multipart_time_of(section: BucketSettings) -> MultipartTime:
    """What the store lists for uploads in parts; known for Amazon, else as configured."""
    if section.multipart_time != "auto":
        return MultipartTime(section.multipart_time)
    return MultipartTime.INITIATION if section.endpoint is None else MultipartTime.UNKNOWN
