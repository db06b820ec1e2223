"""Everything that a ledger records of a cluster, as things to read again.

Rules:
- An item is what is read as a whole: a WAL file with all its parts, one part of a base backup, an
  epoch key object. Items come in a fixed order, so progress means something.
- Parts of a backup that was never finished are recorded too, and are read too; nothing depends on them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from walarchiver.catalog import Catalog, FileRecord
from walarchiver.core.objectname import epoch_key_name
from walarchiver.format.codec import parts_sha256
from walarchiver.format.records import (
    BackupPart,
    BackupRecord,
    EpochRecord,
    HistoryRecord,
    LabelRecord,
    PartRecord,
    StoredObject,
    WalRecord,
)


@dataclass(frozen=True, slots=True)
class FileItem:
    """A WAL file of any kind."""

    record: FileRecord

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def objects(self) -> tuple[StoredObject, ...]:
        return self.record.objects


@dataclass(frozen=True, slots=True)
class PartItem:
    """One part of a base backup."""

    backup: str
    part: BackupPart

    @property
    def name(self) -> str:
        return f"{self.backup} part {self.part.n}"

    @property
    def objects(self) -> tuple[StoredObject, ...]:
        return (self.part.object,)


@dataclass(frozen=True, slots=True)
class EpochItem:
    """A recorded revision of an epoch's key object; its length is not recorded."""

    system: str
    record: EpochRecord

    @property
    def name(self) -> str:
        revision = "" if self.record.rev is None else f" revision {self.record.rev}"
        return f"epoch key {self.record.epoch}{revision}"

    @property
    def key(self) -> str:
        return epoch_key_name(self.system, self.record.epoch, self.record.rev or 0)

    @property
    def objects(self) -> tuple[StoredObject, ...]:
        return ()


Item = FileItem | PartItem | EpochItem


def inventory(catalog: Catalog, system: str) -> Iterator[Item]:
    """All items, one at a time: keys first (without them nothing opens), then WAL, then backups."""
    for epoch in catalog.epochs():
        for _, revision in sorted(catalog.epoch_revisions(epoch).items()):
            yield EpochItem(system, revision)
    for kind in (HistoryRecord.kind, WalRecord.kind, LabelRecord.kind):
        for name in catalog.names(kind):
            record = catalog.file(name)
            assert record is not None
            yield FileItem(record)
    for backup in catalog.names(PartRecord.kind):
        for part in catalog.backup_parts(backup):
            yield PartItem(backup, part)


def keys_of(item: Item) -> tuple[str, ...]:
    """The names in the store that an item is read from."""
    if isinstance(item, EpochItem):
        return (item.key,)
    return tuple(stored.key for stored in item.objects)


def bytes_of(item: Item) -> int:
    """Stored bytes, as far as they are recorded."""
    return sum(stored.stored_len for stored in item.objects)


def mark_of(item: Item) -> str:
    """16 hex digits that stand for an item and its recorded bytes: another record, another mark."""
    hasher = hashlib.sha256(item.name.encode())
    if isinstance(item, EpochItem):
        hasher.update(item.record.sha256.encode("ascii"))
    for stored in item.objects:
        hasher.update(f"\0{stored.key}\0{stored.stored_sha256}".encode())
    return hasher.hexdigest()[:16]


def incomplete(records: Sequence[BackupRecord], catalog: Catalog) -> list[str]:
    """Finished backups whose recorded parts are not the ones that were there when they were finished."""
    found = []
    for record in records:
        parts = catalog.backup_parts(record.backup)
        if len(parts) != record.parts or parts_sha256(parts) != record.parts_sha256:
            found.append(record.backup)
    return found
