"""The parts of a base backup, fetched and opened: two steps, so that each has threads of its own.

Rules:
- What counts is the digest of the plain bytes, which the ledger records: it is compared after the last byte.
- The version that the record names is taken at its word first. If it does not open to the recorded bytes,
  the version with the recorded SHA-256 is looked for, and what that says is the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from blake3 import blake3

from walarchiver.catalog import Catalog
from walarchiver.errors import ObjectDamaged, StoreUnavailable, WalarchiverError
from walarchiver.format.header import Expected
from walarchiver.format.records import BackupPart
from walarchiver.repository import Body, Repository, has_recorded_bytes

Buffer: TypeAlias = "bytes | bytearray | memoryview"
Pour: TypeAlias = Callable[[Callable[[Buffer], None]], None]
"""Gives all plain bytes of a part to a function, and raises unless they were the recorded ones."""


class Source(Protocol):
    """One cluster's part of one repository (walarchiver.assembly.Archive is one)."""

    @property
    def system(self) -> str: ...

    @property
    def repository(self) -> Repository: ...

    @property
    def catalog(self) -> Catalog: ...


def fetched(archive: Source, part: BackupPart) -> Body:
    """The stored bytes of a part, not looked at yet. Raises ObjectMissing, ObjectDamaged, Store…."""
    return next(archive.repository.bodies(part.object))


def opened(
    archive: Source,
    backup: str,
    part: BackupPart,
    body: Body,
    take: Callable[[Pour], None],
) -> None:
    """Hand the plain bytes of a part on while they are opened.

    `take(pour)` is called with what pours all bytes into a function, and returns only when all of them
    came and were the recorded ones; it may be called a second time, with another copy of the part.
    Raises ObjectDamaged, ObjectMissing, ….
    """
    try:
        take(lambda into: _pour(archive, backup, part, body, into))
    except StoreUnavailable:
        raise
    except WalarchiverError:
        if has_recorded_bytes(part.object, body):
            raise
        proven = archive.repository.stored_bytes(part.object)
        take(lambda into: _pour(archive, backup, part, proven, into))


def checked_part(archive: Source, backup: str, part: BackupPart) -> Sequence[bytes]:
    """The plain bytes of a part, held whole. Raises ObjectDamaged, ObjectMissing, …."""
    chunks: list[bytes] = []

    def take(pour: Pour) -> None:
        chunks.clear()
        pour(lambda chunk: chunks.append(bytes(chunk)))

    opened(archive, backup, part, fetched(archive, part), take)
    return chunks


def _pour(archive: Source, backup: str, part: BackupPart, body: Body, into: Callable[[Buffer], None]) -> None:
    repository = archive.repository
    expect = Expected(
        kind="base", repo=repository.repo, system=archive.system, name=backup, part=part.n, raw=part.raw
    )
    hasher = blake3()
    length = 0
    for chunk in repository.opened(body, expect):
        hasher.update(chunk)
        length += len(chunk)
        into(chunk)
    if (length, hasher.hexdigest()) != (part.raw, part.digest):
        raise ObjectDamaged(f"part {part.n} of base backup {backup} opens to other bytes than were recorded")
