"""What is seen of the bucket as a whole, told to the index when it has changed."""

from __future__ import annotations

import json

from walarchiver.bucketports import EvidenceBucket, Observation, VersionIndex, Versioning
from walarchiver.core.bucketfacts import rules_text
from walarchiver.core.version import MultipartTime
from walarchiver.errors import StoreDenied


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


def loses_keys(index: VersionIndex) -> bool:
    """Whether the last scan saw the server lose keys in its listings."""
    last = last_value(index, "scan")
    return last is not None and json.loads(last).get("loses_keys") is True


def _rules(bucket: EvidenceBucket) -> str:
    try:
        return rules_text(bucket.lifecycle())
    except StoreDenied:
        return rules_text(None)
