"""Keeps the journal of a bucket restore in the repository, piece by piece (docs/format.md, `bucket_journal`).

Rules:
- A piece is sealed, stored and recorded; it is kept once its record is in the ledger.
- The same piece again changes nothing; another one under its number is refused.
- The repository is opened with the first piece: one that cannot be had is the sink's failure, told then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from blake3 import blake3

from walarchiver.backup import commit_one
from walarchiver.catalog import Catalog
from walarchiver.depositor import Depositor
from walarchiver.errors import LedgerBroken
from walarchiver.format.records import BucketJournalRecord, Record
from walarchiver.ledger import Ledger, Proposal


@dataclass(frozen=True, slots=True)
class Keeping:
    """What writes to a cluster's ledger."""

    depositor: Depositor
    ledger: Ledger


class RepositorySink:
    """The journal of one restore, in one cluster's ledger. One call at a time."""

    def __init__(self, opened: Callable[[], Keeping], *, bucket: str, restore: str) -> None:
        """`bucket`: the one that is written. `restore`: the id, spelled as backup ids."""
        self._open = opened
        self._opened: Keeping | None = None
        self._bucket = bucket
        self._restore = restore

    def put(self, journal: str, number: int, lines: bytes) -> None:
        """Keep a piece. Raises NoRepository, WriterRevoked, Store… and their kin."""
        if self._opened is None:
            self._opened = self._open()
        depositor, ledger = self._opened.depositor, self._opened.ledger
        digest = blake3(lines).hexdigest()
        if self._has(ledger.catalog, number, digest):
            return
        deposit = depositor.seal_journal_piece(
            bucket=self._bucket, journal=self._restore, n=number, raw=len(lines), plain=(lines,)
        )
        record = BucketJournalRecord(
            bucket=self._bucket,
            journal=self._restore,
            n=number,
            digest=digest,
            len=len(lines),
            object=depositor.put(deposit),
        )

        def decide(catalog: Catalog) -> tuple[Record, ...]:
            if self._has(catalog, number, digest):
                return ()
            return (*depositor.epoch_records(catalog, [deposit.epoch]), record)

        commit_one(ledger, Proposal(f"journal {self._restore}/{number} of plan {journal}", decide))

    def _has(self, catalog: Catalog, number: int, digest: str) -> bool:
        known = [one.digest for one in catalog.bucket_journals(self._restore) if one.n == number]
        if known and known[0] != digest:
            raise LedgerBroken(
                f"piece {number} of the journal of restore {self._restore} is recorded with other content",
                hint="Was the journal's file put back from a copy? The restore itself can go on.",
            )
        return bool(known)
