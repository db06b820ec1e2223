"""What is seen of the bucket as a whole, told to the index when it has changed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from walarchiver.bucketports import EvidenceBucket, LifecycleRule, Observation, VersionIndex, Versioning
from walarchiver.core.version import MultipartTime, StoreMs
from walarchiver.errors import StoreDenied

HIDDEN = "hidden"
"""The rules may not be asked for with these credentials."""


def look_at_bucket(
    bucket: EvidenceBucket, index: VersionIndex, *, multipart_time: MultipartTime
) -> Versioning:
    """Versioning, lifecycle rules and the habit with uploads in parts, as observations; the versioning.

    Versioning and rules are told each time, as the span between two equal answers counts too.
    """
    versioning = bucket.versioning()
    at = bucket.date()
    index.observe(Observation(at, "versioning", versioning.value))
    index.observe(Observation(at, "lifecycle", _rules(bucket)))
    if last_value(index, "multipart_time") != multipart_time.value:
        index.observe(Observation(at, "multipart_time", multipart_time.value))
    return versioning


def scan_value(prefix: str, keys: int, entries: int) -> str:
    """The value of a `scan` observation."""
    return _json({"entries": entries, "keys": keys, "prefix": prefix})


def gap_value(since: StoreMs) -> str:
    """The value of a `feed_gap` observation: from when on events may be missing."""
    return _json({"since": since})


def last_value(index: VersionIndex, kind: str) -> str | None:
    found = [seen.value for seen in index.observations() if seen.kind == kind]
    return found[-1] if found else None


def last_entries(index: VersionIndex, prefix: str) -> int | None:
    """How many entries the last scan of this prefix found."""
    for seen in reversed(index.observations()):
        if seen.kind == "scan":
            value = json.loads(seen.value)
            if value.get("prefix") == prefix:
                return int(value["entries"])
    return None


def _rules(bucket: EvidenceBucket) -> str:
    try:
        rules: Sequence[LifecycleRule] = bucket.lifecycle()
    except StoreDenied:
        return HIDDEN
    return _json([asdict(rule) for rule in rules])


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
