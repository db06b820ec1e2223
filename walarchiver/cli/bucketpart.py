"""The bucket in the answer of `plan`: can its state at the moment be vouched for, and what changed since?

Rule: it reads this host's index and nothing else, so it is as quick as that; a host without one is told how
to get it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from restore.bucketplan import listed_at
from restore.core.bucketlines import store_time
from restore.core.bucketmoment import bucket_moment, database_moment
from restore.jointcheck import skew_near
from walarchiver.assembly import Host
from walarchiver.bucketassembly import bucket_section, index_of
from walarchiver.bucketshipping import needs_rebuilding
from walarchiver.cli.asking import Answer
from walarchiver.cli.bucketmoment import Watched
from walarchiver.cli.bucketwindowlines import vouched
from walarchiver.storage.options import S3Location


@dataclass(frozen=True, slots=True)
class BucketPart:
    """What `plan` says of the bucket."""

    lines: tuple[str, ...]
    members: dict[str, object]
    changed: int | None
    """Keys that hold something else now than at the moment; None: not known."""


def bucket_part(host: Host, found: Answer) -> BucketPart | None:
    """None when the cluster has no bucket, or the moment cannot be reached. Raises Index…"""
    name = found.archive.cluster.name
    time = database_moment(found.decision, found.understood.target)
    if time is None or name not in host.settings.clusters or host.settings.cluster(name).bucket is None:
        return None
    section = bucket_section(host, name)
    location = S3Location.parse(section.url)
    moment = bucket_moment(time, skew_near(found.archive.catalog, location.bucket, time))
    if needs_rebuilding(host, name):
        return _unknown(location.url, "no index here (`walarchiver bucket scan`, or `catalog rebuild`)")
    with contextlib.closing(index_of(host, name)) as index:
        listed = listed_at(index, location.prefix)
        if listed is None:
            return _unknown(location.url, "it was never listed to its end (`walarchiver bucket scan`)")
        certain = vouched(Watched(host, section, location, index), moment, location.prefix)
        totals = index.totals(moment, prefix=location.prefix)
        ambiguous = sum(1 for _ in index.uncertain(moment, prefix=location.prefix))
        changed = None
        if moment <= listed:
            changed = sum(1 for _ in index.diff(moment, listed, prefix=location.prefix))
    lines = [
        f"bucket: {location.url} as of {store_time(moment)}: {certain.certainty}; {totals.objects:,} objects "
        f"({totals.bytes / 1e6:,.1f} MB), {ambiguous:,} uncertain, {totals.gone:,} removed for ever since",
        f"  the last listing, of {store_time(listed)}, was before that: what came since is not known"
        if changed is None
        else f"  {changed:,} keys were written or deleted until the last listing, of {store_time(listed)}",
        *(f"  - {cause}" for cause in certain.causes),
    ]
    members: dict[str, object] = {
        **certain.members,
        "url": location.url,
        "moment": store_time(moment),
        "versions": totals.objects,
        "bytes": totals.bytes,
        "ambiguous": ambiguous,
        "removed_since": totals.gone,
        "listed": store_time(listed),
    }
    return BucketPart(tuple(lines), members, changed)


def with_bucket(document: Mapping[str, object], part: BucketPart) -> dict[str, object]:
    """A plan's document with the bucket's members in their places."""
    undone = document["undone"]
    assert isinstance(undone, dict)
    return {**document, "bucket": part.members, "undone": {**undone, "object_versions": part.changed}}


def _unknown(url: str, why: str) -> BucketPart:
    members: dict[str, object] = {
        "verdict": "unknown",
        "causes": [why],
        "url": url,
        "versions": None,
        "ambiguous": None,
    }
    return BucketPart((f"bucket: {url}: unknown, {why}",), members, None)
