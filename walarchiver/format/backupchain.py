"""Chains of base backups: a full one, and the incremental ones that build on it.

Rules (docs/format.md, `backup`):
- A full backup names no other; an incremental one names in `prior` the one whose manifest it was taken
  against, and is of no use without it.
- A chain is whole when every `prior` is a finished backup that began earlier, down to a full one.
- What is not whole cannot be restored, and is never taken for less than it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping

from walarchiver.errors import BackupChainBroken
from walarchiver.format.records import BackupRecord

FULL = "full"
INCREMENTAL = "incremental"


def chain_of(records: Iterable[BackupRecord], backup: str) -> tuple[BackupRecord, ...]:
    """The backups that a restore of `backup` needs: the full one first, `backup` last.

    Raises BackupChainBroken, saying what is missing.
    """
    return walk_chain({record.backup: record for record in records}, backup)


def walk_chain(by_id: Mapping[str, BackupRecord], backup: str) -> tuple[BackupRecord, ...]:
    """As `chain_of`, for those who ask about many."""
    found: list[BackupRecord] = []
    wanted: str | None = backup
    while wanted is not None:
        record = by_id.get(wanted)
        if record is None:
            builds = f"base backup {found[-1].backup} builds on {wanted}, which" if found else wanted
            raise BackupChainBroken(f"{builds} is no finished base backup in the ledger")
        if fault := _fault(record, found[-1] if found else None):
            raise BackupChainBroken(f"base backup {record.backup} {fault}")
        found.append(record)
        wanted = record.prior
    return tuple(reversed(found))


def _fault(record: BackupRecord, later: BackupRecord | None) -> str | None:
    """What is wrong with a member, `later` building on it; positions ascend, so no chain is a ring."""
    if record.method not in (FULL, INCREMENTAL):
        return f"was taken by the method {record.method!r}, which this release does not know"
    if (record.method == INCREMENTAL) != (record.prior is not None):
        return f"is {record.method}, but names {record.prior or 'no backup'} as the one that it builds on"
    if later is not None and record.start_lsn >= later.start_lsn:
        return f"did not begin before {later.backup}, which builds on it"
    if later is not None and record.timeline > later.timeline:
        return f"is of a later timeline than {later.backup}, which builds on it"
    return None


def whole_chains(records: Iterable[BackupRecord]) -> dict[str, tuple[BackupRecord, ...]]:
    """The chain of every backup that can be restored from, in the order of `records`."""
    ordered = tuple(records)
    by_id = {record.backup: record for record in ordered}
    found: dict[str, tuple[BackupRecord, ...]] = {}
    for record in ordered:
        with contextlib.suppress(BackupChainBroken):
            found[record.backup] = walk_chain(by_id, record.backup)
    return found
