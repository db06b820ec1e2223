"""The plain bytes of an archived WAL file, verified against its ledger record.

Two ways, and both end in the same comparison with the signed record (docs/format.md, "Reading"; ADR 0020):
- `write_plain` chooses the stored version by its SHA-256 first: for audits, and for what is written to
  a place that cannot be taken back.
- `lay_plain` opens the likeliest version at once. Its seal says that it is this file of this cluster, and
  length and BLAKE3 digest are the record's; hashing the stored bytes as well would cost up to half of
  unpacking and prove nothing more. Where it does not open, the SHA-256 says whether another version is the
  recorded one; the answer is then that of `write_plain`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import BinaryIO, TypeAlias

from blake3 import blake3

from walarchiver.catalog import FileRecord
from walarchiver.errors import ObjectDamaged, StoreUnavailable, WalarchiverError
from walarchiver.format.header import Expected
from walarchiver.format.records import StoredObject
from walarchiver.repository import Repository, has_recorded_bytes


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


Turn: TypeAlias = Callable[[], AbstractContextManager[None]]
"""Entered while a body is opened, not while it is on its way."""


def lay_plain(
    repository: Repository, system: str, record: FileRecord, out: BinaryIO, turn: Turn = nullcontext
) -> None:
    """As `write_plain`, sooner, into an empty file that can be written anew from its beginning."""
    laid = _Laid(out)
    for part, obj in enumerate(record.objects):
        _lay_object(repository, obj, repository.expected(system, record, part), laid, turn)
    if (laid.length, laid.hasher.hexdigest()) != (record.len, record.digest):
        laid.back_to(0, blake3())
        write_plain(repository, system, record, out)


class _Laid:
    """What is written so far."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self.hasher = blake3()
        self.length = 0

    def add(self, view: memoryview) -> None:
        self.hasher.update(view)
        self.length += len(view)
        self._out.write(view)

    def back_to(self, length: int, hasher: blake3) -> None:
        self._out.seek(length)
        self._out.truncate()
        self.length, self.hasher = length, hasher


def _lay_object(repository: Repository, obj: StoredObject, expect: Expected, laid: _Laid, turn: Turn) -> None:
    """Append one object: what opens of the likeliest version, else of the recorded one."""
    length, hasher = laid.length, laid.hasher.copy()
    tried = False
    for body in repository.bodies(obj):
        if tried and not has_recorded_bytes(obj, body):
            continue
        try:
            with turn():
                for view in repository.opened(body, expect):
                    laid.add(view)
        except StoreUnavailable:
            raise
        except WalarchiverError:
            if tried or has_recorded_bytes(obj, body):
                raise
            tried = True
            laid.back_to(length, hasher.copy())
        else:
            return
    raise ObjectDamaged(f"no version of {obj.key} has the bytes that the ledger recorded")
