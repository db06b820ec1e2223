"""What the model keeps: versions, delete markers, uploads, and buckets of them.

Rules:
- The entries of a key are kept newest first, by `order`: a number that grows with every write. That of a
  multipart upload is drawn when it is started or when it is completed, as the model was told.
- Properties belong to a version; tags, lock and storage class are changed in place.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from typing import Literal

from tests.kit.models3.bodies import Body

VersioningStatus = Literal["Off", "Enabled", "Suspended"]
NULL = "null"
READABLE_CLASSES = frozenset(
    {"STANDARD", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR", "REDUCED_REDUNDANCY"}
)


@dataclass
class Properties:
    """What a request says about an object besides its bytes."""

    headers: dict[str, str] = field(default_factory=dict)
    """Content-Type, Cache-Control, … as given; names in their usual spelling."""
    metadata: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    storage_class: str = "STANDARD"
    encryption: str = "AES256"
    """`AES256`, `aws:kms`, `aws:kms:dsse` or `customer`."""
    key_id: str = ""
    lock_mode: str = ""
    retain_until_ms: int = 0
    legal_hold: bool = False
    checksum_algorithm: str = ""


@dataclass
class Stored:
    """One version or delete marker."""

    key: str
    version_id: str
    order: int
    modified_ms: int
    """What `Last-Modified` is made of."""
    is_marker: bool = False
    body: Body = field(default_factory=lambda: Body(()))
    etag: str = ""
    parts: int = 0
    """0: not uploaded in parts."""
    props: Properties = field(default_factory=Properties)
    checksum: str = ""
    checksum_type: str = "FULL_OBJECT"
    archive_status: str = ""
    """Of INTELLIGENT_TIERING: ARCHIVE_ACCESS or DEEP_ARCHIVE_ACCESS."""
    restored_from_ms: int | None = None
    """When a restored copy is or will be there."""
    restored_until_ms: int = 0

    def is_readable(self, now_ms: int) -> bool:
        """Whether GET and COPY may have it: not archived, or restored for now."""
        if self.props.storage_class in READABLE_CLASSES and not self.archive_status:
            return True
        return self.restored_from_ms is not None and self.restored_from_ms <= now_ms < self.restored_until_ms


@dataclass
class Part:
    """One uploaded part."""

    number: int
    body: Body
    etag: str
    checksum: bytes = b""


@dataclass
class Upload:
    """A multipart upload that was started."""

    upload_id: str
    key: str
    started_ms: int
    order: int
    props: Properties
    checksum_type: str = "COMPOSITE"
    parts: dict[int, Part] = field(default_factory=dict)


@dataclass
class LifecycleRule:
    """One rule, as far as the model carries it out."""

    id: str
    prefix: str = ""
    enabled: bool = True
    tags: dict[str, str] = field(default_factory=dict)
    size_over: int | None = None
    size_under: int | None = None
    expire_days: int | None = None
    expired_marker: bool = False
    noncurrent_days: int | None = None
    newer_noncurrent: int | None = None
    abort_upload_days: int | None = None


@dataclass
class Bucket:
    """A bucket and everything in it."""

    name: str
    versioning: VersioningStatus = "Off"
    lock_enabled: bool = False
    lifecycle: list[LifecycleRule] = field(default_factory=list)
    entries: dict[str, list[Stored]] = field(default_factory=dict)
    uploads: dict[str, Upload] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    """Sorted: Python's order of strings is that of their UTF-8 bytes."""
    orders: dict[tuple[str, str], int] = field(default_factory=dict)
    """Where every entry that ever was stood, so that a listing can go on behind one that is gone."""

    def add(self, entry: Stored) -> None:
        """Put an entry in its place, newest first."""
        if entry.key not in self.entries:
            insort(self.keys, entry.key)
        standing = self.entries.setdefault(entry.key, [])
        standing.append(entry)
        standing.sort(key=lambda one: -one.order)
        self.orders[entry.key, entry.version_id] = entry.order

    def remove(self, entry: Stored) -> None:
        """Take an entry out for ever."""
        standing = self.entries[entry.key]
        standing.remove(entry)
        if not standing:
            del self.entries[entry.key]
            del self.keys[bisect_left(self.keys, entry.key)]

    def history(self, key: str) -> list[Stored]:
        """Newest first."""
        return list(self.entries.get(key, ()))

    def latest(self, key: str) -> Stored | None:
        standing = self.entries.get(key)
        return standing[0] if standing else None

    def current(self, key: str) -> Stored | None:
        """The version a plain GET finds; None below a marker."""
        latest = self.latest(key)
        return None if latest is None or latest.is_marker else latest

    def find(self, key: str, version_id: str) -> Stored | None:
        for entry in self.entries.get(key, ()):
            if entry.version_id == version_id:
                return entry
        return None

    def is_noncurrent(self, entry: Stored) -> bool:
        return self.latest(entry.key) is not entry
