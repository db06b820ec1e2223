"""The plain bytes of an archived WAL file, verified against its ledger record."""

from __future__ import annotations

from typing import BinaryIO

from blake3 import blake3

from walarchiver.catalog import FileRecord
from walarchiver.errors import ObjectDamaged
from walarchiver.repository import Repository


def write_plain(repository: Repository, system: str, record: FileRecord, out: BinaryIO) -> None:
    """Write a WAL file's plain bytes to `out`, verified against the record.

    Raises ObjectDamaged, ObjectMissing, KeyCannotOpen, StoreUnavailable. What was written before
    a failure must not be used.
    """
    hasher = blake3()
    length = 0
    for chunk in repository.plain_file(system, record):
        hasher.update(chunk)
        length += len(chunk)
        out.write(chunk)
    if (length, hasher.hexdigest()) != (record.len, record.digest):
        raise ObjectDamaged(f"{record.name} opens to {length} bytes that do not have the recorded digest")
