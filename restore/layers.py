"""What a restore reads of the repository: a base backup with all that it builds on, oldest first.

Rules:
- A member's parts are those that it was closed with, by hash; nothing else of it is looked at before.
- The small parts (index, manifest, digests, configuration) are held in memory, and bounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from restore.manifest import BackupManifest, parse_manifest
from restore.partsource import Source, checked_part
from walarchiver.errors import ObjectDamaged
from walarchiver.format.backupchain import chain_of
from walarchiver.format.codec import parts_sha256
from walarchiver.format.records import BackupPart, BackupRecord
from walarchiver.postgres.backupindex import BackupIndex, parse_index
from walarchiver.postgres.filedigests import FileDigests, parse_digests

SMALL_BYTES_MAX = 1 << 30


@dataclass(frozen=True, slots=True)
class Layer:
    """One member of a chain."""

    record: BackupRecord
    parts: Sequence[BackupPart]
    index: BackupIndex
    manifest: BackupManifest
    manifest_bytes: bytes


def layers_of(archive: Source, backup: str) -> tuple[Layer, ...]:
    """The full backup first, `backup` last.

    Raises BackupChainBroken, ObjectDamaged, ObjectMissing, RestoreFailed, Store….
    """
    return tuple(_layer(archive, record) for record in chain_of(archive.catalog.backups(), backup))


def _layer(archive: Source, record: BackupRecord) -> Layer:
    _, parts = backup_of(archive, record.backup)
    index = parse_index(part_bytes(archive, record.backup, parts, "index"))
    manifest = part_bytes(archive, record.backup, parts, "manifest")
    return Layer(record, parts, index, parse_manifest(manifest), manifest)


def digests_of(archive: Source, layer: Layer) -> FileDigests | None:
    """The digests of its files; None for a backup that an earlier release took."""
    if not any(part.role == "digests" for part in layer.parts):
        return None
    return parse_digests(part_bytes(archive, layer.record.backup, layer.parts, "digests"), layer.index)


def backup_of(archive: Source, backup: str) -> tuple[BackupRecord, list[BackupPart]]:
    """A finished backup and its parts, proven complete. Raises ObjectDamaged."""
    record = next((one for one in archive.catalog.backups() if one.backup == backup), None)
    parts = archive.catalog.backup_parts(backup)
    if record is None or len(parts) != record.parts or parts_sha256(parts) != record.parts_sha256:
        raise ObjectDamaged(
            f"the ledger's parts of base backup {backup} are not those that it was closed with"
        )
    return record, parts


def part_bytes(archive: Source, backup: str, parts: Sequence[BackupPart], role: str) -> bytes:
    """The whole content of a small role (manifest, index, config), verified part by part."""
    content = bytearray()
    for part in parts:
        if part.role == role:
            if len(content) + part.raw > SMALL_BYTES_MAX:
                raise ObjectDamaged(f"the {role} of base backup {backup} is larger than anything it can be")
            for chunk in checked_part(archive, backup, part):
                content += chunk
    return bytes(content)
