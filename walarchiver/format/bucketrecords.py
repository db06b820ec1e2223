"""Ledger records about the application's bucket (schemas in docs/format.md, section 5).

Rules:
- Keys of the application's objects are contents: they travel in sealed bodies only. A record names the
  bucket, counts and times.
- Store times are of the bucket's store, to the precision it has; server times are PostgreSQL's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from walarchiver.core.lsn import Lsn
from walarchiver.core.moment import CommitTime, StoreTime
from walarchiver.format.stored import StoredObject


@dataclass(frozen=True, slots=True)
class TieRecord:
    """A small object was written to the bucket between two readings of the database server's clock."""

    kind: ClassVar[str] = "tie"
    bucket: str
    timeline: int
    before: CommitTime
    before_lsn: Lsn
    """Insert position at `before`."""
    after: CommitTime
    after_lsn: Lsn
    date: StoreTime
    """The answer's Date header: whole seconds, rounded down."""
    modified: StoreTime | None = None
    """The object's Last-Modified, when it was asked for."""


@dataclass(frozen=True, slots=True)
class BucketIndexRecord:
    """One sealed body of a bucket's version index: piece `n` of a generation.

    `role` is `rows` (Parquet: all rows of some keys, in place of earlier ones of these keys) or
    `observations` (canonical JSON lines: what was seen of the bucket as a whole, in place of earlier ones).
    """

    kind: ClassVar[str] = "bucket_index"
    bucket: str
    prefix: str
    """What is watched of the bucket; may be empty."""
    generation: str
    """16 hex digits: one index, from its beginning; another host or a new index begins another."""
    n: int
    role: str
    rows: int
    whole: bool
    """With this piece the generation tells all that its index knew at `asked`."""
    asked: StoreTime
    digest: str
    len: int
    object: StoredObject


@dataclass(frozen=True, slots=True)
class PinPart:
    """One sealed Parquet body of a pin: versions in key order."""

    n: int
    rows: int
    digest: str
    len: int
    object: StoredObject


@dataclass(frozen=True, slots=True)
class PinRecord:
    """A moment that is kept: a base backup with its stop, and the bucket's versions as of then."""

    kind: ClassVar[str] = "pin"
    pin: str
    """`<time compact>-<8 random hex>`, as backup ids."""
    backup: str
    timeline: int
    lsn: Lsn
    time: CommitTime
    bucket: str
    prefix: str
    cutoff: StoreTime
    """The moment on the store's clock that the versions were taken as of."""
    objects: int
    bytes: int
    kept_in: str
    """URL of the bucket that holds content copies; empty: the versions stay in the watched bucket alone."""
    reason: str
    parts: tuple[PinPart, ...]


@dataclass(frozen=True, slots=True)
class BucketJournalRecord:
    """One sealed body (canonical JSON lines) of what a bucket restore did."""

    kind: ClassVar[str] = "bucket_journal"
    bucket: str
    journal: str
    """Id of the restore, spelled as backup ids."""
    n: int
    digest: str
    len: int
    object: StoredObject
