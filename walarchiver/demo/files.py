"""The demo's bucket: the files that belong to rows, deleted with them, and looked at afterwards."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from walarchiver.bucketports import EvidenceBucket, Expected, KeyRange
from walarchiver.core.version import EntryKind


def delete_all(bucket: EvidenceBucket) -> int:
    """What an over-eager clean-up does: a delete marker for every object; how many."""
    count = 0
    for one in list(bucket.list_current(KeyRange())):
        bucket.mark_deleted(one.key, expected=Expected(one.etag))
        count += 1
    return count


def versions(bucket: EvidenceBucket) -> frozenset[tuple[str, str]]:
    """Every data version: key and id."""
    pages = bucket.list_entries(KeyRange())
    return frozenset(
        (one.key, one.version_id) for page in pages for one in page if one.kind is EntryKind.VERSION
    )


def digests(bucket: EvidenceBucket) -> dict[str, str]:
    """SHA-256 of what a reader gets now, by key: every byte is read."""
    found = {}
    for page in bucket.list_entries(KeyRange()):
        for one in page:
            if one.is_latest and one.kind is EntryKind.VERSION:
                digest = hashlib.sha256()
                for piece in bucket.read(one.key, one.version_id):
                    digest.update(piece)
                found[one.key] = digest.hexdigest()
    return found


def dangling(references: Iterable[str], bucket: EvidenceBucket) -> int:
    """How many of these keys hold nothing now."""
    there = {one.key for one in bucket.list_current(KeyRange())}
    return sum(key not in there for key in references)
