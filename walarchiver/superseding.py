"""Superseding: other bytes take the place of an archived file, on an administrator's word.

Rules (docs/format.md, `supersede`):
- The other bytes pass every check that an archived file passes, and are sealed and recorded by a writer
  first, in vain; the admin's entry then puts them in force at once. Stopped between, nothing changed,
  and the same command goes on.
- The entry is appended only while the content that was shown is still the one in force.
- What is replaced stays stored and recorded.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from walarchiver.archiver import SEALINGS_MAX, Archiver, Deposited
from walarchiver.catalog import Catalog, FileRecord
from walarchiver.core.segment import WalFile, parse_wal_file
from walarchiver.depositor import Depositor
from walarchiver.errors import EpochOutdated, SegmentConflict, UsageError, WalarchiverError
from walarchiver.format.records import Record, SupersedeRecord
from walarchiver.ledger import Ledger, Proposal

REASON_CHARS_MAX = 1000


@dataclass(frozen=True, slots=True)
class Replacement:
    """What would take whose place; `recorded`: the other bytes are stored and recorded already."""

    name: str
    file: WalFile
    path: Path
    old: FileRecord
    new_digest: str
    new_len: int
    recorded: bool


def examine(archiver: Archiver, name: str, path: Path) -> Replacement:
    """Check the file and compare it with the one in force. Blocks; changes nothing.

    Raises UsageError (nothing to replace), NotAWalFile, CorruptSegment, WrongCluster.
    """
    file = parse_wal_file(name, archiver.cluster.segment_size)
    old = archiver.catalog.file(name)
    if old is None:
        raise UsageError(
            f"{name} is not archived, so nothing can take its place",
            hint="Let PostgreSQL archive it, or give its name to `walarchiver-hook push`.",
        )
    digest, length = archiver.digest(file, path)
    if digest == old.digest:
        raise UsageError(f"{path} is what is archived as {name} already")
    return Replacement(name, file, path, old, digest, length, _beside(archiver.catalog, name, digest))


async def supersede(
    archiver: Archiver,
    depositor: Depositor,
    *,
    ledger: Ledger,
    admin: Ledger,
    replacement: Replacement,
    reason: str,
) -> SupersedeRecord:
    """Put the replacement in force; the record that says so. `ledger` and `admin` are the same chain, for
    the writer's and the admin's key.

    Raises SegmentConflict when another content came into force meanwhile, WriterRevoked, Store….
    """
    loop = asyncio.get_running_loop()
    if not replacement.recorded:
        for left in reversed(range(SEALINGS_MAX)):
            deposited = await archiver.deposit(replacement.name, replacement.file, replacement.path)
            if deposited.record.digest != replacement.new_digest:
                raise UsageError(f"{replacement.path} changed while it was read")
            try:
                beside = _record_beside(depositor, deposited)
                await loop.run_in_executor(None, _commit, ledger, beside)
                break
            except EpochOutdated:
                if not left:
                    raise
                await loop.run_in_executor(None, depositor.reread_keyrings)
    change = SupersedeRecord(replacement.name, replacement.old.digest, replacement.new_digest, reason)
    await loop.run_in_executor(None, _commit, admin, _change(change))
    return change


def _record_beside(depositor: Depositor, deposited: Deposited) -> Proposal:
    record = deposited.record

    def decide(catalog: Catalog) -> tuple[Record, ...]:
        if _beside(catalog, record.name, record.digest):
            return ()
        return (*depositor.epoch_records_of_today(catalog, deposited.epochs), record, *deposited.scans)

    return Proposal(record.name, decide)


def _change(change: SupersedeRecord) -> Proposal:
    def decide(catalog: Catalog) -> tuple[Record, ...]:
        standing = catalog.file(change.name)
        if standing is not None and standing.digest == change.new:
            return ()
        if standing is None or standing.digest != change.old:
            found = "nothing" if standing is None else standing.digest[:16]
            raise SegmentConflict(
                f"{found} is in force as {change.name}, and no longer {change.old[:16]}",
                hint="Somebody else replaced it meanwhile: look again before you do.",
            )
        return (change,)

    return Proposal(change.name, decide)


def _beside(catalog: Catalog, name: str, digest: str) -> bool:
    """Whether this content is recorded under the name, in force or not."""
    return any(
        not isinstance(one, SupersedeRecord) and one.digest == digest for one in catalog.file_records(name)
    )


def _commit(ledger: Ledger, proposal: Proposal) -> None:
    (refusal,) = ledger.commit([proposal])
    if isinstance(refusal, WalarchiverError):
        raise refusal
