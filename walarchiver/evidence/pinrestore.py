"""Brings the versions of a pin into a bucket, from their copies or from the watched bucket.

Rules:
- A key is written only where nothing is, and only while nothing is. What is there already is never replaced:
  with the same content it is done, with another it is left and told. So the same call again goes on.
- Of several objects under a copy's name the oldest with the right size is taken: names are written once, and
  whatever came later is none of ours.
- The target has to keep versions, as for every restore.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice

from walarchiver.bucketports import EvidenceBucket, Expected, KeyRange, Versioning
from walarchiver.core.pinning import PinnedVersion
from walarchiver.core.version import Entry, EntryKind
from walarchiver.errors import BucketChanged, BucketNotVersioned, VersionUnreadable
from walarchiver.evidence.contentcopies import versions_under

LISTED_MAX = 100_000
_BATCH = 128


class Fate(StrEnum):
    """What becomes of one key."""

    COPIED = "copied"
    """Or, when it is only looked at: it would be."""
    THERE = "there"
    """The key holds the content already."""
    OTHER = "other"
    """The key holds something else, which is left."""
    UNREADABLE = "unreadable"
    """In an archive tier, or encrypted by a customer's key."""
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class _Source:
    bucket: EvidenceBucket
    key: str
    version_id: str
    etag: str


@dataclass(slots=True)
class PinRestored:
    """What became of all keys."""

    keys: dict[Fate, int]
    bytes: int
    """Of those copied."""
    listed: list[tuple[Fate, str]]
    """Keys that are not as in the pin now, up to LISTED_MAX."""


@dataclass(frozen=True, slots=True)
class PinRestore:
    """One restore into `target`, names with `to_prefix` before them. `backup`: where the copies lie."""

    watched: EvidenceBucket
    backup: EvidenceBucket | None
    target: EvidenceBucket
    to_prefix: str
    threads: int = 8
    progress: Callable[[PinRestored], None] = lambda _restored: None

    def look(self, versions: Iterable[PinnedVersion]) -> PinRestored:
        """What would be done; nothing is written. Raises Store…"""
        return self._each(versions, self._looked)

    def carry_out(self, versions: Iterable[PinnedVersion]) -> PinRestored:
        """Do it. Raises BucketNotVersioned, Store…; the next call goes on."""
        if self.target.versioning() is not Versioning.ENABLED:
            raise BucketNotVersioned(
                f"versioning of {self.target.url} is not enabled: nothing is written there"
            )
        return self._each(versions, self._restored)

    def _each(self, versions: Iterable[PinnedVersion], work: Callable[[PinnedVersion], Fate]) -> PinRestored:
        done = PinRestored(dict.fromkeys(Fate, 0), 0, [])
        source = iter(versions)
        with ThreadPoolExecutor(self.threads, thread_name_prefix="pins") as pool:
            while batch := list(islice(source, _BATCH)):
                for version, fate in zip(batch, pool.map(work, batch), strict=True):
                    done.keys[fate] += 1
                    if fate is Fate.COPIED:
                        done.bytes += version.size
                    elif fate is not Fate.THERE and len(done.listed) < LISTED_MAX:
                        done.listed.append((fate, version.key))
                self.progress(done)
        return done

    def _looked(self, version: PinnedVersion) -> Fate:
        source = self._source(version)
        current = self._current(version)
        if current is not None:
            return self._compared(version, source, current)
        return Fate.COPIED if isinstance(source, _Source) else source

    def _restored(self, version: PinnedVersion) -> Fate:
        fate, source = self._looked(version), self._source(version)
        if fate is not Fate.COPIED or not isinstance(source, _Source):
            return fate
        try:
            self.target.copy(
                source.bucket,
                source.key,
                source.version_id,
                to=self.to_prefix + version.key,
                size=version.size,
                expected=Expected(None),
            )
        except BucketChanged:
            return Fate.OTHER
        except VersionUnreadable:
            return Fate.UNREADABLE
        return Fate.COPIED

    def _source(self, version: PinnedVersion) -> _Source | Fate:
        """Where the bytes come from; a Fate when they cannot be had."""
        if version.copy and self.backup is not None:
            name = self.backup.prefix + version.copy
            fitting = [one for one in versions_under(self.backup, name) if one.size == version.size]
            if fitting:
                oldest = fitting[-1]
                return _Source(self.backup, name, oldest.version_id, oldest.etag)
        detail = self.watched.detail(version.key, version.version_id)
        if detail is None or (detail.etag, detail.size) != (version.etag, version.size):
            return Fate.LOST
        if not detail.readable or detail.encryption == "customer":
            return Fate.UNREADABLE
        return _Source(self.watched, version.key, version.version_id, detail.etag)

    def _current(self, version: PinnedVersion) -> Entry | None:
        name = self.to_prefix + version.key
        entries = (entry for page in self.target.list_entries(KeyRange(name, name)) for entry in page)
        latest = next((entry for entry in entries if entry.is_latest), None)
        return latest if latest is not None and latest.kind is EntryKind.VERSION else None

    def _compared(self, version: PinnedVersion, source: _Source | Fate, current: Entry) -> Fate:
        if current.size != version.size:
            return Fate.OTHER
        if current.etag == version.etag:
            return Fate.THERE
        if not isinstance(source, _Source):
            return source
        if current.etag == source.etag:
            return Fate.THERE
        mine = _sha256(self.target, current.key, current.version_id)
        same = mine == _sha256(source.bucket, source.key, source.version_id)
        return Fate.THERE if same else Fate.OTHER


def _sha256(bucket: EvidenceBucket, key: str, version_id: str) -> bytes:
    digest = hashlib.sha256()
    for piece in bucket.read(key, version_id):
        digest.update(piece)
    return digest.digest()
