"""A store that does not refuse second creates, made usable by one writer.

It looks before it writes. Between the look and the write another writer could come, so this
protects only a repository with a single writer (docs/format.md, "Writing").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from walarchiver.errors import KeyTaken
from walarchiver.ports import ObjectStore, PutReceipt, StoredVersion


@dataclass(frozen=True, slots=True)
class GuardedStore:
    """`store`, with a look before each create."""

    store: ObjectStore

    @property
    def url(self) -> str:
        return self.store.url

    def put_new(self, key: str, body: bytes | bytearray | memoryview) -> PutReceipt:
        """Create `key` unless any version of it exists. Raises as ObjectStore.put_new."""
        for version in self.store.list_versions(key):
            if version.key == key:
                raise KeyTaken(f"{key} exists in {self.url}")
        return self.store.put_new(key, body)

    def get(self, key: str, *, version_id: str | None = None, bytes_max: int) -> bytes | None:
        return self.store.get(key, version_id=version_id, bytes_max=bytes_max)

    def get_range(self, key: str, *, start: int, length: int, version_id: str | None = None) -> bytes | None:
        return self.store.get_range(key, start=start, length=length, version_id=version_id)

    def list_keys(self, prefix: str, *, start_after: str = "") -> Iterator[StoredVersion]:
        return self.store.list_keys(prefix, start_after=start_after)

    def list_versions(self, prefix: str, *, start_after: str = "") -> Iterator[StoredVersion]:
        return self.store.list_versions(prefix, start_after=start_after)

    def delete_version(self, key: str, *, version_id: str | None) -> None:
        self.store.delete_version(key, version_id=version_id)

    def close(self) -> None:
        self.store.close()
