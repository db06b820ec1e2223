"""Copies versions into a backup bucket, each content once, under the name `content/<SHA-256>`.

Rules:
- A version is read through once for its digest; then the store copies it, or the bytes pass through here,
  with its metadata and tags. Of several versions with one content the first one's metadata stay.
- A name is written only where nothing is; what is there already under it has the right size, or it is an
  error. Nothing is ever replaced or removed.
- What was done is remembered (copymemory.py): after a crash only what is missing is read and copied.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice

from walarchiver.bucketports import EvidenceBucket, Expected, KeyRange
from walarchiver.core.pinning import PinnedVersion
from walarchiver.core.version import NULL_VERSION, Entry, EntryKind
from walarchiver.errors import BucketChanged, ObjectDamaged, Refused, VersionUnreadable
from walarchiver.evidence.copymemory import CopyMemory

FOLDER = "content/"
_NAME = re.compile(r"content/([0-9a-f]{64})")
_BATCH = 128
_LISTED_BATCH = 1000


def copy_name(sha256: str) -> str:
    """The name of a content, below the backup bucket's URL."""
    return f"{FOLDER}{sha256}"


def content_of(name: str) -> str | None:
    """Inverse of `copy_name`; None for another name."""
    match = _NAME.fullmatch(name)
    return None if match is None else match[1]


@dataclass(slots=True)
class Copied:
    """What became of the versions so far."""

    versions: int = 0
    bytes: int = 0
    read: int = 0
    """Bytes that had to be read."""
    made: int = 0
    """Copies that were not there before."""
    unreadable: list[str] = field(default_factory=list)
    """Keys of versions without a copy, with the reason: gone, archived, or encrypted by a customer's key."""


class ContentCopies:
    """Copies from one bucket to another."""

    def __init__(
        self,
        source: EvidenceBucket,
        backup: EvidenceBucket,
        memory: CopyMemory,
        *,
        threads: int = 8,
        progress: Callable[[Copied], None] = lambda _copied: None,
    ) -> None:
        self._source, self._backup, self._memory = source, backup, memory
        self._threads = threads
        self._progress = progress
        self.copied = Copied()

    def copied_versions(self, versions: Iterable[PinnedVersion]) -> Iterator[PinnedVersion]:
        """The same, in their order, each with its copy; without one where it cannot be read.

        Raises Store…, ObjectDamaged, BucketChanged; the next call goes on.
        """
        self._list()
        source = iter(versions)
        with ThreadPoolExecutor(self._threads, thread_name_prefix="copies") as pool:
            while batch := list(islice(source, _BATCH)):
                for version in pool.map(self._with_copy, batch):
                    self.copied.versions += 1
                    self.copied.bytes += version.size
                    yield version
                self._progress(self.copied)

    def _list(self) -> None:
        folder = self._backup.prefix + FOLDER
        contents = (
            (found, one.size)
            for one in self._backup.list_current(KeyRange(folder, f"{folder}g"))
            if (found := content_of(one.key.removeprefix(self._backup.prefix))) is not None
        )
        while batch := list(islice(contents, _LISTED_BATCH)):
            self._memory.note_there(batch)

    def _with_copy(self, version: PinnedVersion) -> PinnedVersion:
        try:
            return replace(version, copy=copy_name(self._kept(version)))
        except VersionUnreadable as failure:
            self.copied.unreadable.append(f"{version.key}: {failure.message}")
            return version

    def _kept(self, version: PinnedVersion) -> str:
        sha256 = self._memory.content_of(self._source.url, version)
        if sha256 is not None and self._memory.is_there(sha256, version.size):
            return sha256
        sha256 = sha256 or self._read(version)
        if not self._memory.is_there(sha256, version.size):
            self._copy(version, self._backup.prefix + copy_name(sha256))
            self._memory.note_there([(sha256, version.size)])
        if version.version_id == NULL_VERSION:
            self._check_null(version)
        self._memory.note_content(self._source.url, version, sha256)
        return sha256

    def _read(self, version: PinnedVersion) -> str:
        digest, size = hashlib.sha256(), 0
        try:
            for piece in self._source.read(version.key, version.version_id):
                digest.update(piece)
                size += len(piece)
        except Refused as failure:
            unreadable = self._because_unreadable(version)
            if unreadable is None:
                raise
            raise unreadable from failure
        if size != version.size:
            raise ObjectDamaged(
                f"{version.version_id} of {version.key}: {size} bytes, {version.size} were listed"
            )
        self.copied.read += size
        return digest.hexdigest()

    def _because_unreadable(self, version: PinnedVersion) -> VersionUnreadable | None:
        """What HEAD says of a version that was refused; None: it should be readable."""
        detail = self._source.detail(version.key, version.version_id)
        if detail is None:
            return VersionUnreadable(f"{version.version_id} of {version.key} does not exist (any more)")
        if not detail.readable:
            return VersionUnreadable(f"{version.version_id} of {version.key} lies in an archive tier")
        if detail.encryption == "customer":
            return VersionUnreadable(f"{version.version_id} of {version.key} needs the customer's key")
        return None

    def _copy(self, version: PinnedVersion, name: str) -> None:
        backup = self._backup
        try:
            written = backup.copy(
                self._source,
                version.key,
                version.version_id,
                to=name,
                size=version.size,
                expected=Expected(None),
            )
        except BucketChanged:  # an equal version was copied at the same time, or the listing lacked it
            if not has_copy(backup, name, version.size):
                raise
            return
        detail = backup.detail(name, written.version_id)
        if detail is None or detail.size != version.size:
            raise ObjectDamaged(f"{name} in {backup.url} was written, and has not {version.size} bytes")
        self.copied.made += 1

    def _check_null(self, version: PinnedVersion) -> None:
        """It may have been replaced while it was read: then nobody knows what was copied."""
        detail = self._source.detail(version.key, version.version_id)
        if detail is None or (detail.etag, detail.modified // 1000) != (
            version.etag,
            version.modified // 1000,
        ):
            raise VersionUnreadable(f"the `null` version of {version.key} was replaced since it was listed")


def has_copy(backup: EvidenceBucket, name: str, size: int) -> bool:
    """Whether something of that size lies under a whole name, whatever somebody put on top of it."""
    return any(entry.size == size for entry in versions_under(backup, name))


def versions_under(backup: EvidenceBucket, name: str) -> Iterator[Entry]:
    """The versions of one whole name, newest first."""
    for page in backup.list_entries(KeyRange(name, name)):
        for entry in page:
            if entry.kind is EntryKind.VERSION:
                yield entry
