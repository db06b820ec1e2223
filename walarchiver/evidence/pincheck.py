"""Whether every version of a pin can still be had: its copy, or the version itself.

Rules:
- A copy that is there with its size counts; without one the version in the watched bucket does. Only what
  neither has is missing; "not there" is said by the store about this very name or version, never concluded.
- With `deep` the bytes are read: a copy must have the SHA-256 that is its name; a version its size, and its
  MD5 where its ETag is one.
- What lies in an archive tier is there, but has to be thawed first: that is counted.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice

from walarchiver.bucketports import EvidenceBucket
from walarchiver.core.pinning import PinnedVersion
from walarchiver.errors import ObjectDamaged, VersionUnreadable
from walarchiver.evidence.contentcopies import content_of, has_copy, versions_under

LISTED_MAX = 100_000
_BATCH = 256
_MD5 = re.compile(r"[0-9a-f]{32}")
_PLAIN = ("", "AES256")
"""Encryptions with which the ETag of an upload in one piece is its MD5 (S3 API, "Object")."""


class Found(StrEnum):
    """What there is of one version."""

    COPY = "copy"
    VERSION = "version"
    """It is in the watched bucket, and has no copy."""
    COPY_LOST = "copy_lost"
    """It is in the watched bucket; its copy is gone or damaged."""
    ARCHIVED = "archived"
    """It is in the watched bucket's archive tier, and has no copy."""
    DAMAGED = "damaged"
    MISSING = "missing"


LOST = frozenset({Found.DAMAGED, Found.MISSING})


@dataclass(frozen=True, slots=True)
class Checked:
    """One version of a pin that is not simply there."""

    version: PinnedVersion
    found: Found


@dataclass(slots=True)
class PinReport:
    """What there is of a pin."""

    counts: dict[Found, int]
    listed: list[Checked]
    """Lost ones and lost copies, up to LISTED_MAX."""

    @property
    def versions(self) -> int:
        return sum(self.counts.values())

    @property
    def lost(self) -> int:
        return sum(self.counts[found] for found in LOST)


@dataclass(frozen=True, slots=True)
class PinCheck:
    """Looks at versions. `backup`: the bucket with the copies; None where it cannot be reached."""

    watched: EvidenceBucket
    backup: EvidenceBucket | None
    deep: bool = False
    threads: int = 8

    def run(
        self, versions: Iterable[PinnedVersion], progress: Callable[[int], None] = lambda _count: None
    ) -> PinReport:
        """Look at every one. Raises Store… when it cannot be told."""
        report = PinReport(dict.fromkeys(Found, 0), [])
        source = iter(versions)
        with ThreadPoolExecutor(self.threads, thread_name_prefix="pins") as pool:
            while batch := list(islice(source, _BATCH)):
                for version, found in zip(batch, pool.map(self.look, batch), strict=True):
                    report.counts[found] += 1
                    if found in LOST | {Found.COPY_LOST} and len(report.listed) < LISTED_MAX:
                        report.listed.append(Checked(version, found))
                progress(report.versions)
        return report

    def look(self, version: PinnedVersion) -> Found:
        """What there is of one version."""
        if version.copy and self.backup is not None and self._copy_is_there(self.backup, version):
            return Found.COPY
        found = self._itself(version)
        return Found.COPY_LOST if version.copy and found is Found.VERSION else found

    def _copy_is_there(self, backup: EvidenceBucket, version: PinnedVersion) -> bool:
        name = backup.prefix + version.copy
        if not self.deep:
            return has_copy(backup, name, version.size)
        for entry in versions_under(backup, name):
            digest = _digest("sha256", backup, name, entry.version_id)
            if digest is not None and digest.sum == content_of(version.copy) and digest.size == version.size:
                return True
        return False

    def _itself(self, version: PinnedVersion) -> Found:
        detail = self.watched.detail(version.key, version.version_id)
        if detail is None:
            return Found.MISSING
        if (detail.etag, detail.size) != (version.etag, version.size):
            return Found.MISSING  # another `null` version in its place
        if not detail.readable:
            return Found.ARCHIVED
        if not self.deep:
            return Found.VERSION
        digest = _digest("md5", self.watched, version.key, version.version_id)
        if digest is None:
            return Found.DAMAGED
        is_md5 = _MD5.fullmatch(version.etag) is not None and detail.encryption in _PLAIN
        whole = digest.size == version.size and (not is_md5 or digest.sum == version.etag)
        return Found.VERSION if whole else Found.DAMAGED


@dataclass(frozen=True, slots=True)
class _Digest:
    sum: str
    size: int


def _digest(algorithm: str, bucket: EvidenceBucket, key: str, version_id: str) -> _Digest | None:
    """None when the bytes cannot be had."""
    digest, size = hashlib.new(algorithm, usedforsecurity=False), 0
    try:
        for piece in bucket.read(key, version_id):
            digest.update(piece)
            size += len(piece)
    except (ObjectDamaged, VersionUnreadable):
        return None
    return _Digest(digest.hexdigest(), size)
