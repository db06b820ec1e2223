"""An object store in memory, with versions, for tests and simulations.

Rules:
- It behaves like a versioned S3 bucket (or, with `versioned=False`, like a plain one): a
  conditional create fails while the name is visible, and succeeds again above a delete marker.
- Time comes from the injected clock; version ids count up from 1, so two runs are equal.
- Bodies are copied on the way in: the caller may reuse its buffer.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from walarchiver.errors import KeyTaken, ObjectDamaged, StoreUnavailable
from walarchiver.ports import Clock, PutReceipt, StoredVersion
from walarchiver.storage.names import checked_key, checked_prefix

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Version:
    version_id: str | None
    body: bytes | None
    """None is a delete marker."""
    modified: datetime


class MemoryStore:
    """An ObjectStore (see walarchiver.ports) whose content ends with the process."""

    def __init__(self, clock: Clock, *, versioned: bool = True) -> None:
        self._clock = clock
        self._versioned = versioned
        self._lock = threading.Lock()
        self._objects: dict[str, list[_Version]] = {}  # newest last
        self._keys: list[str] = []  # sorted
        self._versions_made = 0
        self._closed = False

    @property
    def url(self) -> str:
        return "memory:"

    def put_new(self, key: str, body: bytes | bytearray | memoryview) -> PutReceipt:
        checked_key(key)
        kept = bytes(body)
        with self._lock:
            self._require_open()
            newest = self._newest(key)
            if newest is not None and newest.body is not None:
                raise KeyTaken(f"{key} exists already in {self.url}")
            return PutReceipt(version_id=self._append(key, kept))

    def add_delete_marker(self, key: str) -> str | None:
        """What an S3 DELETE without a version id does; for tests, not part of the port."""
        with self._lock:
            if self._versioned:
                return self._append(checked_key(key), None)
            self._forget(key)
            return None

    def get(self, key: str, *, version_id: str | None = None, bytes_max: int) -> bytes | None:
        body = self._body(key, version_id)
        if body is not None and len(body) > bytes_max:
            raise ObjectDamaged(
                f"{key} in {self.url} has {len(body)} bytes, more than the {bytes_max} allowed"
            )
        return body

    def get_range(self, key: str, *, start: int, length: int, version_id: str | None = None) -> bytes | None:
        body = self._body(key, version_id)
        return None if body is None else body[start : start + length]

    def list_keys(self, prefix: str, *, start_after: str = "") -> Iterator[StoredVersion]:
        return (
            version
            for version in self.list_versions(prefix, start_after=start_after)
            if version.is_latest and not version.is_delete_marker
        )

    def list_versions(self, prefix: str, *, start_after: str = "") -> Iterator[StoredVersion]:
        checked_prefix(prefix)
        with self._lock:
            self._require_open()
            first = max(bisect_left(self._keys, prefix), bisect_right(self._keys, start_after))
            found: list[StoredVersion] = []
            for key in self._keys[first:]:
                if not key.startswith(prefix):
                    break
                newest_first = reversed(self._objects[key])
                found.extend(_listed(key, version, place) for place, version in enumerate(newest_first))
        return iter(found)

    def delete_version(self, key: str, *, version_id: str | None) -> None:
        checked_key(key)
        with self._lock:
            self._require_open()
            left = [v for v in self._objects.get(key, []) if v.version_id != version_id]
            if left:
                self._objects[key] = left
            else:
                self._forget(key)

    def close(self) -> None:
        self._closed = True

    def _require_open(self) -> None:
        if self._closed:
            raise StoreUnavailable(f"{self.url} was closed")

    def _newest(self, key: str) -> _Version | None:
        versions = self._objects.get(key)
        return versions[-1] if versions else None

    def _body(self, key: str, version_id: str | None) -> bytes | None:
        checked_key(key)
        with self._lock:
            self._require_open()
            if version_id is None:
                newest = self._newest(key)
                return None if newest is None else newest.body
            named = [v for v in self._objects.get(key, []) if v.version_id == version_id]
            return named[0].body if named else None

    def _append(self, key: str, body: bytes | None) -> str | None:
        if key not in self._objects:
            self._objects[key] = []
            insort(self._keys, key)
        self._versions_made += 1
        version_id = f"{self._versions_made:016x}" if self._versioned else None
        modified = _EPOCH + timedelta(microseconds=self._clock.now_us())
        self._objects[key].append(_Version(version_id, body, modified))
        return version_id

    def _forget(self, key: str) -> None:
        if self._objects.pop(key, None) is not None:
            del self._keys[bisect_left(self._keys, key)]


def _listed(key: str, version: _Version, place: int) -> StoredVersion:
    return StoredVersion(
        key=key,
        version_id=version.version_id,
        size=len(version.body or b""),
        modified=version.modified,
        is_latest=place == 0,
        is_delete_marker=version.body is None,
    )
